/* Consume groups: how far behind they are, and with whom their messages are. */

import { actionButton } from "../actions.js";
import { countColumn, markedCell, openerCell, wordsCell } from "../cells.js";
import { el } from "../dom.js";
import { factList, optionFacts, part } from "../facts.js";
import { compact, moment, number, rate, span } from "../format.js";

export function groupsView({ store, actions, open, openRow }) {
  return {
    id: "groups",
    noun: "group",
    title: "Groups",
    caption: "Consume groups",
    rows: () => store.all("groups"),
    words: (row) => [row.group, row.topic, row.broker, row.filter, stateOf(row)[0]],
    empty: [
      "There are no consume groups yet",
      "A consumer makes one as it begins: zbusrpc sub orders --group billing. Or open a topic and declare one.",
    ],
    columns: [
      { id: "group", title: "Group", rank: 1, value: (row) => row.group, cell: openerCell(open, (row) => row.group) },
      { id: "topic", title: "Topic", rank: 1, value: (row) => row.topic },
      { id: "broker", title: "Broker", rank: 2, value: (row) => row.broker },
      {
        id: "state",
        title: "State",
        rank: 2,
        value: (row) => stateOf(row)[0],
        cell: wordsCell((row) => [stateOf(row)]),
      },
      {
        id: "lag",
        title: "Lag",
        isNumber: true,
        isLive: true,
        rank: 1,
        hint: "Messages that it is not done with",
        value: (row) => row.lag,
        cell: markedCell(
          (row) => compact(row.lag),
          "strong",
          (row) => row.lag > 0,
        ),
      },
      countColumn("in_flight", "In flight", { isLive: true, rank: 3, hint: "With a consumer now" }),
      countColumn("delayed", "Delayed", { rank: 3, hint: "Waiting for their time, or for the next attempt" }),
      {
        id: "oldest",
        title: "Oldest",
        isNumber: true,
        isLive: true,
        rank: 2,
        hint: "Age of the oldest message that is not acknowledged",
        value: (row) => ageOf(store, row),
        text: (row) => span(ageOf(store, row)),
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
        id: "consumers",
        title: "Consumers",
        isNumber: true,
        rank: 1,
        isTold: true,
        value: (row) => row.consumers.length,
        text: (row) => number(row.consumers.length),
      },
      countColumn("dead_letters", "Dead letters", { rank: 3, hint: "Messages that died in it, and wait to be dealt with" }),
      { id: "filter", title: "Filter", rank: 3, value: (row) => row.filter },
    ],
    detail: (key) => groupDetail({ store, actions, openRow }, key),
  };
}

function stateOf(row) {
  if (row.paused) return ["paused", "warn"];
  if (row.consumers.length) return ["active", "good"];
  return row.lag ? ["nobody consumes", "bad"] : ["idle", "plain"];
}

function ageOf(store, row) {
  return row.oldest_unacked_ms === null ? null : (store.nowMs(row.broker) - row.oldest_unacked_ms) / 1000;
}

function groupDetail({ store, actions, openRow }, key) {
  const find = () => store.find("groups", key);
  const facts = factList();
  const counters = factList();
  const options = factList();
  const consumers = el("ul", { class: "plain" });
  const topic = el("button", {
    type: "button",
    class: "link",
    onclick: () => openRow("topics", `${find().broker}/${find().topic}`),
  });
  const pause = actionButton("Pause …", () => actions.pauseGroup(find()));
  const seek = actionButton("Seek …", () => actions.seekGroup(find()));
  const empty = actionButton("Empty …", () => actions.emptyGroup(find()), { style: "danger" });
  const remove = actionButton("Remove …", () => actions.removeGroup(find()), { style: "danger" });
  return {
    title: find()?.group ?? key,
    nodes: [
      el("p", {}, "of topic ", topic),
      el("div", { class: "buttons" }, pause.node, seek.node, empty.node, remove.node),
      facts.node,
      part("Consumers", consumers),
      part("Since the broker started", counters.node),
      el("details", {}, el("summary", {}, "Options"), options.node),
    ],
    update() {
      const row = find();
      if (!row) return false;
      topic.textContent = row.topic;
      pause.node.textContent = row.paused ? "Resume …" : "Pause …";
      for (const [button, operation] of [
        [pause, "declare"],
        [seek, "declare"],
        [empty, "empty"],
        [remove, "remove"],
      ]) {
        button.update(actions.refusal(row.broker, operation, row.topic, row.group));
      }
      facts.update([
        ["Broker", row.broker],
        ["State", stateOf(row)[0]],
        ["Lag", number(row.lag)],
        ["Next offset", number(row.position)],
        ["In flight", number(row.in_flight)],
        ["Waiting", number(row.waiting)],
        ["Delayed", number(row.delayed)],
        ["Held behind their key", number(row.held)],
        ["On the way to dead letters", number(row.dead)],
        ["Dead letters", number(row.dead_letters)],
        ["Filter", row.filter || "all messages"],
        [
          "Oldest unacknowledged",
          row.oldest_unacked_ms === null ? "none" : `${span(ageOf(store, row))}, of ${moment(row.oldest_unacked_ms)}`,
        ],
        ["Out", `${rate(row.out_rate)}/s`],
      ]);
      counters.update(Object.entries(row.counters).map(([name, value]) => [name, number(value)]));
      options.update(optionFacts(row.options));
      drawConsumers(consumers, row.consumers);
      return true;
    },
  };
}

function drawConsumers(list, consumers) {
  const lines = consumers.map(
    (one) =>
      `${one.name || "no name"} · session ${one.session} · ${number(one.in_flight)} of ${number(one.window)} in flight`,
  );
  const texts = lines.length ? lines : ["Nobody consumes now."];
  if ([...list.children].map((item) => item.textContent).join("\n") === texts.join("\n")) return;
  list.replaceChildren(...texts.map((text) => el("li", {}, text)));
}
