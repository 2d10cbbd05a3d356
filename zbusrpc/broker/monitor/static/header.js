/* The head of the page: whose it is, whether it is connected, the totals of the set, the theme, and who is logged in. */

import { el, setAttribute, setText } from "./dom.js";
import { compact, rate, span } from "./format.js";
import { sparkline } from "./sparkline.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["system", "light", "dark"];
const THEME_NAMES = { system: "◐ Auto", light: "○ Light", dark: "● Dark" };

/** Show the connection and the broker; call it again each second while there is no connection. */
export function drawConnection({ store, cluster }) {
  const { isLive, isDenied, error, retryAtMs } = cluster.own;
  const server = store.serverOf(store.own);
  setText($("who"), server ? `${server.address} · ${server.version}` : location.host);
  document.title = server ? `${server.address} · zbusrpc monitor` : "zbusrpc monitor";
  const state = isLive ? "live" : isDenied ? "denied" : "lost";
  const words = {
    live: server?.state === "draining" ? "draining" : "live",
    denied: "not logged in",
    lost: "not connected",
  };
  $("state").dataset.state = state;
  setText($("state"), words[state]);
  const waitS = Math.max(0, Math.ceil((retryAtMs - Date.now()) / 1000));
  const banner = $("banner");
  const missing = [...store.missing.keys()].join(", ");
  const isAway = !isLive && !isDenied;
  banner.hidden = isLive ? !missing : !error && !isDenied;
  setText(
    banner.firstChild,
    isAway
      ? `No connection to the broker; what is shown is of before. Next try in ${span(waitS)}. `
      : isDenied
        ? `${error} `
        : `Gone: ${missing}. What it has is not shown, and in no total. `,
  );
  $("retry").hidden = !isAway;
  $("forget").hidden = !isLive;
}

/** Make the parts of the head that are buttons. */
export function makeHeader({ cluster, onSearch, onLogin }) {
  $("banner").append(
    el("span"),
    el("button", { type: "button", id: "retry", class: "quiet", onclick: () => cluster.retryNow() }, "Try now"),
    el("button", { type: "button", id: "forget", class: "quiet", onclick: () => cluster.forgetMissing() }, "Forget"),
  );
  makeTheme();
  $("login").addEventListener("click", onLogin);
  const search = $("search");
  search.addEventListener("input", () => onSearch(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    if (search.value) onSearch((search.value = ""));
    else search.blur();
  });
  addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select, dialog");
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    search.focus();
    search.select();
  });
}

/** Show what is searched for, unless somebody is typing it. */
export function drawSearch(text) {
  if (document.activeElement !== $("search")) $("search").value = text;
}

/** Show who is logged in: without tokens there is nothing to log in to. */
export function drawLogin({ store, cluster }) {
  const rights = store.serverOf(store.own)?.rights;
  $("login").hidden = !rights?.has_tokens && !cluster.own.isDenied;
  setText($("login"), isLoggedIn({ store, cluster }) ? `Log out ${rights.name}` : "Log in");
}

/** Whether the own broker knows a token of ours. */
export function isLoggedIn({ store, cluster }) {
  const rights = store.serverOf(store.own)?.rights;
  return Boolean(rights?.has_tokens) && !rights.is_anonymous && !cluster.own.isDenied;
}

/** Show the totals of the set. */
export function makeTotals(store) {
  const parts = [
    ["Messages in", "in", () => store.totals.in_rate, (value) => `${rate(value)}/s`],
    ["Messages out", "out", () => store.totals.out_rate, (value) => `${rate(value)}/s`],
    ["Calls", "in", () => store.totals.call_rate, (value) => `${rate(value)}/s`],
    ["Lag of all groups", "", () => store.all("groups").reduce((sum, { lag }) => sum + lag, 0), compact],
    ["Consumers", "", () => store.all("topics").reduce((sum, { consumers }) => sum + consumers, 0), compact],
  ].map(([name, kind, read, show]) => {
    const value = el("dd");
    const picture = kind ? sparkline(kind) : null;
    $("totals").append(el("div", {}, el("dt", {}, name), value, picture?.node ?? ""));
    return () => {
      const now = read();
      if (picture) picture.draw(now);
      setText(value, show(picture ? (now.values.at(-1) ?? 0) : now));
    };
  });
  return () => parts.forEach((draw) => draw());
}

function makeTheme() {
  const root = document.documentElement;
  const draw = () => {
    const name = THEME_NAMES[root.dataset.theme];
    setText($("theme"), name);
    setAttribute($("theme"), "aria-label", `Theme: ${name.slice(2)}`);
    setAttribute($("theme"), "title", "Light, dark, or as the system is");
  };
  $("theme").addEventListener("click", () => {
    root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
    draw();
    localStorage.setItem("zbusrpc-theme", root.dataset.theme);
  });
  draw();
}
