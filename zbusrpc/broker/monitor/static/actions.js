/* What a person can do to topics, groups, dead letters and brokers. Each act has the operation that the token needs, and a dialog
that names what will happen. */

import { field, openDialog, select } from "./dialog.js";
import { el, setAttribute } from "./dom.js";
import { count, number } from "./format.js";
import { jsonEditor } from "./form.js";
import { groupPath, topicPath } from "./paths.js";
import { refusal } from "./rights.js";
import { startField } from "./start.js";
import { toast } from "./toast.js";

/** Return { node, update(reason) }: a button that tells why it cannot be used, as long as there is a reason. */
export function actionButton(label, act, { style = "quiet" } = {}) {
  let reason = "";
  const node = el(
    "button",
    { type: "button", class: style, onclick: () => (reason ? toast(reason, true) : act()) },
    label,
  );
  return {
    node,
    update(why) {
      reason = why;
      setAttribute(node, "aria-disabled", why ? "true" : null); // and not disabled: the reason can be reached by keyboard
      setAttribute(node, "title", why || null);
    },
  };
}

export class Actions {
  #app;

  constructor(app) {
    this.#app = app;
  }

  /** Return why something cannot be done with a broker now, or "". */
  refusal(address, operation, topic, group) {
    const { store } = this.#app;
    if (store.isStale(address)) return "there is no connection to the broker";
    return refusal(store.serverOf(address), operation, topic, group);
  }

  // -- topics ------------------------------------------------------------------------------------------------

  declareTopic() {
    const brokers = this.#app.store
      .servers()
      .filter(({ is_tracker_only, state }) => !is_tracker_only && state === "live");
    const name = el("input", { required: true, autocomplete: "off", spellcheck: "false", maxlength: "127" });
    const broker = select(
      brokers.map(({ address }) => [address, address]),
      this.#app.store.own,
    );
    const durability = select([
      ["", "The broker's default"],
      ["disk", "disk: survives a power cut"],
      ["os", "os: survives a kill of the broker"],
      ["memory", "memory: may go with the broker"],
    ]);
    const hours = el("input", { inputmode: "decimal", autocomplete: "off" });
    const mib = el("input", { inputmode: "decimal", autocomplete: "off" });
    const others = jsonEditor("{}");
    openDialog({
      title: "Declare a topic",
      content: [
        field("Name", name, "letters, digits and . _ - : @ + ~ #"),
        brokers.length > 1 && field("Broker", broker),
        field("Durability", durability),
        el(
          "div",
          { class: "pair" },
          field("Keep for hours", hours, "empty: 168"),
          field("Keep at most MiB", mib, "empty: no limit"),
        ),
        el(
          "details",
          {},
          el("summary", {}, "More options"),
          field("Options as JSON", others.input, 'such as {"compact": true, "ttl_ms": 60000}'),
        ),
      ],
      confirm: "Declare",
      act: async () => {
        const options = { ...JSON.parse(others.read("Options")) };
        if (durability.value) options.durability = durability.value;
        if (hours.value) options.keep_s = positive("Keep for hours", hours.value) * 3600;
        if (mib.value) options.keep_bytes = Math.ceil(positive("Keep at most MiB", mib.value) * 1024 * 1024);
        if (!name.value.trim()) throw new Error("a topic needs a name");
        const topic = name.value.trim();
        const { created } = await this.#post(broker.value || this.#app.store.own, topicPath(topic, "declare"), options);
        return created === false ? `topic ${topic} was there already` : `topic ${topic} is declared`;
      },
    });
  }

  emptyTopic(row) {
    openDialog({
      title: `Empty ${row.topic}?`,
      text: [
        `${count(row.messages, "message")} of the topic ${row.topic} on ${row.broker} will be gone, for all its groups. They cannot be brought back.`,
      ],
      confirm: "Empty",
      isDangerous: true,
      act: async () => {
        await this.#post(row.broker, topicPath(row.topic, "empty"));
        return `${row.topic} is empty`;
      },
    });
  }

  removeTopic(row) {
    openDialog({
      title: `Remove ${row.topic}?`,
      text: [
        `The topic ${row.topic} on ${row.broker}, its ${count(row.messages, "message")} and its ${count(row.group_count, "group")} will be gone.`,
        row.consumers
          ? `${count(row.consumers, "consumer")} will be told that it has ended.`
          : "Nobody consumes from it now.",
      ],
      confirm: "Remove",
      isDangerous: true,
      typed: row.topic,
      act: async () => {
        await this.#post(row.broker, topicPath(row.topic, "remove"));
        return `${row.topic} is removed`;
      },
    });
  }

  // -- groups ------------------------------------------------------------------------------------------------

  declareGroup(topic) {
    const name = el("input", { required: true, autocomplete: "off", spellcheck: "false", maxlength: "127" });
    const filter = el("input", { autocomplete: "off", spellcheck: "false" });
    const start = startField("Begin at", "oldest", ["oldest", "newest", "offset", "time"]);
    const others = jsonEditor("{}");
    openDialog({
      title: `Declare a group of ${topic.topic}`,
      content: [
        field("Name", name, "letters, digits and . _ - : @ + ~ #"),
        field("Filter", filter, "which tags it wants, such as eu.*; empty for all"),
        start.node,
        el(
          "details",
          {},
          el("summary", {}, "More options"),
          field("Options as JSON", others.input, 'such as {"max_attempts": 3, "lease_ms": 60000}'),
        ),
      ],
      confirm: "Declare",
      act: async () => {
        if (!name.value.trim()) throw new Error("a group needs a name");
        const options = { ...JSON.parse(others.read("Options")), start: start.read() };
        if (filter.value.trim()) options.filter = filter.value.trim();
        await this.#post(topic.broker, groupPath(topic.topic, name.value.trim(), "declare"), options);
        return `group ${name.value.trim()} is declared`;
      },
    });
  }

