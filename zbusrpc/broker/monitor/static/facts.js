/* What details consist of: facts with their names, and parts with a heading. */

import { el, setChildren, setText } from "./dom.js";

/** Return { node, update(facts) } of [[name, text, kind], ...]. */
export function factList() {
  const node = el("dl", { class: "facts" });
  const parts = new Map();
  return {
    node,
    update(facts) {
      for (const [name, text, kind = ""] of facts) {
        if (!parts.has(name)) parts.set(name, { value: el("dd"), box: null });
        const part = parts.get(name);
        part.box ??= el("div", {}, el("dt", {}, name), part.value);
        setText(part.value, String(text));
        part.value.className = kind;
      }
      setChildren(
        node,
        facts.map(([name]) => parts.get(name).box),
      );
    },
  };
}

/** A part of the details with its heading. */
export function part(title, ...children) {
  return el("section", {}, el("h3", {}, title), children);
}

/** Options as facts: what is set, by name. */
export function optionFacts(options) {
  return Object.entries(options).map(([name, value]) => [
    name,
    value === null ? "–" : JSON.stringify(value).replace(/^"|"$/g, ""),
  ]);
}

/** A list of rows with buttons that open them: { node, update([[key, text, note], ...]) }. */
export function linkList(open, empty) {
  const node = el("ul", { class: "links" });
  const parts = new Map();
  const nothing = el("li", { class: "faint" }, empty);
  return {
    node,
    update(items) {
      for (const [key, text, note] of items) {
        if (!parts.has(key)) {
          const button = el("button", { type: "button", class: "link", onclick: () => open(key) }, text);
          const small = el("small");
          parts.set(key, { item: el("li", {}, button, " ", small), small });
        }
        setText(parts.get(key).small, note);
      }
      setChildren(node, items.length ? items.map(([key]) => parts.get(key).item) : [nothing]);
    },
  };
}
