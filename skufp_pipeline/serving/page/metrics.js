// Reads Prometheus' text format, and says what an operator looks at first.

import { milliseconds, number, percent, t } from "./words.js";

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Returns the samples of a text: name, labels and value. */
export function samples(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const parts = line.startsWith("#") ? null : LINE.exec(line);
    if (!parts) continue;
    const labels = Object.fromEntries(
      [...(parts[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]),
    );
    found.push({ name: parts[1], labels, value: parts[3] === "+Inf" ? Infinity : Number(parts[3]) });
  }
  return found;
}

/** Returns the quantile of a histogram in seconds, linear within its buckets; null if it is empty. */
export function quantile(buckets, share) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return null;
  let [low, before] = [0, 0];
  for (const [high, count] of buckets) {
    if (count >= share * total)
      return high === Infinity ? low : low + ((high - low) * (share * total - before)) / (count - before);
    [low, before] = [high, count];
  }
  return low;
}

/** Returns what is shown of the metrics: a name and a text each; what is missing is left out. */
export function summary(text) {
  const all = samples(text);
  const of = (name, labels = {}) =>
    all.filter(
      (each) =>
        each.name === name && Object.entries(labels).every(([key, value]) => each.labels[key] === value),
    );
  const sum = (found) => found.reduce((total, each) => total + each.value, 0);
  const searches = of("skufp_request_seconds_bucket", { route: "/v1/search", status: "200" });
  const bounds = new Map();
  for (const { labels, value } of searches) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    bounds.set(bound, (bounds.get(bound) ?? 0) + value);
  }
  const buckets = [...bounds].sort(([one], [other]) => one - other);
  const [median, p95] = [0.5, 0.95].map((share) => quantile(buckets, share));
  const verdicts = of("skufp_verdicts_total");
  const ages = of("skufp_index_age_seconds").map((each) => each.value);
  const rows = [
    ["searches", number(sum(of("skufp_request_seconds_count", { route: "/v1/search" })))],
    ["median", median === null ? null : milliseconds(median * 1000)],
    ["p95", p95 === null ? null : milliseconds(p95 * 1000)],
    ["running", number(sum(of("skufp_searches_running")))],
    ["waiting", number(sum(of("skufp_searches_waiting")))],
    ["refused", number(sum(of("skufp_refused_total")))],
    [
      "verdicts",
      verdicts.length
        ? percent(sum(verdicts.filter((each) => each.labels.verdict === "match")) / sum(verdicts))
        : null,
    ],
    ["photos", number(sum(of("skufp_photos_kept")))],
    ["age", ages.length ? age(Math.max(...ages)) : null],
  ];
  return rows.filter(([, value]) => value !== null);
}

const age = (seconds) =>
  seconds < 86400
    ? t("unit.hours", { value: number(seconds / 3600, 1) })
    : t("unit.days", { value: number(seconds / 86400, 1) });
