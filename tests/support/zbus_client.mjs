// A small zbus client for Node without a library: what the JavaScript client of the 0.8 era does, step by step.
//
//   node zbus_client.mjs produce HOST:PORT TOPIC BODY...       declares, then sends each body; tag with --tag T
//   node zbus_client.mjs consume HOST:PORT TOPIC COUNT         declares, then consumes so many; --group G --filter F
//   node zbus_client.mjs call    HOST:PORT TOPIC METHOD JSON   calls a service with a JSON array of parameters
//   node zbus_client.mjs serve   HOST:PORT TOPIC               serves add, echo, fail and hang until it is killed
//   node zbus_client.mjs track   HOST:PORT COUNT               shows so many words of the tracker
//
// --ws speaks over WebSocket as browsers do. What happens is printed as one JSON object a line; what a real client
// would fail on ends the program with a message.

import { createHash, randomBytes, randomUUID } from "node:crypto";
import net from "node:net";
import { parseArgs } from "node:util";

const JSON_TYPE = "application/json";
const READY_MS = 3000;

function encode(message) {
  const body = Buffer.from(message.body ?? "");
  const headers = { ...message.headers, "content-length": body.length };
  let head = `GET ${message.url ?? "/"} HTTP/1.1\r\n`;
  for (const [name, value] of Object.entries(headers)) if (value != null) head += `${name}: ${value}\r\n`;
  return Buffer.concat([Buffer.from(`${head}\r\n`), body]);
}

// Reads one message from the beginning of a buffer; null while it is not complete.
function decode(buffer) {
  const end = buffer.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [first, ...lines] = buffer.subarray(0, end).toString().split("\r\n");
  const status = Number(first.split(" ")[1]);
  if (!first.startsWith("HTTP/") || !Number.isInteger(status)) throw new Error(`no response: ${first}`);
  const headers = {};
  for (const line of lines) {
    const colon = line.indexOf(":");
    headers[line.slice(0, colon).trim().toLowerCase()] = line.slice(colon + 1).trim();
  }
  const size = end + 4 + Number(headers["content-length"] ?? 0);
  if (buffer.length < size) return null;
  const raw = buffer.subarray(end + 4, size);
  const body = headers["content-type"] === JSON_TYPE ? JSON.parse(raw) : raw;
  return { message: { status, headers, body }, rest: buffer.subarray(size) };
}

// A TCP connection: messages follow each other in a stream.
class TcpTransport {
  constructor(host, port, onMessage, onClose) {
    let buffer = Buffer.alloc(0);
    this.socket = net.connect(port, host);
    this.opened = new Promise((resolve) => this.socket.once("connect", resolve));
    this.socket.on("close", onClose);
    this.socket.on("error", () => {});
    this.socket.on("data", (data) => {
      buffer = Buffer.concat([buffer, data]);
      for (let found = decode(buffer); found; found = decode(buffer)) {
        buffer = found.rest;
        onMessage(found.message);
      }
    });
  }

  send(bytes) {
    this.socket.write(bytes);
  }

  close() {
    this.socket.end();
  }
}

