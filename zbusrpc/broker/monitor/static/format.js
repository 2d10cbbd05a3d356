/* Numbers, sizes and times as a person reads them. Null is what nobody knows: a dash. */

export const NOTHING = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const dateTime = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const SPANS = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
];

/** 1,234,567 */
export function number(value) {
  return value === null || value === undefined ? NOTHING : whole.format(value);
}

/** 1.23M */
export function compact(value) {
  if (value === null || value === undefined) return NOTHING;
  return Math.abs(value) < 10_000 ? whole.format(value) : short.format(value);
}

/** A rate per second: 0, 0.4, 12, 12.3K. */
export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0";
  if (value < 10) return value < 0.05 ? "<0.1" : value.toFixed(1).replace(".0", "");
  return compact(Math.round(value));
}

/** 1.5 MiB */
export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < BYTES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${BYTES[unit]}`;
}

/** 0.4 % */
export function percent(value) {
  if (value === null || value === undefined) return NOTHING;
  const hundredths = value * 100;
  if (hundredths > 0 && hundredths < 0.1) return "<0.1 %";
  return `${hundredths < 10 && hundredths % 1 !== 0 ? hundredths.toFixed(1) : Math.round(hundredths)} %`;
}

/** <1 ms, 4.2 ms, 12 ms, 1.5 s: the broker's clock has whole milliseconds. */
export function milliseconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 1) return "<1 ms";
  if (value >= 1000) return `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** 12 s, 4 min 10 s, 3 h 2 min, 5 d 1 h */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  let rest = Math.max(0, Math.floor(seconds));
  for (const [at, [name, size]] of SPANS.entries()) {
    if (rest < size) continue;
    const [smaller, smallerSize] = SPANS[at + 1] ?? ["s", 1];
    const count = Math.floor(rest / size);
    rest = Math.floor((rest % size) / smallerSize);
    return rest ? `${count} ${name} ${rest} ${smaller}` : `${count} ${name}`;
  }
  return `${rest} s`;
}

/** A moment in local time: 2026-07-01 12:00:05 */
export function moment(ms) {
  return ms === null || ms === undefined ? NOTHING : dateTime.format(new Date(ms));
}

/** 1 topic, 2 topics */
export function count(value, noun) {
  return `${number(value)} ${value === 1 ? noun : `${noun}s`}`;
}

/** One line of a text for a table. */
export function line(text, length = 160) {
  const flat = text
    .slice(0, length * 2)
    .replace(/\s+/g, " ")
    .trim();
  return flat.length > length || text.length > length * 2 ? `${flat.slice(0, length)} …` : flat;
}
