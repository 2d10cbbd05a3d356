/* The page: what is typed goes to the bus, what comes from the bus is shown. The protocol is in zbus.js. */

import { Zbus, decode } from "./zbus.js";

const RECEIVED_MAX = 100;
const TRAFFIC_MAX = 200;

const $ = (id) => document.getElementById(id);
const zbus = new Zbus();
let isWanted = false; // whether there shall be a connection
let consuming = null; // the AbortController of the consumer that runs
let receivedCount = 0;

// -- connection ----------------------------------------------------------------------------------------------

$("address").value = `ws://${location.hostname || "localhost"}:15555/`;

$("connection").addEventListener("submit", (event) => {
  event.preventDefault();
  isWanted = !isWanted;
  try {
    if (isWanted) zbus.open($("address").value.trim());
    else zbus.close();
  } catch (error) {
    isWanted = false;
    showHint(`${error.message} An address looks like ws://localhost:15555/`);
    return;
  }
  if (!isWanted) showHint("");
  showState();
});

zbus.addEventListener("open", () => {
  showHint("");
  showState();
});

zbus.addEventListener("close", () => {
  if (isWanted) {
    // A browser does not tell a page why, so that it cannot look around in a network.
    showHint(
      `No connection to ${$("address").value.split("?")[0]}. Does the broker run, and does it let in this page?\n` +
        `zbusrpc broker --allow-origin ${location.origin}`,
    );
  }
  showState();
});

function showState() {
  const state = zbus.isOpen ? "open" : isWanted ? "waiting" : "closed";
  $("state").dataset.state = state;
  $("state").textContent = { open: "connected", waiting: "connecting …", closed: "not connected" }[state];
  $("connect").textContent = isWanted ? "Disconnect" : "Connect";
  $("address").readOnly = isWanted;
  for (const button of document.querySelectorAll("[data-online]")) button.disabled = !zbus.isOpen;
}

function showHint(text) {
  $("hint").textContent = text;
  $("hint").hidden = text === "";
}

// -- messages ------------------------------------------------------------------------------------------------

onSubmit("topic-form", "topic-result", async () => {
  await zbus.declare($("topic").value, $("group").value);
  return "declared";
});

onSubmit("produce-form", "produce-result", async () => {
  await zbus.produce($("topic").value, $("body").value, $("tag").value);
  return "stored";
});

$("consume").addEventListener("click", () => {
  if (consuming === null) startConsuming();
  else stopConsuming();
});

async function startConsuming() {
  if (!$("topic-form").reportValidity()) return;
  const mine = new AbortController();
  consuming = mine;
  showConsuming();
  show("topic-result", `consuming ${$("topic").value}`);
  try {
    await zbus.consume($("topic").value, $("group").value, showMessage, mine.signal);
  } catch (error) {
    consuming = null;
    showConsuming();
    show("topic-result", error.message, true);
  }
}

function stopConsuming() {
  consuming.abort();
  consuming = null;
  showConsuming();
  show("topic-result", "");
}

function showConsuming() {
  $("consume").textContent = consuming ? "Stop consuming" : "Consume";
  $("consume").classList.toggle("primary", consuming !== null);
  $("topic").readOnly = $("group").readOnly = consuming !== null;
}

function showMessage({ headers, body }) {
  const item = document.createElement("li");
  item.append(span("body", body), span("note", [headers.tag, headers.id.slice(0, 8), now()].filter(Boolean).join(" · ")));
  prepend($("received"), item, RECEIVED_MAX);
  $("received-count").textContent = ++receivedCount;
}

// -- calls ---------------------------------------------------------------------------------------------------

onSubmit("call-form", "call-result", async () => {
  const params = JSON.parse($("params").value || "[]");
  if (!Array.isArray(params)) throw new Error("the parameters are a JSON array, such as [1, 2]");
  return JSON.stringify(await zbus.call($("service").value, $("method").value, params), null, 2);
});

// -- traffic -------------------------------------------------------------------------------------------------

zbus.addEventListener("traffic", ({ detail: { isSent, text } }) => {
  const { status, headers } = decode(text);
  const what = isSent ? headers.cmd : `${status} ${headers.origin_id ? "message" : ""}`;
  const id = headers.id ? headers.id.slice(0, 8) : "";
  const summary = document.createElement("summary");
  summary.append(
    span("arrow", isSent ? "↑" : "↓", isSent ? "sent" : "received"),
    span("what", what),
    span("about", headers.topic ?? ""),
    span("note", `${id} ${now()}`),
  );
  const details = document.createElement("details");
  details.append(summary, Object.assign(document.createElement("pre"), { textContent: text }));
  const item = document.createElement("li");
  item.dataset.kind = isSent ? "sent" : status < 400 ? "received" : "failed";
  item.append(details);
  prepend($("traffic"), item, TRAFFIC_MAX);
});

$("clear").addEventListener("click", () => $("traffic").replaceChildren());

// -- small things --------------------------------------------------------------------------------------------

/** Run `act` when a form is sent, and show what it returns or throws. */
function onSubmit(form, output, act) {
  $(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    show(output, "…");
    try {
      show(output, await act());
    } catch (error) {
      show(output, error.message, true);
    }
  });
}

function show(output, text, isError = false) {
  $(output).textContent = text;
  $(output).classList.toggle("error", isError);
}

function span(name, text, label) {
  const element = Object.assign(document.createElement("span"), { className: name, textContent: text });
  if (label) element.setAttribute("aria-label", label);
  return element;
}

/** Put an item first in a list, and drop those at its end that are too many. */
function prepend(list, item, max) {
  list.prepend(item);
  while (list.children.length > max) list.lastChild.remove();
}

function now() {
  return new Date().toTimeString().slice(0, 8);
}

showState();
