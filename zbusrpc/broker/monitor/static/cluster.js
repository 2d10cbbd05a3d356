/* The brokers of the set: a link to each, which keeps its rows in the store up to date.

Which brokers there are is said by the one that served the page, and followed as it changes. */

import { BrokerRows } from "./store.js";
import { Link, WireError } from "./wire.js";

/** Events: "change" whenever something is to be shown, "denied" when the own broker wants a token. */
export class Cluster extends EventTarget {
  #store;
  #own;
  #token = "";

  constructor(store) {
    super();
    this.#store = store;
  }

  /** Connect to the broker that served the page, and to those that it knows. */
  start() {
    this.#own = this.#join(location.host, new URL(".", location.href).href.replace(/\/$/, ""));
  }

  /** Connect again, with what is known by now: a cookie for the own broker, a token for the others, or none. */
  restart(token) {
    this.#token = token;
    if (!token) for (const { link } of this.#store.brokers.values()) link.token = "";
    for (const broker of this.#store.brokers.values()) this.#open(broker);
  }

  /** Show a token to one of the other brokers; throws an error of one line where it is not taken. */
  async logIn(address, token) {
    const broker = this.#store.brokers.get(address);
    if (!broker) throw new WireError(0, "", `the broker ${address} is gone`);
    broker.link.token = token;
    await this.#askForPushes(broker);
  }

  /** Show no more of the brokers that are gone. */
  forgetMissing() {
    this.#store.missing.clear();
    this.#changed();
  }

  /** Stop waiting for the next try. */
  retryNow() {
    for (const broker of this.#store.brokers.values()) if (!broker.isLive) this.#open(broker);
  }

  /** The state of the connection to the own broker: { isLive, error, retryAtMs }. */
  get own() {
    return this.#own;
  }

  /** Send a request to a broker; return its answer, or throw a WireError of one line. */
  async request(address, method, target, options) {
    const broker = this.#store.brokers.get(address);
    if (!broker) throw new WireError(0, "", `the broker ${address} is gone`);
    return broker.link.request(method, target, options);
  }

  /** The same, of which only the result counts. */
  async result(address, method, target, options) {
    const { body } = await this.request(address, method, target, options);
    return JSON.parse(body).result;
  }

  #join(address, url) {
    const states = { isLive: false, isDenied: false, hasEnded: false, error: "", retryAtMs: 0 };
    const broker = { address, url, rows: new BrokerRows(), ...states };
    broker.link = new Link(`${url.replace(/^http/, "ws")}/`);
    broker.link.addEventListener("open", () => this.#watch(broker));
    broker.link.addEventListener("push", ({ detail }) => this.#take(broker, JSON.parse(detail)));
    broker.link.addEventListener("lost", ({ detail }) => this.#lose(broker, detail));
    this.#store.brokers.set(address, broker);
    this.#open(broker);
    return broker;
  }

  #open(broker) {
    const isExposed = location.protocol === "https:" && broker.url.startsWith("http:"); // the token stays encrypted
    if (broker !== this.#own && this.#token && !isExposed) broker.link.token = this.#token;
    broker.link.open();
  }

  async #watch(broker) {
    try {
      await this.#askForPushes(broker);
    } catch (error) {
      if (error.status !== 0) this.#deny(broker, error);
    }
  }

  async #askForPushes(broker) {
    const { body } = await broker.link.request("GET", "/api/live");
    this.#take(broker, JSON.parse(body).result);
    broker.link.settle();
  }

  #take(broker, push) {
    broker.rows.take(push);
    Object.assign(broker, { isLive: true, isDenied: false, hasEnded: false, error: "" });
    if (broker === this.#own) {
      this.#rename(push.server.address);
      this.#follow(push.servers);
      this.#store.recordTotals();
    }
    this.#changed();
  }

  /** Call the own broker what it calls itself. */
  #rename(address) {
    if (this.#own.address === address) return;
    const { brokers } = this.#store;
    brokers.delete(this.#own.address);
    this.#own.address = address;
    brokers.set(address, this.#own);
  }

  /** Have a link to each broker that is listed, and to no other. */
  #follow(servers) {
    this.#store.own = this.#own.address;
    const { brokers } = this.#store;
    const wanted = new Map(
      servers.filter((row) => row.state !== "gone" && isWebUrl(row.url)).map((row) => [row.address, row.url]),
    );
    for (const [address, broker] of brokers) {
      if (broker === this.#own || wanted.has(address)) continue;
      broker.link.close();
      brokers.delete(address);
      if (!broker.hasEnded && broker.rows.server) this.#store.missing.set(address, broker.rows.server);
    }
    for (const address of wanted.keys()) this.#store.missing.delete(address);
    for (const [address, url] of wanted) if (!brokers.has(address)) this.#join(address, new URL(url).origin);
  }

  async #lose(broker, { waitMs, isEnd }) {
    const hadCookie = broker === this.#own && !broker.isLive;
    if (broker.isLive) broker.hasEnded = isEnd;
    Object.assign(broker, { isLive: false, error: "no connection", retryAtMs: Date.now() + waitMs });
    this.#changed();
    if (hadCookie && (await isRefused()))
      this.#deny(broker, new WireError(401, "UNAUTHENTICATED", "this broker does not know the token"));
  }

  #deny(broker, error) {
    Object.assign(broker, { isLive: false, isDenied: true, error: error.message });
    this.#changed();
    if (broker === this.#own) this.dispatchEvent(new CustomEvent("denied", { detail: error.message }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Whether the own broker refuses the cookie: of a WebSocket that was refused a browser tells nothing. */
async function isRefused() {
  try {
    return (await fetch("api/server")).status === 401; // from where the page is, which may be below a path of a proxy
  } catch {
    return false;
  }
}

/** Whether the address that a broker gives for its page is one; a tracker repeats what others say. */
export function isWebUrl(url) {
  return URL.canParse(url) && ["http:", "https:"].includes(new URL(url).protocol);
}
