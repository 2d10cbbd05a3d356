/* What is shown, as the hash of the URL: #topics?q=orders&sort=-in_rate&row=... A link shows somebody else the same. */

export class Route extends EventTarget {
  view = "";
  search = "";
  sort = "";
  row = "";
  #views;
  #first;

  /** Take the ids of the views, and which of them is shown unless the URL says otherwise. */
  constructor(views, first) {
    super();
    this.#views = views;
    this.#first = first;
    addEventListener("hashchange", () => this.#read());
    this.#read();
  }

  /** Go somewhere; what is not named stays, but another view begins without an order and a row. */
  go({ view = this.view, search = this.search, sort, row }) {
    const isOther = view !== this.view;
    const wanted = { view, search, sort: sort ?? (isOther ? "" : this.sort), row: row ?? (isOther ? "" : this.row) };
    const isStep = isOther || wanted.row !== this.row; // one that the back button takes back
    const parameters = new URLSearchParams();
    if (wanted.search) parameters.set("q", wanted.search);
    if (wanted.sort) parameters.set("sort", wanted.sort);
    if (wanted.row) parameters.set("row", wanted.row);
    const query = parameters.toString();
    const hash = `#${view}${query ? `?${query}` : ""}`;
    if (hash === location.hash) return;
    history[isStep ? "pushState" : "replaceState"](null, "", hash);
    this.#read();
  }

  #read() {
    const [view, query = ""] = location.hash.slice(1).split("?");
    const parameters = new URLSearchParams(query);
    this.view = this.#views.includes(view) ? view : this.#first;
    this.search = parameters.get("q") ?? "";
    this.sort = parameters.get("sort") ?? "";
    this.row = parameters.get("row") ?? "";
    this.dispatchEvent(new Event("change"));
  }
}
