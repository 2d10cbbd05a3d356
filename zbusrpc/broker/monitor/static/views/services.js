/* Services: their instances and methods, how fast they answer, and a form to call them. */

import { countColumn, markedCell, openerCell, rateCell, wordsCell } from "../cells.js";
import { el } from "../dom.js";
import { factList, part } from "../facts.js";
import { count, milliseconds, number, percent, rate } from "../format.js";
import { servicePath } from "../paths.js";
import { callForm } from "./call.js";

export function servicesView({ store, cluster, actions, open }) {
  return {
    id: "services",
    noun: "service",
    title: "Services",
    caption: "Services that answer calls",
    rows: () => store.all("services"),
    words: (row) => [row.service, row.broker, row.version, ...row.methods],
    empty: ["There are no services yet", "Start one: zbusrpc serve calc:Calc --broker HOST:PORT"],
    columns: [
      {
        id: "service",
        title: "Service",
        rank: 1,
        value: (row) => row.service,
        cell: openerCell(open, (row) => row.service),
      },
      { id: "broker", title: "Broker", rank: 2, value: (row) => row.broker },
      { id: "state", title: "State", rank: 2, value: (row) => stateOf(row)[0], cell: wordsCell(statesOf) },
      { id: "version", title: "Version", rank: 3, value: (row) => row.version },
      {
        id: "instances",
        title: "Instances",
        isNumber: true,
        isTold: true,
        rank: 1,
        value: (row) => row.instances.length,
        text: (row) => number(row.instances.length),
      },
      countColumn("queued", "Queued", { isLive: true, rank: 3, hint: "Calls that wait for an instance" }),
      {
        id: "methods",
        title: "Methods",
        isNumber: true,
        rank: 3,
        value: (row) => row.methods.length,
        text: (row) => number(row.methods.length),
      },
      {
        id: "rate",
        title: "Calls/s",
        isNumber: true,
        isLive: true,
        rank: 1,
        value: (row) => row.rate,
        cell: rateCell(store, "rate", "in"),
      },
      {
        id: "error_rate",
        title: "Errors",
        isNumber: true,
        isLive: true,
        rank: 2,
        hint: "Share of calls in the last seconds",
        value: (row) => row.error_rate,
        cell: markedCell(
          (row) => percent(row.error_rate),
          "bad",
          (row) => row.error_rate > 0,
        ),
      },
      {
        id: "p50",
        title: "p50",
        isNumber: true,
        isLive: true,
        rank: 2,
        hint: "So long half of the calls take at most",
        value: (row) => row.p50_ms,
        text: (row) => milliseconds(row.p50_ms),
      },
      {
        id: "p99",
        title: "p99",
        isNumber: true,
        isLive: true,
        rank: 2,
        hint: "So long 99 of 100 calls take at most",
        value: (row) => row.p99_ms,
        text: (row) => milliseconds(row.p99_ms),
      },
    ],
    detail: (key) => serviceDetail({ store, cluster, actions }, key),
  };
}

function stateOf(row) {
  if (!row.instances.length) return ["no instance", "bad"];
  if (row.not_everywhere.length) return ["methods differ", "warn"];
  return row.queued ? ["busy", "warn"] : ["live", "good"];
}

function statesOf(row) {
  return row.durable ? [stateOf(row), ["durable", "plain"]] : [stateOf(row)];
}

function serviceDetail({ store, cluster, actions }, key) {
  const find = () => store.find("services", key);
  const facts = factList();
  const instances = el("ul", { class: "plain" });
  const about = el("p", { class: "faint", hidden: true });
  const call = callForm({ cluster, find });
  const load = async () => {
    const row = find();
    try {
      const { interface: described } = await cluster.result(row.broker, "GET", servicePath(row.service));
      about.textContent = described?.doc ?? "";
      about.hidden = !about.textContent;
      call.describe(described?.methods ?? null, row.methods);
    } catch (error) {
      call.fail(error.message);
    }
  };
  let version = null;
  return {
    title: find()?.service ?? key,
    nodes: [about, facts.node, part("Instances", instances), part("Call a method", call.node)],
    update() {
      const row = find();
      if (!row) return false;
      const now = `${row.version} ${row.methods.join(" ")}`;
      if (now !== version && !store.isStale(row.broker)) load(); // another version has other methods
      version = now;
      call.update(actions.refusal(row.broker, "produce", row.service));
      facts.update([
        ["Broker", row.broker],
        ["State", stateOf(row)[0]],
        ["Version", row.version || "none"],
        ["Not at all instances", row.not_everywhere.join(", ") || "none"],
        ["Calls", `${rate(row.rate)}/s, ${number(row.calls)} in all`],
        ["Errors", `${percent(row.error_rate)}, ${number(row.errors)} in all`],
        ["p50, p99", `${milliseconds(row.p50_ms)}, ${milliseconds(row.p99_ms)}`],
        ["Queued", number(row.queued)],
        ["Calls are stored", row.durable ? "yes" : "no"],
      ]);
      drawInstances(instances, row.instances);
      return true;
    },
  };
}

function drawInstances(list, instances) {
  const lines = instances.map(
    (one) =>
      `${one.name || "no name"} · session ${one.session} · ${number(one.in_flight)} of ${count(one.window, "call")} at a time`,
  );
  const texts = lines.length ? lines : ["No instance is connected: calls wait until one is."];
  if ([...list.children].map((item) => item.textContent).join("\n") === texts.join("\n")) return;
  list.replaceChildren(...texts.map((text) => el("li", {}, text)));
}
