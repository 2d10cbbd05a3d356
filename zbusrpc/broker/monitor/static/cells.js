/* Cells that several tables have in common. Each makes its elements once and returns update(row). */

import { el, setAttribute, setChildren, setText } from "./dom.js";
import { compact, percent, rate } from "./format.js";
import { sparkline } from "./sparkline.js";
import { isNil } from "./table.js";

/** A column of a table that counts something: the field of its name. */
export function countColumn(id, title, options) {
  return { id, title, isNumber: true, value: (row) => row[id], text: (row) => compact(row[id]), ...options };
}

/** The name of a row: a button that opens its details. */
export function openerCell(open, textOf) {
  return (cell, record) => {
    const button = el("button", { type: "button", class: "link", onclick: () => open(record.row) });
    cell.append(button);
    return (row) => {
      setText(button, textOf(row));
      setAttribute(button, "title", textOf(row));
    };
  };
}

/** A rate with its last minute. */
export function rateCell(store, field, kind) {
  return (cell) => {
    const value = el("span");
    const picture = sparkline(kind);
    cell.append(picture.node, value);
    cell.classList.add("rate");
    return (row) => {
      setText(value, rate(row[field]));
      cell.classList.toggle("nil", isNil(value.textContent));
      picture.draw(store.history(row, field));
    };
  };
}

/** A share of one, as a bar and in words. */
export function shareCell(shareOf) {
  return (cell) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    const text = el("span");
    cell.append(bar, text);
    cell.classList.add("share");
    return (row) => {
      const share = shareOf(row);
      bar.style.setProperty("--share", Math.min(1, share ?? 0));
      bar.dataset.level = share > 0.9 ? "bad" : share > 0.7 ? "warn" : "good";
      setText(text, percent(share));
    };
  };
}

/** A number with a class while a condition holds. */
export function markedCell(textOf, mark, isMarked) {
  return (cell) => (row) => {
    setText(cell, textOf(row));
    cell.classList.toggle("nil", isNil(cell.textContent));
    cell.classList.toggle(mark, isMarked(row));
  };
}

/** Short words, each in its box: wordsOf(row) gives [[word, kind], ...]. */
export function wordsCell(wordsOf) {
  return (cell) => {
    let before = "";
    return (row) => {
      const words = wordsOf(row);
      const now = JSON.stringify(words);
      if (now !== before)
        setChildren(
          cell,
          words.map(([word, kind = ""]) => el("span", { class: `word ${kind}` }, word)),
        );
      before = now;
    };
  };
}
