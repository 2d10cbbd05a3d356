/* What all views have in common: tools, a table of the rows that the search leaves, and what to do while there are none. */

import { el, setText } from "../dom.js";
import { count, number } from "../format.js";
import { Table } from "../table.js";

/** Return { node, update({ search, sort, openKey }), focusRow(key) } of a view: see views/topics.js for what that is. */
export function rowsView(view, { store, open, route, draw }) {
  const note = el("p", { class: "faint", role: "status" });
  const tools = el("div", { class: "tools" }, note, view.tools ?? []);
  const [emptyTitle, emptyHint] = view.empty;
  const emptyHead = el("h2");
  const emptyText = el("p");
  const empty = el("div", { class: "empty" }, emptyHead, emptyText);
  const table = view.columns && makeTable(view, { store, open, route, draw });
  const content = table?.node ?? view.node;
  return {
    node: el("div", { class: "pane" }, tools, empty, content),
    update({ search, sort, openKey }) {
      const all = view.rows();
      const rows = matching(all, search, view.words);
      setText(
        note,
        search ? `${number(rows.length)} of ${number(all.length)} match "${search}"` : count(countOf(view), view.noun),
      );
      view.updateTools?.();
      empty.hidden = rows.length > 0;
      content.hidden = rows.length === 0;
      setText(
        emptyHead,
        all.length ? `Nothing matches "${search}"` : store.own ? emptyTitle : "Waiting for the broker",
      );
      setText(emptyText, all.length ? "Change the search above, or press Escape in it." : store.own ? emptyHint : "");
      if (table)
        table.update(rows, {
          all,
          isReady: store.own !== "",
          sort,
          openKey,
          hiddenColumns: store.brokers.size > 1 ? [] : ["broker"],
        });
      else view.update(rows);
    },
    focusRow: (key) => table?.focus(key),
  };
}

function makeTable(view, { store, open, route, draw }) {
  return new Table(view.columns, {
    caption: view.caption,
    onSort: (sort) => route.go({ sort }),
    onOpen: open,
    onMore: draw,
    isStale: (row) => store.isStale(row.broker) && view.id !== "servers",
  });
}

/** How much there is of what a view shows. */
export function countOf(view) {
  return view.count ? view.count() : view.rows().length;
}

/** The rows in whose words all words of the search are. */
function matching(rows, search, wordsOf) {
  const wanted = search.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return rows;
  return rows.filter((row) => {
    const words = wordsOf(row).join("\n").toLowerCase();
    return wanted.every((word) => words.includes(word));
  });
}
