/* Dead letters: messages that no consumer could handle, by topic, with what was wrong and what can be done. */

import { actionButton } from "../actions.js";
import { el, setChildren, setText } from "../dom.js";
import { count, line, moment, number } from "../format.js";
import { topicPath, withQuery } from "../paths.js";
import { fullMessage } from "./messages.js";

const TOPICS_SHOWN = 50;
const COUNT = 50;
const RANKS = { Offset: "rank2", Group: "rank2", Attempts: "rank2", Since: "rank3" };

export function lettersView(app) {
  const sections = new Map(); // by the key of the topic
  const list = el("div", { class: "letters" });
  const more = el("p", { class: "faint" });
  return {
    id: "letters",
    noun: "dead letter",
    title: "Dead letters",
    count: () => rowsOf(app.store).reduce((sum, row) => sum + row.dead_letters, 0),
    empty: [
      "There are no dead letters",
      "Messages come here when their attempts are used up, or when a consumer says so.",
    ],
    rows: () => rowsOf(app.store),
    words: (row) => [row.topic, row.broker, ...(sections.get(row.key)?.words() ?? [])],
    node: el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Dead letters" }, list, more),
    update(rows) {
      const shown = rows
        .sort((a, b) => b.dead_letters - a.dead_letters || (a.key < b.key ? -1 : 1))
        .slice(0, TOPICS_SHOWN);
      for (const key of sections.keys()) if (!app.store.find("topics", key)?.dead_letters) sections.delete(key);
      for (const row of shown) if (!sections.has(row.key)) sections.set(row.key, new LettersOfTopic(app, row));
      setChildren(
        list,
        shown.map(({ key }) => sections.get(key).node),
      );
      for (const row of shown) sections.get(row.key).update(row);
      setText(
        more,
        rows.length > shown.length ? `${count(rows.length - shown.length, "more topic")}: search for them` : "",
      );
    },
  };
}

function rowsOf(store) {
  return store.all("topics").filter((row) => row.dead_letters > 0 && !row.is_dead_letter_topic);
}

/** The dead letters of one topic. */
class LettersOfTopic {
  #app;
  #row;
  #items = new Map(); // by offset
  #wanted = COUNT;
  #loaded = ""; // for which count of letters
  #isLoading = false;

