/* A rate over the last minute, as a small picture: a filled line, the newest value at the right. */

import { HISTORY } from "./store.js";
import { setAttribute, svg } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 20;

/** Return { node, draw(history) }; pictures say nothing that no number beside them says, so they are hidden from screen readers. */
export function sparkline(kind = "in") {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const node = svg(
    "svg",
    { class: `spark ${kind}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    line,
  );
  return {
    node,
    draw(history) {
      const points = history.isFlat ? "" : path(history.values);
      setAttribute(line, "d", points);
      setAttribute(area, "d", points && `${points}V${HEIGHT}H${x(0, history.values.length)}Z`);
    },
  };
}

function path(values) {
  const max = Math.max(...values);
  const y = (value) => Math.round((1 - value / max) * (HEIGHT - 2)) + 1;
  return values.map((value, at) => `${at ? "L" : "M"}${x(at, values.length)} ${y(value)}`).join("");
}

function x(at, length) {
  return Math.round(((HISTORY - length + at) / (HISTORY - 1)) * WIDTH);
}
