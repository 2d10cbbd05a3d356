/* JSON as text: it is never read into numbers and written again, since JavaScript would change those of over 53 bits. */

const TOKEN = /"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g;
const PRETTY_CHARACTERS_MAX = 1_000_000;

/** Return JSON with line breaks and indents, or null where `text` is no JSON. */
export function pretty(text) {
  if (text.length > PRETTY_CHARACTERS_MAX || !isJson(text)) return null;
  const out = [];
  let depth = 0;
  let last = "";
  const newline = () => `\n${"  ".repeat(depth)}`;
  for (const [token] of text.matchAll(TOKEN)) {
    if (token === "}" || token === "]") {
      depth -= 1;
      if (last !== "{" && last !== "[") out.push(newline());
    } else if (last === "{" || last === "[" || last === ",") out.push(newline());
    if (token === "{" || token === "[") depth += 1;
    out.push(token === ":" ? ": " : token);
    last = token;
  }
  return out.join("");
}

/** Say whether a text is JSON. */
export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Return the text of the value of an object's only member: what is between `{"result":` and `}`. */
export function onlyMember(text, name) {
  const match = new RegExp(`^\\s*\\{\\s*"${name}"\\s*:`).exec(text);
  return match ? text.slice(match[0].length, text.lastIndexOf("}")).trim() : text;
}
