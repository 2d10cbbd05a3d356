/* The messages of a topic, looked at without consuming them. */

import { field } from "../dialog.js";
import { el, setAttribute } from "../dom.js";
import { bytes, count, line, moment, number } from "../format.js";
import { pretty } from "../json.js";
import { topicPath, withQuery } from "../paths.js";
import { startField, startText } from "../start.js";
import { toast } from "../toast.js";

const COUNT = 20;
const COUNT_MAX = 1000;

/** Return { node, update(reason) } for the topic that find() gives. */
export function messageBrowser({ cluster, find }) {
  const start = startField("From", "last", ["last", "oldest", "offset", "time", "id"]);
  const size = el("input", { type: "number", min: "1", max: String(COUNT_MAX), value: String(COUNT), required: true });
  const filter = el("input", { autocomplete: "off", spellcheck: "false", placeholder: "eu.*" });
  const show = el("button", { class: "primary" }, "Browse");
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const note = el("p", { class: "faint", role: "status" });
  const list = el("ol", { class: "messages", "aria-label": "Messages" });
  const earlier = el(
    "button",
    { type: "button", class: "quiet", hidden: true, onclick: () => run(loadEarlier) },
    "Earlier",
  );
  const later = el(
    "button",
    { type: "button", class: "quiet", hidden: true, onclick: () => run(loadLater) },
    "Load more",
  );
  const form = el(
    "form",
    { class: "browse", onsubmit: (event) => (event.preventDefault(), run(loadFirst)) },
    start.node,
    field("Count", size),
    field("Tags", filter),
    show,
  );
  let first = 0; // the offsets that are shown: from here
  let next = 0; // up to here
  let end = 0; // and there is nothing from here on
  let isLoading = false;
  let refused = "";

  async function peek(from, wanted) {
    const row = find();
    const path = withQuery(topicPath(row.topic, "messages"), {
      start: startText(from),
      count: wanted,
      filter: filter.value.trim(),
    });
    return cluster.result(row.broker, "GET", path);
  }

  async function loadFirst() {
    const wanted = Number(size.value);
    const row = find();
    const from =
      start.kind === "last" ? { offset: Math.max(row.start_offset, row.next_offset - wanted) } : start.read();
    const answer = await peek(from, wanted);
    first = from.offset ?? answer.messages[0]?.offset ?? answer.next_offset;
    list.replaceChildren(...answer.messages.map(messageItem));
    drawEnds(answer);
  }

  async function loadLater() {
    const answer = await peek({ offset: next }, Number(size.value));
    list.append(...answer.messages.map(messageItem));
    drawEnds(answer);
  }

  async function loadEarlier() {
    const from = Math.max(find().start_offset, first - Number(size.value));
    const answer = await peek({ offset: from }, Math.max(1, first - from));
    list.prepend(...answer.messages.filter(({ offset }) => offset < first).map(messageItem));
    first = from;
    drawEnds({ next_offset: next, end_offset: end });
  }

  function drawEnds({ next_offset, end_offset }) {
    [next, end] = [next_offset, end_offset];
    earlier.hidden = first <= find().start_offset;
    later.hidden = next >= end;
    const shown = list.children.length;
    note.textContent = shown
      ? `${count(shown, "message")}, up to offset ${number(next)} of ${number(end)}`
      : "No message there. Try Oldest message, or no tags.";
  }

  async function run(load) {
    if (isLoading) return;
    if (refused) {
      toast(refused, true);
      return;
    }
    error.hidden = true;
    isLoading = true;
    try {
      await load();
    } catch (failure) {
      error.textContent = failure.message;
      error.hidden = false;
    }
    isLoading = false;
  }

  return {
    node: el("div", {}, form, error, earlier, list, later, note),
    update(reason) {
      refused = reason;
      setAttribute(show, "aria-disabled", reason ? "true" : null);
      setAttribute(show, "title", reason || null);
    },
  };
}

/** One message: a line, and when it is opened all of it. */
export function messageItem(message) {
  const body = message.body ?? "";
  const summary = el(
    "summary",
    {},
    el("span", { class: "offset" }, number(message.offset)),
    el("span", { class: "time" }, moment(message.timestamp_ms)),
    message.tag && el("span", { class: "word plain" }, message.tag),
    message.key && el("span", { class: "word plain" }, `key ${message.key}`),
    el("span", { class: "preview" }, message.body === null ? `binary, ${bytes(message.size)}` : line(body) || "empty"),
  );
  const details = el("details", {}, summary);
  details.addEventListener(
    "toggle",
    () => details.open && details.children.length === 1 && details.append(...fullMessage(message)),
  );
  return el("li", {}, details);
}

/** Everything about a message. */
export function fullMessage(message) {
  const facts = [
    ["id", message.id],
    ["tag", message.tag],
    ["key", message.key],
    ["size", bytes(message.size)],
  ];
  if (message.due_ms) facts.push(["due", moment(message.due_ms)]);
  if (message.expiry_ms) facts.push(["expires", moment(message.expiry_ms)]);
  const shown = message.body === null ? message.body_base64 : (pretty(message.body) ?? message.body);
  const isCut = message.body !== null && new TextEncoder().encode(message.body).length < message.size;
  const caption = message.body === null ? "Body, as base64" : "Body";
  const rows = [...facts.filter(([, value]) => value), ...Object.entries(message.headers)];
  return [
    el(
      "dl",
      { class: "headers" },
      rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))),
    ),
    el("p", { class: "faint" }, isCut ? `${caption}, the beginning of it` : caption),
    el("pre", { tabindex: "0", "aria-label": "Body" }, shown),
  ];
}
