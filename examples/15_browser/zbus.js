/* zbus over a WebSocket, without any library.

One WebSocket message is one zbus message, which looks like HTTP: a page sends requests, the broker responses.

    GET / HTTP/1.1                        HTTP/1.1 200 OK
    cmd: produce                          id: 5f0c
    topic: news                           content-length: 13
    id: 5f0c
    content-length: 5                     1732190000000

    hello

A response belongs to the request of the same id, in whatever order they come: a request to consume waits at the broker
until there is a message for it. */

const HEARTBEAT_MS = 30_000; // so that nobody on the way takes a quiet connection for a dead one
const RECONNECT_MS = 3_000;
const TIMEOUT_MS = 10_000;

/** A request that failed: `status` is what the broker says, such as 404, or 0 where no answer came. */
export class ZbusError extends Error {
  constructor(status, text) {
    super(text || `status ${status}`);
    this.status = status;
  }
}

/** Return a request as text. */
export function encode(headers, body = "") {
  const given = Object.entries(headers).filter(([, value]) => value !== undefined && value !== "");
  const lines = given.map(([name, value]) => `${name}: ${String(value).replace(/[\r\n]+/g, " ")}\r\n`);
  const size = new TextEncoder().encode(body).length; // bytes, not characters
  return `GET / HTTP/1.1\r\n${lines.join("")}content-length: ${size}\r\n\r\n${body}`;
}

/** Return the status, the headers by lower-case name, and the body of a response. */
export function decode(text) {
  const end = text.indexOf("\r\n\r\n");
  const [first, ...lines] = text.slice(0, end).split("\r\n");
  const headers = {};
  for (const line of lines) {
    const colon = line.indexOf(":");
    headers[line.slice(0, colon).trim().toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { status: Number(first.split(" ")[1]), headers, body: text.slice(end + 4) };
}

/** A connection that comes back by itself. Its events: "open", "close", and "traffic" with { isSent, text }. */
export class Zbus extends EventTarget {
  #socket = null;
  #waiting = new Map(); // by the id of the request: what takes its answer
  #heartbeat = 0;
  #reconnect = 0;

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Connect to ws://host:port/, and again after each loss, until close(). Throws for what is no such address. */
  open(address) {
    this.close();
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#heartbeat = setInterval(() => this.#send({ cmd: "heartbeat" }), HEARTBEAT_MS);
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => this.#receive(typeof data === "string" ? data : new TextDecoder().decode(data));
    socket.onclose = () => {
      this.#reconnect = setTimeout(() => this.open(address), RECONNECT_MS);
      this.#lose();
    };
    this.#socket = socket;
  }

  close() {
    clearTimeout(this.#reconnect);
    if (this.#socket === null) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#lose();
  }

  /** Send a command and return its answer, or throw a ZbusError. */
  request(headers, body = "", timeoutMs = TIMEOUT_MS) {
    return new Promise((resolve, reject) => {
      if (!this.isOpen) throw new ZbusError(0, "not connected");
      const id = newId();
      const giveUp = () => {
        this.#waiting.delete(id);
        reject(new ZbusError(0, `no answer within ${timeoutMs / 1000} s`));
      };
      const timer = timeoutMs === Infinity ? 0 : setTimeout(giveUp, timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#send({ ...headers, id }, body);
    });
  }

  /** Make sure that a topic is there; and a group of consumers, if one is named. */
  declare(topic, group) {
    return this.request({ cmd: "declare", topic, consume_group: group });
  }

  /** Store a message in a topic. */
  produce(topic, body, tag) {
    return this.request({ cmd: "produce", topic, tag }, body);
  }

  /** Call a method of a service and return its result. */
  async call(service, method, params) {
    const request = JSON.stringify({ method, params, module: "" });
    const answer = await this.request({ cmd: "produce", topic: service, ack: false }, request);
    const { result, error } = JSON.parse(answer.body);
    if (error) throw new ZbusError(answer.status, typeof error === "string" ? error : JSON.stringify(error));
    return result;
  }

  /** Give each message of a topic to `handle`, one after the other, until `signal` is aborted; survives losses. */
  async consume(topic, group, handle, signal) {
    const command = { cmd: "consume", topic, consume_group: group };
    // A message that is already on its way is handled all the same: nobody else would get it.
    signal.addEventListener("abort", () => this.isOpen && this.#send({ ...command, cmd: "unconsume" }));
    while (!signal.aborted) {
      try {
        const { headers, body } = await this.#next(command);
        headers.id = headers.origin_id; // the message's own id, where the response has that of our request
        delete headers.origin_id;
        handle({ headers, body });
      } catch (error) {
        if (signal.aborted) return;
        if (error.status !== 0) throw error;
        await new Promise((resume) => this.addEventListener("open", resume, { once: true }));
      }
    }
  }

  async #next(command) {
    try {
      return await this.request(command, "", Infinity);
    } catch (error) {
      if (error.status !== 404) throw error; // 404: there is no such topic or group yet
      await this.declare(command.topic, command.consume_group);
      return this.request(command, "", Infinity);
    }
  }

  #send(headers, body) {
    const text = encode(headers, body);
    this.#socket.send(text);
    this.dispatchEvent(new CustomEvent("traffic", { detail: { isSent: true, text } }));
  }

  #receive(text) {
    this.dispatchEvent(new CustomEvent("traffic", { detail: { isSent: false, text } }));
    const answer = decode(text);
    const { id, origin_id: isMessage } = answer.headers;
    const request = this.#waiting.get(id);
    if (request === undefined) return; // it came too late
    this.#waiting.delete(id);
    clearTimeout(request.timer);
    if (answer.status < 400 || isMessage) request.resolve(answer);
    else request.reject(new ZbusError(answer.status, answer.body));
  }

  #lose() {
    this.#socket = null;
    clearInterval(this.#heartbeat);
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new ZbusError(0, "the connection was lost"));
    }
    this.#waiting.clear();
    this.dispatchEvent(new Event("close"));
  }
}

/** Return 32 hexadecimal digits; crypto.randomUUID() is missing in pages that come over plain HTTP. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
