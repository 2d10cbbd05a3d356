/* The brokers of the set. */

import { actionButton } from "../actions.js";
import { countColumn, openerCell, shareCell, wordsCell } from "../cells.js";
import { isWebUrl } from "../cluster.js";
import { el, setAttribute } from "../dom.js";
import { factList, part } from "../facts.js";
import { bytes, moment, number, rate, span } from "../format.js";
import { openLogin } from "../login.js";

const STATES = { live: "good", draining: "warn", ended: "warn", gone: "bad", lost: "bad", "not logged in": "warn" };

export function serversView({ store, cluster, actions, open }) {
  return {
    id: "servers",
    noun: "broker",
    title: "Servers",
    caption: "Brokers of this set",
    rows: () => store.servers(),
    words: (row) => [row.address, row.version, stateOf(store, row)],
    empty: ["No broker is known", "The list comes with the connection to the broker of this page."],
    columns: [
      { id: "address", title: "Address", rank: 1, value: (row) => row.address, cell: addressCell(open) },
      {
        id: "state",
        title: "State",
        rank: 1,
        value: (row) => stateOf(store, row),
        cell: wordsCell((row) => statesOf(store, row)),
      },
      { id: "version", title: "Version", rank: 3, value: (row) => row.version },
      {
        id: "uptime",
        title: "Up for",
        isNumber: true,
        rank: 2,
        value: (row) => row.uptime_s,
        text: (row) => span(row.uptime_s),
      },
      {
        id: "load",
        title: "Load",
        isNumber: true,
        isLive: true,
        rank: 2,
        hint: "Share of one processor core",
        value: (row) => row.load,
        cell: shareCell((row) => row.load),
      },
      {
        id: "memory",
        title: "Memory",
        isNumber: true,
        isLive: true,
        rank: 3,
        value: (row) => row.memory_bytes,
        text: (row) => bytes(row.memory_bytes),
      },
      {
        id: "in_rate",
        title: "In/s",
        isNumber: true,
        isLive: true,
        rank: 1,
        value: (row) => row.in_rate,
        text: (row) => rate(row.in_rate),
      },
      {
        id: "out_rate",
        title: "Out/s",
        isNumber: true,
        isLive: true,
        rank: 2,
        value: (row) => row.out_rate,
        text: (row) => rate(row.out_rate),
      },
      {
        id: "call_rate",
        title: "Calls/s",
        isNumber: true,
        isLive: true,
        rank: 2,
        value: (row) => row.call_rate,
        text: (row) => rate(row.call_rate),
      },
      countColumn("topics", "Topics", { rank: 3, isTold: true }),
      countColumn("services", "Services", { rank: 3, isTold: true }),
      countColumn("sessions", "Connections", { rank: 3 }),
      {
        id: "seen_by",
        title: "Seen by",
        rank: 3,
        hint: "How many of the brokers that are there list it",
        value: (row) => row.seen_by.length,
        text: (row) => `${number(row.seen_by.length)} of ${number(store.listers)}`,
      },
      { id: "drain", title: "Act", rank: 3, isFixed: true, value: (row) => row.address, cell: drainCell(actions) },
    ],
    detail: (key) => serverDetail({ store, cluster, actions }, key),
  };
}

/** The address, which opens the details, and a link to the broker's own page. */
function addressCell(open) {
  const opener = openerCell(open, (row) => row.address);
  return (cell, record) => {
    const update = opener(cell, record);
    const page = el("a", { target: "_blank", rel: "noreferrer", class: "page" }, "↗");
    cell.append(" ", page);
    return (row) => {
      update(row);
      page.hidden = row.is_self || !isWebUrl(row.url);
      if (page.hidden) return;
      setAttribute(page, "href", row.url);
      setAttribute(page, "aria-label", `The page of ${row.address}`);
    };
  };
}

function drainCell(actions) {
  return (cell, record) => {
    const drain = actionButton("Drain …", () => actions.drain(record.row));
    cell.append(drain.node);
    return (row) => drain.update(whyNotDrained(actions, row));
  };
}

function whyNotDrained(actions, row) {
  if (row.state === "gone") return "it is gone";
  return row.state === "draining" ? "it is draining already" : actions.refusal(row.address, "admin");
}

function stateOf(store, row) {
  const broker = store.brokers.get(row.address);
  if (broker?.isDenied) return "not logged in";
  if (row.state !== "live" || broker?.isLive) return row.state;
  return broker?.hasEnded ? "ended" : "lost";
}

function statesOf(store, row) {
  const words = [[stateOf(store, row), STATES[stateOf(store, row)]]];
  if (row.is_self) words.push(["this page", "plain"]);
  if (row.is_tracker_only) words.push(["tracker only", "plain"]);
  if (row.journal_fails_because) words.push(["groups not stored", "bad"]);
  return words;
}

function faultOf(row) {
  if (!row.journal_fails_because) return "";
  return `What consume groups do is not stored, and a restart brings messages again: ${row.journal_fails_because}`;
}

function serverDetail({ store, cluster, actions }, key) {
  const facts = factList();
  const error = el("p", { class: "error", hidden: true });
  const page = el("a", { target: "_blank", rel: "noreferrer" }, "Open its own page");
  const drain = actionButton("Drain …", () => actions.drain(store.find("servers", key)), { style: "danger" });
  const login = actionButton("Log in …", () =>
    openLogin(`${key} wants a token.`, (token) => cluster.logIn(key, token)),
  );
  return {
    title: key,
    nodes: [
      error,
      login.node,
      facts.node,
      page,
      part(
        "Take it out",
        el("p", { class: "faint" }, "It takes no new work, lets consumers finish, and stops."),
        el("div", { class: "buttons" }, drain.node),
      ),
    ],
    update() {
      const row = store.find("servers", key);
      if (!row) return false;
      const problem = [store.brokers.get(key)?.error, faultOf(row)].filter(Boolean).join(" ");
      error.hidden = !problem;
      error.textContent = problem;
      login.node.hidden = row.is_self || !store.brokers.get(key)?.isDenied;
      page.hidden = !isWebUrl(row.url);
      if (!page.hidden) page.href = row.url;
      drain.update(whyNotDrained(actions, row));
      facts.update([
        ["State", stateOf(store, row)],
        ["Version", row.version],
        ["Started", moment(row.started_ms)],
        ["Up for", span(row.uptime_s)],
        ["Memory", bytes(row.memory_bytes)],
        ["Topics", number(row.topics)],
        ["Services", number(row.services)],
        ["Consumers", number(row.consumers)],
        ["Connections", number(row.sessions)],
        ["In", `${rate(row.in_rate)}/s`],
        ["Out", `${rate(row.out_rate)}/s`],
        ["Calls", `${rate(row.call_rate)}/s`],
        ["Seen by", row.seen_by.join(", ") || "nobody"],
        ["Its trackers", row.trackers.join(", ") || "none"],
      ]);
      return true;
    },
  };
}
