/* What the page knows: the rows of each broker, and the rates of the last minute. It knows nothing of connections and elements.

A row is what the broker sent (see docs/monitor.md), with two fields more: `broker`, the address of whose it is, and `key`, by which
tables know it again. */

export const HISTORY = 60; // pushes, which are one a second

const KINDS = {
  topics: (broker, row) => `${broker}/${row.topic}`,
  groups: (broker, row) => `${broker}/${row.topic}/${row.group}`,
  services: (broker, row) => `${broker}/${row.service}`,
};
const TOTALS = ["in_rate", "out_rate", "call_rate"];
const RATES_UNKNOWN = Object.fromEntries(TOTALS.map((name) => [name, null]));

/** The last values of a rate, oldest first. */
export class History {
  values = [];

  add(value) {
    this.values.push(value ?? 0);
    if (this.values.length > HISTORY) this.values.shift();
  }

  get isFlat() {
    return this.values.every((value) => value === 0);
  }
}

/** What one broker has told. */
export class BrokerRows {
  server = null;
  servers = [];
  topics = new Map();
  groups = new Map();
  services = new Map();
  histories = new Map(); // by the key of a topic or service, and the field: `${key} in_rate`
  atMs = 0;
  #address = "";

  /** Take a snapshot, or what has changed since the last one. */
  take(push) {
    this.atMs = push.at_ms;
    this.server = push.server;
    this.servers = push.servers;
    this.#address = push.server.address;
    if (push.changed === undefined) for (const kind of Object.keys(KINDS)) this[kind].clear();
    for (const [kind, rows] of Object.entries(push.changed ?? push)) if (kind in KINDS) this.#put(kind, rows);
    if (push.gone) this.#remove(push.gone);
    this.#record();
  }

  #put(kind, rows) {
    for (const row of rows) {
      row.broker = this.#address;
      row.key = KINDS[kind](this.#address, row);
      this[kind].set(row.key, row);
    }
  }

  #remove({ topics = [], groups = [], services = [] }) {
    const key = (kind, row) => KINDS[kind](this.#address, row);
    for (const topic of topics) this.topics.delete(key("topics", { topic }));
    for (const [topic, group] of groups) this.groups.delete(key("groups", { topic, group }));
    for (const service of services) this.services.delete(key("services", { service }));
  }

  #record() {
    const before = this.histories;
    this.histories = new Map();
    const add = (row, field) => {
      const name = `${row.key} ${field}`;
      const history = before.get(name) ?? new History();
      history.add(row[field]);
      this.histories.set(name, history);
    };
    for (const row of this.topics.values()) {
      add(row, "in_rate");
      add(row, "out_rate");
    }
    for (const row of this.services.values()) add(row, "rate");
  }
}

/** The rows of all brokers together. */
export class Store {
  /** By address: { address, rows: BrokerRows, isLive, error }. */
  brokers = new Map();
  /** What those said last of themselves that were there, did not end in order, and are not listed any more: by address. */
  missing = new Map();
  /** The address of the broker that served the page, or "" before it has said so. */
  own = "";
  totals = Object.fromEntries(TOTALS.map((name) => [name, new History()]));

  /** All rows of a kind: "topics", "groups" or "services". */
  all(kind) {
    return [...this.brokers.values()].flatMap(({ rows }) => [...rows[kind].values()]);
  }

  /** The row of a key, or undefined once it is gone. */
  find(kind, key) {
    if (kind === "servers") return this.servers().find((row) => row.key === key);
    for (const { rows } of this.brokers.values()) if (rows[kind].has(key)) return rows[kind].get(key);
    return undefined;
  }

  /** The groups of a topic. */
  groupsOf(topic) {
    const groups = this.brokers.get(topic.broker)?.rows.groups.values() ?? [];
    return [...groups].filter((group) => group.topic === topic.topic);
  }

  /** The brokers that any of the set lists, the own one's list first: each as it says of itself, and by whom it is seen.
   * Then those that the page has lost. */
  servers() {
    const live = [...this.brokers.values()].filter((broker) => broker.isLive);
    const own = this.brokers.get(this.own);
    const listers = live.length ? live : own ? [own] : [];
    listers.sort((one, other) => Number(other === own) - Number(one === own));
    const found = new Map();
    for (const listed of listers.flatMap((broker) => broker.rows.servers)) {
      const known = found.get(listed.address);
      if (known) known.seen_by.push(...listed.seen_by);
      else found.set(listed.address, this.#server(listed));
    }
    for (const { rows } of this.brokers.values()) this.#addLost(found, rows.server, "live");
    for (const server of this.missing.values()) this.#addLost(found, server, "gone");
    return [...found.values()];
  }

  #addLost(found, server, state) {
    if (!server || found.has(server.address)) return;
    const nobodyKnows = { uptime_s: null, load: null, memory_bytes: null, sessions: null, ...RATES_UNKNOWN };
    found.set(server.address, this.#server({ ...server, ...nobodyKnows, state, seen_by: [] }));
  }

  #server(listed) {
    const broker = this.brokers.get(listed.address);
    const said = broker?.isLive && broker.rows.server ? broker.rows.server : {};
    const own = { key: listed.address, broker: listed.address, is_self: listed.address === this.own };
    return { ...listed, ...said, ...own, seen_by: [...listed.seen_by] };
  }

  /** How many brokers tell which others they see. */
  get listers() {
    return [...this.brokers.values()].filter((broker) => broker.isLive).length;
  }

  /** What a broker says of itself and of our rights, or null. */
  serverOf(address) {
    return this.brokers.get(address)?.rows.server ?? null;
  }

  /** Whether what is shown of a broker is not up to date. */
  isStale(address) {
    return !this.brokers.get(address)?.isLive;
  }

  /** The time by the clock of a broker. */
  nowMs(address) {
    return this.brokers.get(address)?.rows.atMs ?? Date.now();
  }

  /** The last minute of a rate of a row. */
  history(row, field) {
    return this.brokers.get(row.broker)?.rows.histories.get(`${row.key} ${field}`) ?? new History();
  }

  /** Add the rates of all brokers to the last minute of the set. */
  recordTotals() {
    const servers = [...this.brokers.values()].filter((broker) => broker.isLive).map((broker) => broker.rows.server);
    for (const name of TOTALS) this.totals[name].add(servers.reduce((sum, server) => sum + (server?.[name] ?? 0), 0));
  }
}