// A WebSocket (RFC 6455) as browsers open it: one message of the socket is one message of zbus, whole.
class WebSocketTransport {
  constructor(host, port, onMessage, onClose) {
    this.onMessage = onMessage;
    this.buffer = Buffer.alloc(0);
    this.fragments = [];
    this.isOpen = false;
    const key = randomBytes(16).toString("base64");
    this.accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    this.socket = net.connect(port, host);
    this.opened = new Promise((resolve) => (this.resolveOpened = resolve));
    this.socket.on("close", onClose);
    this.socket.on("error", () => {});
    this.socket.on("data", (data) => {
      this.buffer = Buffer.concat([this.buffer, data]);
      if (!this.isOpen) this.shakeHands();
      while (this.isOpen && this.takeFrame());
    });
    this.socket.write(
      `GET / HTTP/1.1\r\nHost: ${host}:${port}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n` +
        `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    );
  }

  shakeHands() {
    const end = this.buffer.indexOf("\r\n\r\n");
    if (end < 0) return;
    const head = this.buffer.subarray(0, end).toString();
    const accepted = /^sec-websocket-accept: *(.*)$/im.exec(head)?.[1];
    if (!/^HTTP\/1\.1 101 /.test(head) || accepted !== this.accept) throw new Error(`no WebSocket: ${head}`);
    this.buffer = this.buffer.subarray(end + 4);
    this.isOpen = true;
    this.resolveOpened();
  }

  takeFrame() {
    if (this.buffer.length < 2) return false;
    const [first, second] = this.buffer;
    if (second & 0x80 || first & 0x70) throw new Error("the broker sent a frame that is masked or compressed");
    let [size, start] = [second & 0x7f, 2];
    if (size >= 126) {
      start = size === 126 ? 4 : 10;
      if (this.buffer.length < start) return false;
      size = size === 126 ? this.buffer.readUInt16BE(2) : Number(this.buffer.readBigUInt64BE(2));
    }
    if (this.buffer.length < start + size) return false;
    const payload = this.buffer.subarray(start, start + size);
    this.buffer = this.buffer.subarray(start + size);
    this.takePayload(first & 0x0f, Boolean(first & 0x80), payload);
    return true;
  }

  takePayload(kind, isLast, payload) {
    if (kind === 8) return this.socket.end();
    if (kind === 9) return this.sendFrame(10, payload);
    if (kind === 10) return undefined;
    this.fragments.push(payload);
    if (!isLast) return undefined;
    const found = decode(Buffer.concat(this.fragments));
    this.fragments = [];
    if (!found || found.rest.length) throw new Error("a WebSocket message is not exactly one zbus message");
    return this.onMessage(found.message);
  }

  sendFrame(kind, payload) {
    const mask = randomBytes(4);
    const size = payload.length;
    let head = Buffer.from([0x80 | kind, 0x80 | size]);
    if (size >= 65536) {
      head = Buffer.alloc(10);
      head.writeUInt16BE(((0x80 | kind) << 8) | 0xff);
      head.writeBigUInt64BE(BigInt(size), 2);
    } else if (size >= 126) {
      head = Buffer.from([0x80 | kind, 0xfe, size >> 8, size & 0xff]);
    }
    this.socket.write(Buffer.concat([head, mask, payload.map((byte, place) => byte ^ mask[place & 3])]));
  }

  send(bytes) {
    this.sendFrame(2, bytes);
  }

  close() {
    this.sendFrame(8, Buffer.alloc(0));
    this.socket.end();
  }
}

// One connection, on which requests and replies are matched by id.
class MqClient {
  constructor(address, { useWebSocket = false } = {}) {
    const [host, port] = address.split(":");
    this.waiting = new Map();
    this.onPush = () => {};
    const Transport = useWebSocket ? WebSocketTransport : TcpTransport;
    this.transport = new Transport(host, Number(port), (message) => this.take(message), () => this.fail());
  }

  async open() {
    await this.transport.opened;
    this.heartbeat = setInterval(() => this.send({ headers: { cmd: "heartbeat" } }), 30000);
    this.heartbeat.unref();
    return this;
  }

  send(message) {
    this.transport.send(encode(message));
  }

  invoke(headers, body) {
    const id = randomUUID();
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.send({ headers: { ...headers, id }, body });
    });
  }

  take(message) {
    if (message.headers.cmd === "track_pub") return this.onPush(message);
    const waiter = this.waiting.get(message.headers.id);
    this.waiting.delete(message.headers.id);
    return waiter?.resolve(message);
  }

  fail() {
    for (const { reject } of this.waiting.values()) reject(new Error("the connection is closed"));
    this.waiting.clear();
  }

  close() {
    clearInterval(this.heartbeat);
    this.transport.close();
  }
}

// The tracker and the servers it names. Servers are looked up by the keys of serverTable.
class Broker {
  constructor(address, options) {
    this.address = address;
    this.options = options;
    this.serverTable = {};
    this.clients = new Map();
    this.onInfo = () => {};
  }

  async open() {
    this.tracker = await new MqClient(this.address, this.options).open();
    let resolveReady;
    const ready = new Promise((resolve) => (resolveReady = resolve));
    this.tracker.onPush = (message) => {
      if (message.status !== 200 || !message.body.serverTable) throw new Error("a tracker's word is no JSON");
      this.serverTable = message.body.serverTable;
      this.onInfo(message);
      resolveReady();
    };
    this.tracker.send({ headers: { cmd: "track_sub", id: randomUUID() } });
    await Promise.race([ready, new Promise((resolve) => setTimeout(resolve, READY_MS).unref())]);
    for (const [key, info] of Object.entries(this.serverTable)) {
      const { address, sslEnabled } = info.serverAddress;
      if (key !== (sslEnabled ? `[SSL]${address}` : address)) throw new Error(`server ${address} stands under ${key}`);
      this.clients.set(key, await new MqClient(address, this.options).open());
    }
    return this;
  }

  // A topic that nobody knows goes to any server, others to the one with the most consumers.
  select(topic) {
    let best;
    for (const [key, info] of Object.entries(this.serverTable)) {
      const count = info.topicTable[topic]?.consumerCount ?? -1;
      if (!best || count > best.count) best = { key, count };
    }
    if (!best) throw new Error("no server is known");
    return this.clients.get(best.key);
  }

  // Consumers and administrators ask every server.
  all() {
    return [...this.clients.values()];
  }

  close() {
    for (const client of [this.tracker, ...this.clients.values()]) client.close();
  }
}

// Declares, then consumes until the handler returns false.
async function consume(client, control, handler) {
  await declare(client, control);
  for (let wanted = true; wanted; ) {
    const reply = await client.invoke({ ...control, cmd: "consume" });
    if (reply.status === 404) await declare(client, control);
    else if (reply.status === 200) wanted = (await handler(client, restore(reply))) !== false;
    else throw new Error(`consume: ${reply.status} ${reply.body}`);
  }
}

async function declare(client, control) {
  const reply = await client.invoke({ ...control, cmd: "declare" });
  if (reply.status !== 200 || reply.body.error) throw new Error(`declare: ${reply.status} ${reply.body}`);
}

// The reply to a consume as the message that was produced.
function restore(reply) {
  const { origin_id: id, origin_url: url, ...headers } = reply.headers;
  if (id === undefined || url === undefined) throw new Error("a consumed message has no origin_id or no origin_url");
  return { url, headers: { ...headers, id }, body: reply.body };
}

async function serve(client, control, methods) {
  await consume(client, control, async (_, message) => {
    const request = Buffer.isBuffer(message.body) ? JSON.parse(message.body) : message.body;
    const respond = (response) => {
      const headers = { cmd: "route", recver: message.headers.sender, id: message.headers.id, origin_status: 200 };
      client.send({ headers: { ...headers, ack: false, topic: control.topic }, body: JSON.stringify(response) });
    };
    try {
      const result = methods[request.method](...request.params);
      if (result !== undefined) respond({ result, error: null });
    } catch (error) {
      respond({ result: null, error });
    }
  });
}

const print = (value) => console.log(JSON.stringify(value));

const modes = {
  async produce(broker, { tag }, topic, ...bodies) {
    for (const client of broker.all()) await declare(client, { topic });
    for (const body of bodies) {
      const reply = await broker.select(topic).invoke({ cmd: "produce", topic, tag, ack: true }, body);
      print({ status: reply.status, text: reply.body.toString() });
    }
  },

  async consume(broker, { group, filter }, topic, count) {
    let left = Number(count);
    const control = { topic, consume_group: group, group_filter: filter };
    await Promise.race(
      broker.all().map((client) =>
        consume(client, control, (_, { url, headers, body }) => {
          print({ url, headers, body: Buffer.isBuffer(body) ? body.toString() : body });
          left -= 1;
          return left > 0;
        }),
      ),
    );
  },

  async call(broker, _, topic, method, params) {
    const body = JSON.stringify({ method, params: JSON.parse(params) });
    const reply = await broker.select(topic).invoke({ cmd: "produce", topic, ack: false }, body);
    if (reply.status !== 200) return print({ status: reply.status, error: reply.body.toString() });
    if (reply.headers["content-type"] && Buffer.isBuffer(reply.body)) throw new Error("raw bytes for a result");
    return print({ status: 200, ...(Buffer.isBuffer(reply.body) ? JSON.parse(reply.body) : reply.body) });
  },

  async serve(broker, _, topic) {
    const methods = {
      add: (a, b) => a + b,
      echo: (value) => value,
      fail: () => {
        throw new Error("as was asked");
      },
      hang: () => print({ event: "hanging" }),
    };
    await Promise.all(broker.all().map((client) => serve(client, { topic, topic_mask: 2 }, methods)));
  },

  async track(broker, _, count) {
    let left = Number(count);
    await new Promise((resolve) => {
      broker.onInfo = ({ headers, body }) => {
        print({ headers, info: body });
        left -= 1;
        if (left <= 0) resolve();
      };
      print({ headers: {}, info: { serverTable: broker.serverTable } });
    });
  },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { ws: { type: "boolean" }, tag: { type: "string" }, group: { type: "string" }, filter: { type: "string" } },
});
const [mode, address, ...rest] = positionals;
const broker = await new Broker(address, { useWebSocket: values.ws }).open();
await modes[mode](broker, values, ...rest);
broker.close();
