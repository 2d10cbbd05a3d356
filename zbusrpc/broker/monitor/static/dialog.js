/* Dialogs: each names what will happen, does it, and stays with the error if that fails. Escape closes. */

import { el, newId } from "./dom.js";
import { toast } from "./toast.js";

/** Show a dialog.

    title, text     what it is about; text may be several paragraphs
    content         elements between the text and the buttons
    confirm         the label of the button that acts
    isDangerous     the button says so, and is not what Enter presses first
    typed           a name that has to be typed before anything happens
    act()           does it; returns the line that is shown afterwards, or throws an error whose message is one */
export function openDialog({ title, text = [], content = [], confirm, isDangerous = false, typed = "", act }) {
  const titleId = newId();
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const act_ = el("button", { class: isDangerous ? "danger" : "primary" }, confirm);
  const cancel = el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel");
  const proof = typed ? typedField(typed, act_) : null;
  const form = el(
    "form",
    { novalidate: true },
    el("h2", { id: titleId }, title),
    [text].flat().map((line) => el("p", {}, line)),
    content,
    proof,
    error,
    el("div", { class: "buttons" }, cancel, act_),
  );
  const dialog = el("dialog", { "aria-labelledby": titleId }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (act_.disabled) return;
    act_.disabled = true;
    error.hidden = true;
    try {
      const done = await act();
      dialog.close();
      if (done) toast(done);
    } catch (failure) {
      error.textContent = failure.message;
      error.hidden = false;
      act_.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  const first = form.querySelector("input, select, textarea") ?? (isDangerous ? cancel : act_);
  first.focus();
  return dialog;
}

function typedField(name, button) {
  button.disabled = true;
  const input = el("input", { autocomplete: "off", spellcheck: "false" });
  input.addEventListener("input", () => {
    button.disabled = input.value !== name;
  });
  input.id = newId();
  return el(
    "div",
    { class: "field" },
    el("label", { for: input.id }, "Type ", el("code", {}, name), " to confirm"),
    input,
  );
}

/** A field with its label: field("Keep for", input, "hours; empty keeps for ever"). */
export function field(label, input, hint = "") {
  const hintId = hint ? newId() : null;
  input.id ||= newId();
  if (hintId) input.setAttribute("aria-describedby", hintId);
  return el(
    "div",
    { class: "field" },
    el("label", { for: input.id }, label),
    input,
    hint && el("small", { id: hintId }, hint),
  );
}

/** A choice: select([["oldest", "Oldest message"], ...], "oldest"). */
export function select(options, chosen) {
  return el(
    "select",
    {},
    options.map(([value, label]) => el("option", { value, selected: value === chosen }, label)),
  );
}
