/* Topics: what is stored, and how fast it comes and goes. */

import { actionButton } from "../actions.js";
import { countColumn, markedCell, openerCell, rateCell, wordsCell } from "../cells.js";
import { el } from "../dom.js";
import { factList, linkList, optionFacts, part } from "../facts.js";
import { bytes, compact, count, moment, number, rate } from "../format.js";
import { sparkline } from "../sparkline.js";
import { messageBrowser } from "./messages.js";

export function topicsView({ store, cluster, actions, open, openRow }) {
  const declare = actionButton("Declare topic …", () => actions.declareTopic(), { style: "primary" });
  return {
    id: "topics",
    noun: "topic",
    title: "Topics",
    caption: "Topics whose messages are stored",
    rows: () => store.all("topics"),
    words: (row) => [row.topic, row.broker, row.durability, ...row.mask_names],
    tools: [declare.node],
    updateTools: () => declare.update(actions.refusal(store.own, "declare")),
    empty: ["There are no topics yet", "Declare one above, or produce to one: zbusrpc pub orders hello"],
    columns: [
      { id: "topic", title: "Topic", rank: 1, value: (row) => row.topic, cell: openerCell(open, (row) => row.topic) },
      { id: "broker", title: "Broker", rank: 2, value: (row) => row.broker },
      {
        id: "durability",
        title: "Kind",
        rank: 3,
        hint: "Durability, and the mask of zbus",
        value: (row) => row.durability,
        cell: wordsCell(kindsOf),
      },
      countColumn("messages", "Messages", { rank: 1 }),
      {
        id: "bytes",
        title: "Size",
        isNumber: true,
        rank: 3,
        value: (row) => row.bytes,
        text: (row) => bytes(row.bytes),
      },
      {
        id: "in_rate",
        title: "In/s",
        isNumber: true,
        isLive: true,
        rank: 1,
        value: (row) => row.in_rate,
        cell: rateCell(store, "in_rate", "in"),
      },
      {
        id: "out_rate",
        title: "Out/s",
        isNumber: true,
        isLive: true,
        rank: 2,
        value: (row) => row.out_rate,
        cell: rateCell(store, "out_rate", "out"),
      },
      {
        id: "groups",
        title: "Groups",
        isNumber: true,
        rank: 3,
        isTold: true,
        value: (row) => row.group_count,
        text: (row) => number(row.group_count),
      },
      countColumn("consumers", "Consumers", { rank: 2, isTold: true }),
      {
        id: "dead_letters",
        title: "Dead",
        isNumber: true,
        rank: 2,
        isTold: true,
        hint: "Dead letters that nobody has dealt with",
        value: (row) => row.dead_letters,
        cell: markedCell(deadOf, "bad", (row) => row.dead_letters > 0 && !row.is_dead_letter_topic),
      },
    ],
    detail: (key) => topicDetail({ store, cluster, actions, openRow }, key),
  };
}

function kindsOf(row) {
  const words = row.unreadable_because ? [["unreadable", "bad"]] : [[row.durability]];
  for (const name of row.mask_names) words.push([name, "plain"]);
  if (row.is_dead_letter_topic) words.push(["dead letters", "warn"]);
  if (row.options.rpc) words.push(["calls", "plain"]);
  if (row.closed_because) words.push(["closed", "bad"]);
  return words;
}

function faultOf(row) {
  if (row.unreadable_because) return `It cannot be read: ${row.unreadable_because}`;
  return row.closed_because ? `It takes no messages: ${row.closed_because}` : "";
}

function deadOf(row) {
  return row.is_dead_letter_topic ? "" : compact(row.dead_letters);
}

function topicDetail({ store, cluster, actions, openRow }, key) {
  const find = () => store.find("topics", key);
  const facts = factList();
  const options = factList();
  const fault = el("p", { class: "error", hidden: true });
  const incoming = chart("In", "in");
  const outgoing = chart("Out", "out");
  const groups = linkList((group) => openRow("groups", group), "No group yet: nobody consumes from it.");
  const letters = el("button", { type: "button", class: "link", onclick: () => openRow("letters", "") });
  const addGroup = actionButton("Declare group …", () => actions.declareGroup(find()));
  const empty = actionButton("Empty …", () => actions.emptyTopic(find()), { style: "danger" });
  const remove = actionButton("Remove …", () => actions.removeTopic(find()), { style: "danger" });
  const browser = messageBrowser({ cluster, find });
  return {
    title: find()?.topic ?? key,
    nodes: [
      fault,
      el("div", { class: "charts" }, incoming.node, outgoing.node),
      facts.node,
      letters,
      part("Groups", groups.node, el("div", { class: "buttons" }, addGroup.node)),
      part("Messages", browser.node),
      el("details", {}, el("summary", {}, "Options"), options.node),
      part("Change", el("div", { class: "buttons" }, empty.node, remove.node)),
    ],
    update() {
      const row = find();
      if (!row) return false;
      fault.hidden = !row.closed_because && !row.unreadable_because;
      fault.textContent = faultOf(row);
      incoming.draw(row.in_rate, store.history(row, "in_rate"));
      outgoing.draw(row.out_rate, store.history(row, "out_rate"));
      facts.update([
        ["Broker", row.broker],
        ["Durability", row.durability],
        ["Held back by", row.held_back_by || "nobody"],
        ["Mask", row.mask_names.join(" ") || "none"],
        ["Messages", number(row.messages)],
        ["Size", bytes(row.bytes)],
        ["Offsets", `${number(row.start_offset)} to ${number(row.next_offset)}`],
        ["Since start", `${number(row.produced)} produced`],
        ["Created", moment(row.created_ms)],
        ["Consumers", number(row.consumers)],
      ]);
      options.update(optionFacts(row.options));
      groups.update(
        store
          .groupsOf(row)
          .map((group) => [
            group.key,
            group.group,
            `lag ${compact(group.lag)} · ${count(group.consumers.length, "consumer")}`,
          ]),
      );
      letters.hidden = !row.dead_letters || row.is_dead_letter_topic;
      letters.textContent = count(row.dead_letters, "dead letter");
      addGroup.update(actions.refusal(row.broker, "declare", row.topic));
      empty.update(actions.refusal(row.broker, "empty", row.topic));
      remove.update(actions.refusal(row.broker, "remove", row.topic));
      browser.update(actions.refusal(row.broker, "query", row.topic));
      return true;
    },
  };
}

/** A rate of the last minute, larger. */
function chart(label, kind) {
  const value = el("b");
  const picture = sparkline(kind);
  return {
    node: el("figure", {}, el("figcaption", {}, `${label}, last minute `, value), picture.node),
    draw(now, history) {
      value.textContent = `${rate(now)}/s`;
      picture.draw(history);
    },
  };
}
