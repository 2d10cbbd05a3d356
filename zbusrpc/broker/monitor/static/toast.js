/* Short notes of what has happened, at the edge of the page. */

import { el } from "./dom.js";

const TOASTS_MAX = 4;
const SHOWN_MS = 6_000;
const ERROR_SHOWN_MS = 20_000;

/** Show a line; errors stay for longer. */
export function toast(text, isError = false) {
  const region = document.getElementById("toasts");
  const close = el(
    "button",
    { type: "button", class: "quiet", "aria-label": "Close this note", onclick: () => note.remove() },
    "×",
  );
  const note = el("p", { class: isError ? "toast error" : "toast" }, el("span", {}, text), close);
  region.append(note);
  while (region.children.length > TOASTS_MAX) region.firstChild.remove();
  setTimeout(() => note.remove(), isError ? ERROR_SHOWN_MS : SHOWN_MS);
}
