/* The monitor: rows of all brokers come in through the cluster, the route says what of them is shown. Everything is drawn at most
once a frame, and only what is looked at. */

import { Actions } from "./actions.js";
import { Cluster } from "./cluster.js";
import { DetailPanel } from "./detail.js";
import { drawConnection, drawLogin, drawSearch, isLoggedIn, makeHeader, makeTotals } from "./header.js";
import { logIn, logOut, openLogin } from "./login.js";
import { Route } from "./route.js";
import { Store } from "./store.js";
import { makeTabs } from "./tabs.js";
import { toast } from "./toast.js";
import { groupsView } from "./views/groups.js";
import { lettersView } from "./views/letters.js";
import { countOf, rowsView } from "./views/rows.js";
import { serversView } from "./views/servers.js";
import { servicesView } from "./views/services.js";
import { topicsView } from "./views/topics.js";

const $ = (id) => document.getElementById(id);
const MAKERS = [serversView, topicsView, groupsView, servicesView, lettersView];

const store = new Store();
const cluster = new Cluster(store);
const app = { store, cluster };
app.actions = new Actions(app);
app.open = (row) => route.go({ row: row.key });
app.openRow = (view, row) => route.go({ view, row, search: "" });
const views = MAKERS.map((make) => make(app));
const route = new Route(
  views.map(({ id }) => id),
  "topics",
);
const panes = new Map(views.map((view) => [view.id, rowsView(view, { store, open: app.open, route, draw })]));
const detail = new DetailPanel($("detail"), closeDetail);
const drawTotals = makeTotals(store);
const drawTabs = makeTabs($("tabs"), $("view"), views, (view) => route.go({ view, search: route.search }));
let isDrawing = false;

/** Show what there is, in the next frame. */
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    drawNow();
  });
}

function drawNow() {
  const { view: viewId, search, sort, row } = route;
  const view = views.find(({ id }) => id === viewId);
  const pane = panes.get(viewId);
  drawConnection(app);
  drawSearch(search);
  drawLogin(app);
  drawTotals();
  drawTabs(viewId, Object.fromEntries(views.map((each) => [each.id, countOf(each)])));
  if ($("view").firstChild !== pane.node) $("view").replaceChildren(pane.node);
  pane.update({ search, sort, openKey: row });
  const key =
    row && view.detail && (store.find(viewId, row) || detail.isOpen(`${viewId} ${row}`)) ? `${viewId} ${row}` : "";
  detail.show(key, () => view.detail(row));
}

function closeDetail() {
  const { row } = route;
  route.go({ row: "" });
  panes.get(route.view).focusRow(row);
}

function askForToken(reason) {
  openLogin(reason, async (token) => {
    const name = await logIn(token);
    cluster.restart(token);
    return `logged in as ${name}`;
  });
}

async function logInOrOut() {
  if (!isLoggedIn(app)) {
    askForToken("");
    return;
  }
  try {
    await logOut();
    cluster.restart("");
    toast("logged out");
  } catch (error) {
    toast(error.message, true);
  }
}

makeHeader({ cluster, onSearch: (search) => route.go({ search }), onLogin: logInOrOut });
route.addEventListener("change", drawNow);
cluster.addEventListener("change", draw);
cluster.addEventListener("denied", ({ detail: reason }) => askForToken(reason));
cluster.start();
setInterval(() => cluster.own.isLive || draw(), 1000);
draw();
