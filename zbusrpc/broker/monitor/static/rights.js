/* What the token may do, to show in advance what the broker would refuse. The broker decides. */

const ALL = "*";

/** Return why something is not allowed by a broker, or "" if it is. Where no group is named, it is about all of them. */
export function refusal(server, operation, topic = "", group = ALL) {
  const rights = server?.rights;
  if (!rights?.has_tokens) return "";
  const rules = rights.rules.filter((rule) => rule.operations.includes(operation));
  const who = rights.is_anonymous ? "who is not logged in" : `the token ${rights.name}`;
  if (!rules.length) return `${who} may not ${operation}`;
  if (!topic || rules.some((rule) => matches(rule.topics, topic) && matches(rule.groups, group))) return "";
  return `${who} may not ${operation} here, but in ${rules.flatMap((rule) => rule.topics).join(", ")}`;
}

function matches(patterns, name) {
  return patterns.some((one) => (one.endsWith(ALL) ? name.startsWith(one.slice(0, -1)) : one === name));
}
