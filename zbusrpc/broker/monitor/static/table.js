/* A table of live rows. Rows keep their elements as long as they exist, so focus, selection and scrolling stay where they are.

A column is { id, title, value(row), ... } with

    text(row)          what the cell shows; by default the value
    cell(td, record)   makes the cell's elements, and returns update(row); `record.row` is the row at any time. Instead of text
    isFixed            it is no value to sort by
    isNumber           aligned to the right, and sorted from the largest first
    isLive             changes all the time: while somebody points at the table its order rests
    isTold             a change is shown by a short highlight
    rank               1 is always there, 2 and 3 give way on narrow screens
    hint               what the title means */

import { el, setAttribute, setChildren, setText } from "./dom.js";
import { NOTHING, number } from "./format.js";

const ROWS_SHOWN = 200;
const collator = new Intl.Collator("en", { numeric: true });

export class Table {
  #columns;
  #options;
  #records = new Map(); // by the key of the row
  #limit = ROWS_SHOWN;
  #sort = "";
  #order = []; // the keys as they are shown
  #known = null; // the keys of all rows there were, or null before there were any

  /** Take { columns, caption, onSort(sort), onOpen(row), label(row) }; the first column sorts unless told otherwise. */
  constructor(columns, options) {
    this.#columns = columns;
    this.#options = options;
    this.headers = new Map(columns.map((column) => [column.id, this.#header(column)]));
    this.caption = el("caption", {}, options.caption);
    this.body = el("tbody", { onclick: (event) => this.#click(event) });
    const table = el("table", {}, this.caption, el("thead", {}, el("tr", {}, [...this.headers.values()])), this.body);
    this.more = el("button", { class: "more", type: "button", onclick: () => this.#showMore() });
    this.node = el(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": options.caption },
      table,
      this.more,
    );
  }

  /** Show `rows` of `all`, in the order of `sort` ("-lag" is by lag, largest first), with the one of `openKey` marked.
      Rows that come after it is ready are new, which a highlight tells. */
  update(rows, { all, isReady, sort, openKey, hiddenColumns = [] }) {
    this.#sort = sort || this.#columns[0].id;
    for (const [id, header] of this.headers) this.#drawHeader(id, header, hiddenColumns.includes(id));
    const shown = this.#sorted(rows).slice(0, this.#limit);
    const records = new Map(shown.map((row) => [row.key, this.#records.get(row.key) ?? this.#makeRecord(row)]));
    this.#records = records;
    setChildren(
      this.body,
      [...records.values()].map((record) => record.node),
    );
    for (const row of shown) this.#draw(records.get(row.key), row, openKey, hiddenColumns);
    this.#order = shown.map((row) => row.key);
    this.#known = isReady ? new Set(all.map((row) => row.key)) : null;
    this.more.hidden = rows.length <= shown.length;
    setText(this.more, `Show more: ${number(rows.length - shown.length)} are left`);
  }

  /** Move the focus to the opener of a row. */
  focus(key) {
    this.#records.get(key)?.node.querySelector("button")?.focus();
  }

  // -- headers -----------------------------------------------------------------------------------------------

  #header(column) {
    const button = el(
      "button",
      { type: "button", title: column.hint, onclick: () => this.#sortBy(column) },
      column.title,
    );
    return el(
      "th",
      { scope: "col", class: classes(column) },
      column.isFixed ? el("span", { class: "hidden" }, column.title) : button,
    );
  }

  #drawHeader(id, header, isHidden) {
    const isSorted = this.#sort.replace("-", "") === id;
    header.hidden = isHidden;
    setAttribute(header, "aria-sort", isSorted ? (this.#sort.startsWith("-") ? "descending" : "ascending") : null);
  }

  #sortBy(column) {
    const first = column.isNumber ? `-${column.id}` : column.id;
    const other = column.isNumber ? column.id : `-${column.id}`;
    this.#order = [];
    this.#options.onSort(this.#sort === first ? other : first);
  }

  // -- rows --------------------------------------------------------------------------------------------------

  #sorted(rows) {
    const isDown = this.#sort.startsWith("-");
    const column = this.#columns.find(({ id }) => id === this.#sort.replace("-", "")) ?? this.#columns[0];
    const byName = this.#columns[0].value;
    const sign = isDown ? -1 : 1;
    const sorted = [...rows].sort(
      (a, b) =>
        sign * compare(column.value(a), column.value(b)) || compare(byName(a), byName(b)) || compare(a.key, b.key),
    );
    if (!column.isLive || !this.body.matches(":hover, :focus-within")) return sorted;
    const places = new Map(this.#order.map((key, place) => [key, place]));
    return sorted.sort((a, b) => (places.get(a.key) ?? Infinity) - (places.get(b.key) ?? Infinity) || 0);
  }

  #makeRecord(row) {
    const isNew = this.#known !== null && !this.#known.has(row.key); // and not merely shown for the first time
    const record = { row, node: el("tr", { class: isNew ? "fresh" : "" }), cells: [] };
    for (const column of this.#columns) {
      const cell = column === this.#columns[0] ? el("th", { scope: "row" }) : el("td");
      cell.className = classes(column);
      cell.dataset.column = column.id;
      const update = column.cell ? column.cell(cell, record) : textCell(cell, column);
      record.cells.push({ column, cell, update });
      record.node.append(cell);
    }
    record.node.addEventListener("animationend", () => record.node.classList.remove("fresh"));
    record.node.record = record;
    return record;
  }

  #draw(record, row, openKey, hiddenColumns) {
    record.row = row;
    record.node.classList.toggle("open", row.key === openKey);
    record.node.classList.toggle("stale", this.#options.isStale(row));
    for (const { column, cell, update } of record.cells) {
      cell.hidden = hiddenColumns.includes(column.id);
      update(row);
    }
  }

  #showMore() {
    this.#limit += ROWS_SHOWN;
    this.#options.onMore();
  }

  #click(event) {
    if (event.target.closest("button, a, input") || getSelection().type === "Range") return;
    const record = event.target.closest("tr")?.record;
    if (record) this.#options.onOpen(record.row);
  }
}

/** A cell with one line of text. */
function textCell(cell, column) {
  let isFirst = true;
  return (row) => {
    const value = column.text ? column.text(row) : column.value(row);
    const text = String(value ?? "");
    if (setText(cell, text) && !isFirst && column.isTold) highlight(cell);
    if (column.isNumber) cell.classList.toggle("nil", isNil(text));
    isFirst = false;
  };
}

/** Whether a text says that there is nothing: such numbers step back. */
export function isNil(text) {
  return text === "0" || text === "0 %" || text === NOTHING;
}

function highlight(cell) {
  cell.classList.remove("changed");
  void cell.offsetWidth; // the animation begins anew
  cell.classList.add("changed");
}

function classes(column) {
  return [column.isNumber && "number", column.rank && `rank${column.rank}`].filter(Boolean).join(" ");
}

function compare(a, b) {
  if (typeof a === "string" && typeof b === "string") return collator.compare(a, b);
  return (a ?? -Infinity) - (b ?? -Infinity) || 0;
}
