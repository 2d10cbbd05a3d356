/* The brokers of the set. */

import { actionButton } from "../actions.js";
import { openerCell, shareCell, wordsCell } from "../cells.js";
import { isWebUrl } from "../cluster.js";
import { el } from "../dom.js";
import { factList, part } from "../facts.js";
import { bytes, compact, moment, number, rate, span } from "../format.js";

const STATES = { live: "good", draining: "warn", gone: "bad", lost: "bad" };

export function serversView({ store, actions, open }) {
  return {
    id: "servers",
    noun: "broker",
    title: "Servers",
    caption: "Brokers of this set",
    rows: () => store.servers(),
    words: (row) => [row.address, row.version, stateOf(store, row)],
    empty: ["No broker is known", "The list comes with the connection to the broker of this page."],
    columns: [
      { id: "address", title: "Address", rank: 1, value: (row) => row.address, cell: openerCell(open, (row) => row.address) },
      { id: "state", title: "State", rank: 1, value: (row) => stateOf(store, row), cell: wordsCell((row) => statesOf(store, row)) },
      { id: "version", title: "Version", rank: 3, value: (row) => row.version },
      { id: "uptime", title: "Up for", isNumber: true, rank: 2, value: (row) => row.uptime_s, text: (row) => span(row.uptime_s) },
      { id: "load", title: "Load", isNumber: true, isLive: true, rank: 1, hint: "Share of one processor core", value: (row) => row.load, cell: shareCell((row) => row.load) },
      { id: "memory", title: "Memory", isNumber: true, isLive: true, rank: 3, value: (row) => row.memory_bytes, text: (row) => bytes(row.memory_bytes) },
      { id: "in_rate", title: "In/s", isNumber: true, isLive: true, rank: 1, value: (row) => row.in_rate, text: (row) => rate(row.in_rate) },
      { id: "out_rate", title: "Out/s", isNumber: true, isLive: true, rank: 2, value: (row) => row.out_rate, text: (row) => rate(row.out_rate) },
      { id: "call_rate", title: "Calls/s", isNumber: true, isLive: true, rank: 2, value: (row) => row.call_rate, text: (row) => rate(row.call_rate) },
      { id: "topics", title: "Topics", isNumber: true, rank: 3, isTold: true, value: (row) => row.topics, text: (row) => compact(row.topics) },
      { id: "services", title: "Services", isNumber: true, rank: 3, isTold: true, value: (row) => row.services, text: (row) => compact(row.services) },
      { id: "sessions", title: "Connections", isNumber: true, rank: 3, value: (row) => row.sessions, text: (row) => compact(row.sessions) },
      { id: "seen_by", title: "Seen by", rank: 3, hint: "Trackers that list it", value: (row) => seenBy(row), text: seenBy },
    ],
    detail: (key) => serverDetail({ store, actions }, key),
  };
}

function stateOf(store, row) {
  return row.state === "live" && store.isStale(row.address) && !row.is_tracker_only ? "lost" : row.state;
}

function statesOf(store, row) {
  const words = [[stateOf(store, row), STATES[stateOf(store, row)]]];
  if (row.is_self) words.push(["this page", "plain"]);
  if (row.is_tracker_only) words.push(["tracker only", "plain"]);
  return words;
}

function seenBy(row) {
  return row.seen_by.length ? `${number(row.seen_by.length)}: ${row.seen_by.join(", ")}` : "nobody";
}

function serverDetail({ store, actions }, key) {
  const facts = factList();
  const error = el("p", { class: "error", hidden: true });
  const page = el("a", { target: "_blank", rel: "noreferrer" }, "Open its own page");
  const drain = actionButton("Drain …", () => actions.drain(store.find("servers", key)), { style: "danger" });
  return {
    title: key,
    nodes: [error, facts.node, page, part("Take it out", el("p", { class: "faint" }, "It takes no new work, lets consumers finish, and stops."), drain.node)],
    update() {
      const row = store.find("servers", key);
      if (!row) return false;
      const problem = store.brokers.get(key)?.error ?? "";
      error.hidden = !problem;
      error.textContent = problem;
      page.hidden = !isWebUrl(row.url);
      if (!page.hidden) page.href = row.url;
      drain.update(row.state === "draining" ? "it is draining already" : actions.refusal(key, "admin"));
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