  pauseGroup(row) {
    const act = row.paused ? "resume" : "pause";
    openDialog({
      title: `${row.paused ? "Resume" : "Pause"} ${row.group}?`,
      text: row.paused
        ? `The group ${row.group} of ${row.topic} on ${row.broker} will go on with ${count(row.lag, "message")}.`
        : `The ${count(row.consumers.length, "consumer")} of the group ${row.group} of ${row.topic} on ${row.broker} will get no more messages until it is resumed. Nothing is lost.`,
      confirm: row.paused ? "Resume" : "Pause",
      act: async () => {
        await this.#post(row.broker, groupPath(row.topic, row.group, act));
        return `${row.group} is ${row.paused ? "resumed" : "paused"}`;
      },
    });
  }

  seekGroup(row) {
    const topic = this.#app.store.find("topics", `${row.broker}/${row.topic}`);
    const start = startField("Go on at", "oldest", ["oldest", "newest", "offset", "time"]);
    const range = topic
      ? ` The topic has the offsets ${number(topic.start_offset)} to ${number(topic.next_offset)}.`
      : "";
    openDialog({
      title: `Seek ${row.group}`,
      text: [
        `The group ${row.group} of ${row.topic} on ${row.broker} stands at offset ${number(row.position)}.${range}`,
        "Back means that messages are delivered again, forward that messages are skipped.",
      ],
      content: [start.node],
      confirm: "Seek",
      isDangerous: true,
      act: async () => {
        const moved = await this.#post(row.broker, groupPath(row.topic, row.group, "seek"), { start: start.read() });
        return `${row.group} goes on at offset ${number(moved.offset)}`;
      },
    });
  }

  emptyGroup(row) {
    openDialog({
      title: `Empty ${row.group}?`,
      text: `The group ${row.group} of ${row.topic} on ${row.broker} will pass ${count(row.lag, "message")} without anybody getting them. Other groups keep theirs.`,
      confirm: "Empty",
      isDangerous: true,
      act: async () => {
        await this.#post(row.broker, groupPath(row.topic, row.group, "empty"));
        return `${row.group} has passed all messages`;
      },
    });
  }

  removeGroup(row) {
    openDialog({
      title: `Remove ${row.group}?`,
      text: [
        `The group ${row.group} of ${row.topic} on ${row.broker} and its place in the topic will be gone; the messages stay.`,
        row.consumers.length
          ? `${count(row.consumers.length, "consumer")} will be told that it has ended.`
          : "It has no consumers now.",
      ],
      confirm: "Remove",
      isDangerous: true,
      typed: row.group,
      act: async () => {
        await this.#post(row.broker, groupPath(row.topic, row.group, "remove"));
        return `${row.group} is removed`;
      },
    });
  }

  // -- dead letters ------------------------------------------------------------------------------------------

  retryLetters(row, offsets) {
    const what = offsets ? count(offsets.length, "dead letter") : `all ${count(row.dead_letters, "dead letter")}`;
    openDialog({
      title: "Retry dead letters?",
      text: `${what} of ${row.topic} on ${row.broker} will be given back to the groups in which they failed, with all their attempts before them.`,
      confirm: "Retry",
      act: async () => {
        const { retried, left } = await this.#post(
          row.broker,
          topicPath(row.topic, "dead-letters/retry"),
          offsets && { offsets },
        );
        if (left.length)
          throw new Error(`${number(retried)} given back; ${number(left.length)} stay: ${left[0].reason}`);
        return `${count(retried, "dead letter")} given back`;
      },
    });
  }

  purgeLetters(row, offsets) {
    const what = offsets ? count(offsets.length, "dead letter") : `all ${count(row.dead_letters, "dead letter")}`;
    openDialog({
      title: "Purge dead letters?",
      text: `${what} of ${row.topic} on ${row.broker} will be gone. They cannot be brought back.`,
      confirm: "Purge",
      isDangerous: true,
      typed: offsets ? "" : row.topic,
      act: async () => {
        const { purged } = await this.#post(
          row.broker,
          topicPath(row.topic, "dead-letters/purge"),
          offsets && { offsets },
        );
        return `${count(purged, "dead letter")} gone`;
      },
    });
  }

  // -- brokers -----------------------------------------------------------------------------------------------

  drain(row) {
    const others = this.#app.store
      .servers()
      .filter(({ address, state }) => address !== row.address && state === "live").length;
    openDialog({
      title: `Drain ${row.address}?`,
      text: [
        `The broker ${row.address} will take no new work, let its ${count(row.consumers ?? 0, "consumer")} finish, and stop.`,
        others
          ? `Clients will move to the ${count(others, "other broker")}.`
          : "There is no other broker: clients will have to wait until one is started.",
      ],
      confirm: "Drain",
      isDangerous: true,
      typed: row.address,
      act: async () => {
        const { unfinished } = await this.#post(row.address, "/api/drain");
        return `${row.address} is draining; ${number(unfinished)} calls and messages are under way`;
      },
    });
  }

  #post(address, path, body) {
    return this.#app.cluster.result(address, "POST", path, { body: body ? JSON.stringify(body) : "" });
  }
}

function positive(label, text) {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`${label}: "${text}" is no number above 0`);
  return value;
}
