/* A place in a topic, as a person names it: oldest, newest, an offset, a time, an id. */

import { field, select } from "./dialog.js";
import { el } from "./dom.js";

const KINDS = {
  last: ["Last messages", null],
  oldest: ["Oldest message", null],
  newest: ["Newest: what comes from now on", null],
  offset: ["Offset", { inputmode: "numeric", placeholder: "0" }],
  time: ["Time", { type: "datetime-local", step: "1" }],
  id: ["Message id", { placeholder: "id" }],
};

/** Return { node, kind, read() }: read() gives a `start` as commands take it, or throws an error of one line. */
export function startField(label, chosen, kinds) {
  const choice = select(
    kinds.map((kind) => [kind, KINDS[kind][0]]),
    chosen,
  );
  const inputs = Object.fromEntries(
    kinds
      .filter((kind) => KINDS[kind][1])
      .map((kind) => [kind, el("input", { ...KINDS[kind][1], "aria-label": KINDS[kind][0], autocomplete: "off" })]),
  );
  const draw = () => Object.entries(inputs).forEach(([kind, input]) => (input.hidden = kind !== choice.value));
  choice.addEventListener("change", () => {
    draw();
    inputs[choice.value]?.focus();
  });
  draw();
  const node = el("div", { class: "start" }, field(label, choice), Object.values(inputs));
  return {
    node,
    get kind() {
      return choice.value;
    },
    read: () => readStart(choice.value, inputs[choice.value]?.value.trim()),
  };
}

function readStart(kind, text) {
  if (kind === "offset") {
    if (!/^\d{1,15}$/.test(text)) throw new Error(`an offset is a whole number from 0, not "${text}"`);
    return { offset: Number(text) };
  }
  if (kind === "time") {
    const ms = new Date(text).getTime();
    if (Number.isNaN(ms)) throw new Error("choose a date and a time");
    return { time_ms: ms };
  }
  if (kind === "id") {
    if (!text) throw new Error("which id?");
    return { id: text };
  }
  return kind;
}

/** Return a `start` as it stands in a URL. */
export function startText(start) {
  if (typeof start === "string") return start;
  if ("offset" in start) return `offset:${start.offset}`;
  return "time_ms" in start ? `time:${new Date(start.time_ms).toISOString()}` : `id:${start.id}`;
}