  constructor(app, row) {
    this.#app = app;
    this.#row = row;
    const { actions } = app;
    this.title = el("h2", {}, row.topic);
    this.note = el("span", { class: "faint" });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.body = el("tbody");
    this.all = el("input", { type: "checkbox", "aria-label": `Select all shown of ${row.topic}` });
    this.all.addEventListener("change", () => this.#selectAll());
    this.more = el(
      "button",
      { type: "button", class: "quiet", hidden: true, onclick: () => this.#loadMore() },
      "Load more",
    );
    this.retrySelected = actionButton("Retry selected …", () => actions.retryLetters(this.#row, this.#selected()));
    this.retryAll = actionButton("Retry all …", () => actions.retryLetters(this.#row));
    this.purgeSelected = actionButton("Purge selected …", () => actions.purgeLetters(this.#row, this.#selected()), {
      style: "danger",
    });
    this.purgeAll = actionButton("Purge all …", () => actions.purgeLetters(this.#row), { style: "danger" });
    const titles = ["Offset", "Group", "Attempts", "Since", "Reason", "Message"].map((title) =>
      el("th", { scope: "col", class: RANKS[title] }, title),
    );
    this.node = el(
      "section",
      {},
      el(
        "header",
        {},
        this.title,
        this.note,
        el(
          "div",
          { class: "buttons" },
          [this.retrySelected, this.retryAll, this.purgeSelected, this.purgeAll].map(({ node }) => node),
        ),
      ),
      this.error,
      el(
        "table",
        {},
        el("caption", { class: "hidden" }, `Dead letters of ${row.topic}`),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col" }, this.all),
            titles,
            el("th", { scope: "col" }, el("span", { class: "hidden" }, "Act")),
          ),
        ),
        this.body,
      ),
      this.more,
    );
    this.body.addEventListener("change", () => this.#drawButtons());
  }

  /** What the search looks at. */
  words() {
    return [...this.#items.values()].map(({ words }) => words);
  }

  update(row) {
    this.#row = row;
    const hasBrokers = this.#app.store.brokers.size > 1;
    setText(this.note, `${count(row.dead_letters, "dead letter")}${hasBrokers ? ` on ${row.broker}` : ""}`);
    this.#drawButtons();
    const wanted = `${row.dead_letters} ${this.#wanted}`;
    if (wanted !== this.#loaded && !this.#isLoading && !this.#app.store.isStale(row.broker)) this.#load(wanted);
  }

  async #load(wanted) {
    this.#isLoading = true;
    try {
      const path = withQuery(topicPath(this.#row.topic, "dead-letters"), { count: this.#wanted });
      const { messages, next_offset, end_offset } = await this.#app.cluster.result(this.#row.broker, "GET", path);
      const kept = new Map(
        messages.map((letter) => [letter.offset, this.#items.get(letter.offset) ?? this.#makeItem(letter)]),
      );
      this.#items = kept;
      setChildren(
        this.body,
        [...kept.values()].map(({ node }) => node),
      );
      this.more.hidden = next_offset >= end_offset || messages.length < this.#wanted;
      this.error.hidden = true;
    } catch (failure) {
      this.error.textContent = failure.message;
      this.error.hidden = false;
    }
    this.#loaded = wanted;
    this.#isLoading = false;
    this.#drawButtons();
  }

  #makeItem(letter) {
    const { headers, offset } = letter;
    const reason = headers["dead-reason"] ?? "";
    const box = el("input", {
      type: "checkbox",
      value: String(offset),
      "aria-label": `Select the letter at ${offset}`,
    });
    const body = el("details", {}, el("summary", {}, letter.body === null ? "binary" : line(letter.body) || "empty"));
    body.addEventListener(
      "toggle",
      () => body.open && body.children.length === 1 && body.append(...fullMessage(letter)),
    );
    const retry = actionButton("Retry …", () => this.#app.actions.retryLetters(this.#row, [offset]));
    const cells = [
      el("th", { scope: "row", class: RANKS.Offset }, number(offset)),
      el("td", { class: RANKS.Group }, headers["dead-group"] ?? ""),
      el("td", { class: `number ${RANKS.Attempts}` }, headers["dead-attempts"] ?? ""),
      el("td", { class: RANKS.Since }, moment(letter.timestamp_ms)),
      el("td", { class: "reason" }, reason || "no reason given"),
      el("td", { class: "body" }, body),
      el("td", { class: "act" }, retry.node),
    ];
    const node = el("tr", { class: this.#loaded ? "fresh" : "" }, el("td", {}, box), cells);
    return { node, box, retry, words: `${reason} ${headers["dead-group"] ?? ""}` };
  }

  #selected() {
    return [...this.#items].filter(([, { box }]) => box.checked).map(([offset]) => offset);
  }

  #selectAll() {
    for (const { box } of this.#items.values()) box.checked = this.all.checked;
    this.#drawButtons();
  }

  #loadMore() {
    this.#wanted += COUNT;
    this.update(this.#row);
  }

  #drawButtons() {
    const { actions } = this.#app;
    const mayRetry = actions.refusal(this.#row.broker, "produce", this.#row.topic);
    const mayPurge = actions.refusal(this.#row.broker, "empty", this.#row.topic);
    const nothing = this.#selected().length ? "" : "select some letters first";
    for (const { retry } of this.#items.values()) retry.update(mayRetry);
    this.retryAll.update(mayRetry);
    this.purgeAll.update(mayPurge);
    this.retrySelected.update(mayRetry || nothing);
    this.purgeSelected.update(mayPurge || nothing);
  }
}
