// The texts of the page: words.<language>.json, English where a text or a language is missing.

let language = "en";
let texts = {};
let english = {};
let plurals = new Intl.PluralRules("en");

async function read(code) {
  const answer = await fetch(`static/words.${code}.json`);
  return answer.ok ? answer.json() : {};
}

/** Reads the texts that ?lang= asks for, and sets language and direction of the document. */
async function load() {
  const asked = new URLSearchParams(location.search).get("lang") ?? "en";
  language = /^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$/.test(asked) ? asked : "en";
  [english, texts] = await Promise.all([read("en"), language === "en" ? {} : read(language)]);
  language = language === "en" ? "en" : (texts.language ?? "en");
  plurals = new Intl.PluralRules(language);
  document.documentElement.lang = language;
  document.documentElement.dir = texts.direction ?? english.direction;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const name of ["aria-label", "placeholder", "title"])
    for (const node of document.querySelectorAll(`[data-t-${name}]`)) {
      const key = node.getAttribute(`data-t-${name}`);
      node.setAttribute(name, t(key));
    }
}

/** Returns a text; {name} stands for a value, and `n` chooses between the forms of a number. */
export function t(key, values = {}) {
  let text = texts[key] ?? english[key] ?? key;
  if (typeof text === "object") text = text[plurals.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? shown(values[name]) : whole));
}

/** Whether there is a text of this key. */
export const has = (key) => key in texts || key in english;

const shown = (value) => (typeof value === "number" ? number(value) : String(value));

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);

export const percent = (share) => new Intl.NumberFormat(language, { style: "percent" }).format(share);

export const milliseconds = (value) => t("unit.ms", { value: number(value, value < 10 ? 1 : 0) });

export const ago = (time) => {
  const minutes = Math.round((time - Date.now()) / 60000);
  const format = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  if (minutes > -60) return format.format(minutes, "minute");
  return minutes > -1440
    ? format.format(Math.round(minutes / 60), "hour")
    : format.format(Math.round(minutes / 1440), "day");
};

export const moment = (text) => {
  const date = new Date(text);
  return Number.isNaN(date.valueOf())
    ? String(text)
    : new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(date);
};

await load(); // what imports this module has its texts from the start
