/* A form that calls a method of a service, and shows what comes back. */

import { field, select } from "../dialog.js";
import { el, setAttribute } from "../dom.js";
import { milliseconds } from "../format.js";
import { jsonEditor, schemaForm } from "../form.js";
import { onlyMember, pretty } from "../json.js";
import { callPath } from "../paths.js";
import { toast } from "../toast.js";

const TIMEOUT_MS = 30_000;

/** Return { node, describe(methods, names), fail(text), update(reason) }. */
export function callForm({ cluster, find }) {
  const chooser = el("div");
  const about = el("p", { class: "faint doc" });
  const fields = el("div", { class: "parameters" });
  const schema = el("pre", { tabindex: "0", "aria-label": "Schema" });
  const schemas = el("details", {}, el("summary", {}, "Schema of parameters and result"), schema);
  const send = el("button", { class: "primary" }, "Call");
  const took = el("span", { class: "faint", role: "status" });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const result = el("pre", { tabindex: "0", "aria-label": "Result", hidden: true });
  const form = el(
    "form",
    { novalidate: true },
    chooser,
    about,
    fields,
    el("div", { class: "buttons" }, send, took),
    error,
    result,
    schemas,
  );
  let method = () => "";
  let reader = { read: () => "{}" };
  let refused = "";

  function choose(name, described) {
    const notes = [
      described?.doc,
      described?.deprecated && `Deprecated: ${text(described.deprecated)}`,
      described?.idempotent && "It may be repeated.",
    ];
    about.textContent = notes.filter(Boolean).join(" ");
    if (described?.params.type === "object") reader = schemaForm(described.params);
    else {
      const editor = jsonEditor(described ? "[]" : "{}");
      reader = {
        nodes: [field("Parameters", editor.input, "a JSON object by name, or a list by position")],
        read: () => editor.read("Parameters"),
      };
    }
    fields.replaceChildren(
      ...(reader.nodes.length ? reader.nodes : [el("p", { class: "faint" }, "It takes no parameters.")]),
    );
    for (const node of [error, result]) node.hidden = true;
    took.textContent = "";
    schemas.hidden = !described;
    schema.textContent = described
      ? JSON.stringify({ params: described.params, result: described.result }, null, 2)
      : "";
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (send.disabled) return;
    if (refused) {
      toast(refused, true);
      return;
    }
    for (const node of [error, result]) node.hidden = true;
    const began = performance.now();
    send.disabled = true;
    took.textContent = "…";
    try {
      const row = find();
      const options = { body: reader.read(), headers: { "timeout-ms": TIMEOUT_MS }, timeoutMs: TIMEOUT_MS + 1000 };
      const answer = await cluster.request(row.broker, "POST", callPath(row.service, method()), options);
      const value = onlyMember(answer.body, "result");
      result.textContent = pretty(value) ?? value;
      result.hidden = false;
      took.textContent = `answered in ${milliseconds(performance.now() - began)}`;
    } catch (failure) {
      error.textContent = [failure.code, failure.message].filter(Boolean).join(": ");
      error.hidden = false;
      took.textContent = failure.status ? `failed after ${milliseconds(performance.now() - began)}` : "";
      showDetails(failure.details);
    }
    send.disabled = false;
  });

  function showDetails(details) {
    if (details === undefined || details === null) return;
    result.textContent = JSON.stringify(details, null, 2);
    result.hidden = false;
  }

  return {
    node: form,
    describe(methods, names) {
      const known = methods ? Object.keys(methods) : names;
      const before = method();
      if (known.length) {
        const choice = select(
          known.map((name) => [name, name]),
          known.includes(before) ? before : known[0],
        );
        method = () => choice.value;
        choice.addEventListener("change", () => choose(choice.value, methods?.[choice.value]));
        chooser.replaceChildren(field("Method", choice));
        choose(choice.value, methods?.[choice.value]);
      } else {
        const name = el("input", { autocomplete: "off", spellcheck: "false" });
        method = () => name.value.trim();
        chooser.replaceChildren(field("Method", name, "this service does not say what it has"));
        choose("", null);
      }
    },
    fail(message) {
      error.textContent = message;
      error.hidden = false;
    },
    update(reason) {
      refused = reason;
      setAttribute(send, "aria-disabled", reason ? "true" : null);
      setAttribute(send, "title", reason || null);
    },
  };
}

function text(value) {
  return typeof value === "string" ? value : "use another";
}
