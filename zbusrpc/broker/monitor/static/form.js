/* A form for the parameters of a method, made of their JSON schema. Its value is JSON as text, so that numbers of any size stay as typed.

    string, number, integer   a line             boolean, enum   a choice             anything else   JSON as text

A parameter that may be left out, or be null, has a choice for that beside it; typing a value makes it given. */

import { el, newId } from "./dom.js";
import { isJson } from "./json.js";
import { select } from "./dialog.js";

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const INTEGER = /^-?(0|[1-9]\d*)$/;
const DEPTH_MAX = 4;

/** Return { nodes, read() } for the schema of an object; read() returns JSON, or throws an error of one line. */
export function schemaForm(schema) {
  const definitions = schema.$defs ?? {};
  const required = schema.required ?? [];
  const fields = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    parameter(name, property, definitions, required.includes(name)),
  );
  return {
    nodes: fields.map(({ node }) => node),
    read() {
      const given = fields.map(({ name, read }) => [name, read()]).filter(([, value]) => value !== undefined);
      return `{${given.map(([name, value]) => `${JSON.stringify(name)}: ${value}`).join(", ")}}`;
    },
  };
}

function parameter(name, property, definitions, isRequired) {
  const { schema, isNullable } = withoutNull(resolve(property, definitions), definitions);
  const editor = editorOf(schema, definitions, property.default);
  const states = [["value", "value"], isNullable && ["null", "null"], !isRequired && ["default", "left out"]].filter(
    Boolean,
  );
  const state = states.length > 1 ? select(states, states.at(-1)[0]) : null;
  state?.setAttribute("aria-label", `${name}: value or not`);
  const drawState = () => editor.input.classList.toggle("unused", state.value !== "value");
  state?.addEventListener("change", drawState);
  editor.input.addEventListener("input", () => {
    if (!state) return;
    state.value = "value";
    drawState();
  });
  if (state) drawState();
  const id = newId();
  editor.input.id = id;
  const hint = hintOf(property, schema, isRequired);
  const label = el("label", { for: id }, el("code", {}, name), " ", el("small", {}, hint));
  const read = () => {
    const how = state?.value ?? "value";
    if (how !== "value") return how === "null" ? "null" : undefined;
    return editor.read(name);
  };
  return { name, read, node: el("div", { class: "field" }, label, el("div", { class: "given" }, editor.input, state)) };
}

// -- schemas -------------------------------------------------------------------------------------------------

function resolve(schema, definitions, depth = 0) {
  const name = schema.$ref?.split("/").at(-1);
  if (name === undefined || !(name in definitions) || depth > DEPTH_MAX) return schema;
  return resolve(definitions[name], definitions, depth + 1);
}

function withoutNull(schema, definitions) {
  const choices = schema.anyOf ?? [];
  const others = choices.filter((choice) => choice.type !== "null");
  if (others.length === choices.length || others.length !== 1)
    return { schema, isNullable: others.length < choices.length };
  return { schema: resolve(others[0], definitions), isNullable: true };
}

function hintOf(property, schema, isRequired) {
  const type = schema.enum ? "choice" : (schema.format ?? (typeof schema.type === "string" ? schema.type : "JSON"));
  const parts = [type, property.description ?? schema.description];
  if (!isRequired)
    parts.push(property.default === undefined ? "optional" : `default ${JSON.stringify(property.default)}`);
  return parts.filter(Boolean).join(" · ");
}

/** An example of a value, to begin with. */
export function example(schema, definitions = {}, depth = 0) {
  const resolved = withoutNull(resolve(schema, definitions), definitions).schema;
  if (resolved.default !== undefined) return resolved.default;
  if (resolved.const !== undefined) return resolved.const;
  if (resolved.enum) return resolved.enum[0];
  const choice = resolved.anyOf?.[0] ?? resolved.oneOf?.[0];
  if (choice && depth < DEPTH_MAX) return example(choice, definitions, depth + 1);
  if (resolved.type === "object" && depth < DEPTH_MAX) {
    const properties = Object.entries(resolved.properties ?? {});
    return Object.fromEntries(properties.map(([name, property]) => [name, example(property, definitions, depth + 1)]));
  }
  if (resolved.type === "array" && resolved.items && depth < DEPTH_MAX)
    return [example(resolved.items, definitions, depth + 1)];
  return { string: "", integer: 0, number: 0, boolean: false, array: [], object: {} }[resolved.type] ?? null;
}

// -- editors: { input, read(name) -> JSON text } -------------------------------------------------------------

function editorOf(schema, definitions, preset) {
  if (schema.enum) return choiceEditor(schema.enum, preset);
  if (schema.type === "boolean") return choiceEditor([true, false], preset);
  const hint = preset ?? schema.examples?.[0] ?? "";
  if (schema.format === "password") return lineEditor("", (text) => JSON.stringify(text), "password");
  if (schema.type === "string") return lineEditor(hint, (text) => JSON.stringify(text));
  if (schema.type === "integer") return numberEditor(hint, INTEGER, "a whole number");
  if (schema.type === "number") return numberEditor(hint, NUMBER, "a number");
  return jsonEditor(JSON.stringify(example(schema, definitions), null, 2));
}

function choiceEditor(values, preset) {
  const input = select(
    values.map((value) => [JSON.stringify(value), String(value)]),
    JSON.stringify(preset ?? values[0]),
  );
  return { input, read: () => input.value };
}

function lineEditor(placeholder, toJson, type = "text") {
  const input = el("input", { type, autocomplete: "off", spellcheck: "false", placeholder });
  return { input, read: (name) => toJson(input.value, name) };
}

function numberEditor(hint, pattern, what) {
  const editor = lineEditor(hint, (text, name) => {
    if (!pattern.test(text.trim())) throw new Error(`${name} is ${what}, not "${text}"`);
    return text.trim();
  });
  editor.input.inputMode = "decimal";
  return editor;
}

/** An editor of JSON as text. */
export function jsonEditor(text) {
  const input = el("textarea", { rows: Math.min(12, text.split("\n").length + 1), spellcheck: "false" });
  input.value = text;
  const read = (name) => {
    if (!isJson(input.value)) throw new Error(`${name} is no JSON: ${jsonError(input.value)}`);
    return input.value;
  };
  return { input, read };
}

function jsonError(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return error.message;
  }
}
