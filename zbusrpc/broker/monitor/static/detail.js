/* The panel with the details of one row. It stays as the row changes, says so when the row has gone, and closes with Escape. */

import { el } from "./dom.js";

export class DetailPanel {
  #panel;
  #onClose;
  #key = "";
  #shown = null;

  constructor(panel, onClose) {
    this.#panel = panel;
    this.#onClose = onClose;
    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      event.preventDefault();
      onClose();
    });
  }

  /** Show the details that make() gives: { title, nodes, update() }; update() returns whether the row is still there. */
  show(key, make) {
    if (key !== this.#key) this.#replace(key, make);
    if (!this.#shown) return;
    const { details, gone, body } = this.#shown;
    gone.hidden = details.update();
    body.inert = !gone.hidden;
  }

  #replace(key, make) {
    const isFirst = this.#key === "";
    this.#key = key;
    this.#panel.hidden = key === "";
    document.documentElement.classList.toggle("with-detail", key !== "");
    if (key === "") {
      this.#shown = null;
      this.#panel.replaceChildren();
      return;
    }
    const details = make();
    const title = el("h2", { id: "detail-title", tabindex: "-1" }, details.title);
    const gone = el("p", { class: "error", role: "status", hidden: true }, "This is gone; below is what it was.");
    const close = el(
      "button",
      { type: "button", class: "quiet", "aria-label": "Close the details", onclick: this.#onClose },
      "×",
    );
    const body = el("div", { class: "body" }, details.nodes);
    this.#panel.replaceChildren(el("header", {}, title, close), gone, body);
    this.#panel.setAttribute("aria-labelledby", "detail-title");
    this.#panel.scrollTop = 0;
    this.#shown = { details, gone, body };
    if (isFirst || !this.#panel.contains(document.activeElement)) title.focus({ preventScroll: true });
  }

  /** Whether it shows this. */
  isOpen(key) {
    return this.#key === key;
  }
}
