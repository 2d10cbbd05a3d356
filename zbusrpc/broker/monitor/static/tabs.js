/* Tabs: one is chosen with a click, or with the arrow keys, Home and End. */

import { el, setAttribute, setText } from "./dom.js";
import { compact } from "./format.js";

/** Fill a tablist with [{ id, title }]; return update(id, counts), which shows what is chosen and how much there is of each. */
export function makeTabs(list, panel, tabs, onChoose) {
  const parts = tabs.map(({ id, title }) => {
    const badge = el("span", { class: "badge" });
    const tab = el(
      "button",
      { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": panel.id },
      title,
      " ",
      badge,
    );
    tab.addEventListener("click", () => onChoose(id));
    list.append(tab);
    return { id, tab, badge };
  });
  list.addEventListener("keydown", (event) => {
    const at = parts.findIndex(({ tab }) => tab === document.activeElement);
    const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: parts.length - 1 };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const { id, tab } = parts[(steps[event.key] + parts.length) % parts.length];
    tab.focus();
    onChoose(id);
  });
  return (chosen, counts) => {
    for (const { id, tab, badge } of parts) {
      setAttribute(tab, "aria-selected", String(id === chosen));
      setAttribute(tab, "tabindex", id === chosen ? "0" : "-1");
      setText(badge, compact(counts[id] ?? 0));
      setAttribute(tab, "data-count", counts[id] ? "some" : "none");
    }
    setAttribute(panel, "aria-labelledby", `tab-${chosen}`);
  };
}
