/* Login: a token that is shown once, for which the broker sets a cookie that the page itself cannot read.

Other brokers of the set do not get that cookie: the token is kept in the page's memory for them, until it is closed. */

import { field, openDialog } from "./dialog.js";
import { el } from "./dom.js";
import { errorOf } from "./wire.js";

let shown = null;

/** Ask for a token; logIn(token) shows it to a broker, and returns what is told afterwards. */
export function openLogin(reason, logIn) {
  if (shown?.open) return;
  const token = el("input", { type: "password", autocomplete: "current-password", spellcheck: "false" });
  const user = el("input", {
    type: "text",
    autocomplete: "username",
    value: "token",
    hidden: true,
    "aria-label": "User",
  });
  shown = openDialog({
    title: "Log in",
    text: [reason, "A token is made with: zbusrpc token add NAME"].filter(Boolean),
    content: [user, field("Token", token)],
    confirm: "Log in",
    act: async () => {
      if (!token.value.trim()) throw new Error("which token?");
      return logIn(token.value.trim());
    },
  });
  token.focus();
}

/** Show a token to the broker that served the page; return whose it is. */
export async function logIn(token) {
  const { name } = await post("api/login", { token });
  return name;
}

/** Have the broker forget the cookie. */
export async function logOut() {
  await post("api/logout", {});
}

async function post(path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "content-type": "application/json" },
    });
  } catch {
    throw new Error("the broker cannot be reached");
  }
  const text = await answer.text();
  if (!answer.ok) throw errorOf(answer.status, text);
  return JSON.parse(text).result ?? {};
}
