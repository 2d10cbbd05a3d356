/* zbus text messages over a WebSocket: requests with answers, and what the broker pushes.

    GET /api/live HTTP/1.1        HTTP/1.1 200 OK            HTTP/1.1 200 OK
    id: 7                         id: 7                      cmd: live
    content-length: 0             content-length: 1234       content-length: 99

                                  {"result": {...}}          {"at_ms": ...}

A link comes back by itself, with waits that grow. A broker that is quiet is asked whether it
is there, and counts as lost where it does not answer. */

const WAIT_MS_MIN = 500;
const WAIT_MS_MAX = 15_000;
const WAIT_GROWTH = 1.6;
const TIMEOUT_MS = 20_000;
const ASK_MS = 4_000;
const SILENCE_MS = 10_000;
const GOING_AWAY = 1001; // RFC 6455, 7.4.1

/** A request that failed; `status` is that of HTTP, or 0 where no answer came. */
export class WireError extends Error {
  constructor(status, code, message, details) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/** Return a request as text. */
export function encode(method, target, headers, body) {
  const lines = Object.entries(headers).map(
    ([name, value]) => `${name}: ${String(value).replace(/[\r\n]+/g, " ")}\r\n`,
  );
  const size = new TextEncoder().encode(body).length;
  return `${method} ${target} HTTP/1.1\r\n${lines.join("")}content-length: ${size}\r\n\r\n${body}`;
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

/** Return what an answer says is wrong, as an error of one line. */
export function errorOf(status, body) {
  try {
    const { code, message, details } = JSON.parse(body).error;
    return new WireError(status, code, message, details);
  } catch {
    return new WireError(status, "", body.trim().split("\n")[0] || `status ${status}`);
  }
}

/** A connection to one broker. Events: "open", "lost" (detail: { waitMs until the next try, isEnd: the broker has ended in order }),
 * "push" (detail: text). */
export class Link extends EventTarget {
  /** Shown with each request; the broker that served the page knows a cookie instead. */
  token = "";
  #url;
  #socket = null;
  #waiting = new Map(); // by the id of the request
  #lastId = 0;
  #waitMs = WAIT_MS_MIN;
  #retry = 0;
  #watch = 0;
  #heardMs = 0;

  constructor(url) {
    super();
    this.#url = url;
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Connect now, and again after each loss, until close(). */
  open() {
    this.close();
    const socket = new WebSocket(this.#url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#heardMs = Date.now();
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => this.#receive(typeof data === "string" ? data : new TextDecoder().decode(data));
    socket.onclose = ({ code }) => this.#lose(code === GOING_AWAY);
    this.#socket = socket;
    this.#heardMs = Date.now();
    this.#watch = setInterval(() => this.#listen(), ASK_MS);
  }

  /** Say that the broker has answered as it should: the next loss begins with a short wait. */
  settle() {
    this.#waitMs = WAIT_MS_MIN;
  }

  /** End the connection for good. */
  close() {
    clearTimeout(this.#retry);
    this.#drop();
  }

  /** Send a request and return its answer {status, headers, body}, or throw a WireError. */
  request(method, target, { body = "", headers = {}, timeoutMs = TIMEOUT_MS } = {}) {
    return new Promise((resolve, reject) => {
      if (!this.isOpen) throw new WireError(0, "", "there is no connection to the broker now");
      const id = String(++this.#lastId);
      const giveUp = () => {
        this.#waiting.delete(id);
        reject(new WireError(0, "", `no answer within ${timeoutMs / 1000} s`));
      };
      this.#waiting.set(id, { resolve, reject, timer: setTimeout(giveUp, timeoutMs) });
      const shown = this.token ? { token: this.token } : {};
      this.#socket.send(encode(method, target, { ...headers, ...shown, id }, body));
    });
  }

  #receive(text) {
    this.#heardMs = Date.now();
    const answer = decode(text);
    if (answer.headers.cmd === "live") {
      this.dispatchEvent(new CustomEvent("push", { detail: answer.body }));
      return;
    }
    const request = this.#waiting.get(answer.headers.id);
    if (request === undefined) return; // it came too late
    this.#waiting.delete(answer.headers.id);
    clearTimeout(request.timer);
    if (answer.status < 400) request.resolve(answer);
    else request.reject(errorOf(answer.status, answer.body));
  }

  #listen() {
    const quietMs = Date.now() - this.#heardMs;
    if (quietMs > SILENCE_MS) this.#lose();
    else if (quietMs > ASK_MS && this.isOpen) this.request("GET", "/ping").catch(() => {});
  }

  #lose(isEnd = false) {
    this.#drop();
    const waitMs = this.#waitMs * (0.75 + Math.random() / 2); // so that not all pages come back at once
    this.#waitMs = Math.min(this.#waitMs * WAIT_GROWTH, WAIT_MS_MAX);
    this.#retry = setTimeout(() => this.open(), waitMs);
    this.dispatchEvent(new CustomEvent("lost", { detail: { waitMs, isEnd } }));
  }

  #drop() {
    clearInterval(this.#watch);
    if (this.#socket !== null) {
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new WireError(0, "", "the connection to the broker was lost"));
    }
    this.#waiting.clear();
  }
}
