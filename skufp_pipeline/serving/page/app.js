// The page: what is looked for stands in the address, is asked of the service, and shown.

import "./camera.js";
import "./filters.js";
import "./operators.js";
import "./stage.js";
import "./why.js";
import { ask, isAborted } from "./api.js";
import { hasCamera } from "./camera.js";
import { button, debounced, h, icon } from "./dom.js";
import { forgetPhotos, kept, sendAgain, sendPhoto } from "./photos.js";
import { forgetSearches, recent, remember } from "./recent.js";
import { columnName, nameOf, picture } from "./results.js";
import { MOST, PHOTOS, TOP, asks, format, nothing, parse, regionOf, searchBody } from "./state.js";
import { ago, milliseconds, number, percent, t } from "./words.js";

const IDEAS = 8; // values of a column that the start offers
const TYPING = 400; // milliseconds after the last key until words are asked
const VERDICTS = { match: "check", similar: "similar", none: "nothing" };
const $ = (id) => document.getElementById(id);
const one = (selector) => document.querySelector(selector);

let service = { title: t("start.title"), indexes: [], feedback: false, photo_megabytes: 10, photo_minutes: 15 };
let state = nothing();
let photo = null; // of photos.js
let further = []; // more photos of the item
let adds = false; // the photo to come is one of these
let running = null; // AbortController of what is being asked
let columnsOf = null; // name of the index whose columns the filters show
let again = null; // the photo that is being sent again
let typing = false; // words that are not asked yet

// ---- Where we are -------------------------------------------------------------------------------------------

/** Goes to another search: a new entry of the history, or in place of the present one. */
function go(changes, { replace = false } = {}) {
  const before = state;
  state = { ...state, top: TOP, ...changes };
  if (state.photo !== before.photo || asks(state) !== asks(before)) scrollTo({ top: 0 });
  const address = format(state);
  if (replace || address === location.pathname + location.search) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  return run();
}

function restart() {
  running?.abort();
  running = new AbortController();
  return running.signal;
}

const indexNames = () => {
  const known = service.indexes.map((index) => index.name);
  const first = state.index ?? known[0];
  return [first, ...(state.beside && state.beside !== first ? [state.beside] : [])];
};

async function run() {
  const signal = restart();
  quiet();
  sync();
  if (!asks(state)) return showStart();
  if (!service.indexes.length) await greet().catch(() => {}); // it was not ready; the search says why
  if (signal.aborted) return;
  const columns = shownColumns(indexNames());
  for (const column of columns) column.wait();
  try {
    const [first, ...others] = await Promise.all([state.photo, ...state.also].map((id) => id && kept(id)));
    if (signal.aborted) return;
    usesPhotos(first, others);
    mark(null);
    const answers = await Promise.all(columns.map((column) => search(column.name, signal)));
    if (signal.aborted) return;
    quiet();
    columns.forEach((column, place) => column.show(...answers[place]));
    arrived(answers[0][0]);
  } catch (error) {
    if (!isAborted(error)) failed(error, columns);
  }
}

/** Shows the photos, and puts their newest ids into the address. */
function usesPhotos(first, others) {
  [photo, further] = [first, others];
  one("photo-stage").photo(photo);
  state.photo = photo?.photo_id ?? state.photo;
  state.also = state.also.map((id, place) => further[place]?.photo_id ?? id);
  history.replaceState(null, "", format(state));
  showFurther();
}

/** Whether a photo is not on this device. */
const isLost = () => !photo || further.includes(null);

/** Returns the answer of an index, and the milliseconds that it took from here. */
async function search(index, signal) {
  const started = performance.now();
  const asked = () => ask("search", { body: searchBody(state, index), signal, onBusy: busy });
  const timed = (answer) => [answer, performance.now() - started];
  try {
    return timed(await asked());
  } catch (error) {
    if (error.status !== 404 || !state.photo || state.near.length || isLost()) throw error;
  }
  tell({ kind: "busy", text: t("photo.again") });
  const sent = () => [photo, ...further].map((each) => sendAgain(each, { signal, onBusy: busy }));
  again ??= Promise.all(sent()).finally(() => (again = null));
  const [first, ...others] = await again;
  usesPhotos(first, others);
  return timed(await asked());
}

// ---- A photo ------------------------------------------------------------------------------------------------

async function usePhoto(file) {
  if (!file) return;
  const isFurther = adds && state.photo;
  adds = false;
  const signal = restart();
  tell({ kind: "busy", text: t("photo.sending") });
  document.body.toggleAttribute("sending", true);
  try {
    const { photo_id } = await sendPhoto(file, service.photo_megabytes * 1e6, { signal, onBusy: busy });
    const { text, weight, not, where, index, beside } = state;
    await go(
      isFurther
        ? { also: [...state.also, photo_id], item: null, box: null, whole: false }
        : { ...nothing(), text, weight, not, where, index, beside, photo: photo_id },
    );
  } catch (error) {
    if (!isAborted(error)) tell({ kind: "error", error, action: [t("photo.other"), choose] });
  } finally {
    document.body.removeAttribute("sending");
  }
}

function choose() {
  adds = false;
  $("file").click();
}

/** Shows the further photos, each with a way to remove it, and the way to add one. */
function showFurther() {
  const shown = further.map((each, place) => {
    const url = each && URL.createObjectURL(each.blob);
    const drop = () => URL.revokeObjectURL(url);
    const alt = t("photo.number", { n: place + 2 });
    const left = () => state.also.filter((_, other) => other !== place);
    return h(
      "li",
      {},
      url ? h("img", { src: url, alt, onload: drop, onerror: drop }) : h("span", {}, alt),
      button(
        { label: t("photo.remove_number", { n: place + 2 }), symbol: "x", only: true, class: "round small" },
        () => go({ also: left() }),
      ),
    );
  });
  const add = button({ label: t("photo.add"), symbol: "plus", class: "link" }, () => {
    adds = true;
    $("file").click();
  });
  $("also").replaceChildren(
    ...(shown.length ? [h("ul", { role: "list", "aria-label": t("photo.further") }, ...shown)] : []),
    ...(shown.length < PHOTOS - 1 && !state.near.length ? [add] : []),
  );
}

function takePhoto() {
  adds = false;
  const phone = matchMedia("(pointer: coarse)").matches;
  if (phone || !hasCamera()) $("capture").click();
  else one("camera-dialog").show();
}

function listenForPhotos() {
  for (const id of ["file", "capture"])
    $(id).addEventListener("change", (event) => {
      usePhoto(event.target.files[0]);
      event.target.value = "";
    });
  $("file").addEventListener("cancel", () => (adds = false));
  for (const id of ["choose", "start-choose"]) $(id).addEventListener("click", choose);
  for (const id of ["camera", "start-camera"]) $(id).addEventListener("click", takePhoto);
  one("camera-dialog").addEventListener("photo", (event) => usePhoto(event.detail));
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return;
    event.preventDefault();
    usePhoto(file);
  });
  let inside = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) $("veil").hidden = ++inside < 1;
  });
  addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) $("veil").hidden = --inside < 1;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    $("veil").hidden = true;
    const [file] = event.dataTransfer?.files ?? [];
    if (file) usePhoto(file);
    else tell({ kind: "error", text: t("error.no_file") });
  });
}

// ---- What is said -------------------------------------------------------------------------------------------

/** Says something above the page: that it waits, or what went wrong and what can be done. */
function tell({ kind, text, error, action }) {
  const request = error?.requestId ? h("small", {}, t("error.request", { id: error.requestId })) : null;
  $("notice").replaceChildren(
    h(
      "div",
      { class: `notice ${kind}` },
      kind === "busy" ? h("i", { class: "spinner" }) : icon(error?.status === 0 ? "offline" : "warning"),
      h("p", {}, text ?? error.message, " ", request),
      action && button({ label: action[0] }, action[1]),
      button({ label: t("close"), symbol: "x", only: true, class: "round" }, quiet),
    ),
  );
}

const quiet = () => $("notice").replaceChildren();
const busy = (seconds) => tell({ kind: "busy", text: t("error.busy", { n: seconds }) });
const say = (text) => ($("status").textContent = text);

/** A whole state of the page: what it is, why, and what can be done. */
function panel({ symbol, title, text, small, actions = [], role }) {
  return h(
    "div",
    { class: "blank", role },
    icon(symbol),
    h("h2", {}, title),
    text && h("p", {}, text),
    small && h("small", {}, small),
    h("div", { class: "buttons" }, ...actions),
  );
}

function failed(error, columns) {
  quiet();
  const gone = error.status === 404 && state.photo && isLost() && !state.like.length && !state.near.length;
  const kind = gone
    ? "gone"
    : error.status === 0
      ? "offline"
      : error.status === 429
        ? "busy"
        : error.status >= 500
          ? "server"
          : "request";
  const symbols = { gone: "image", offline: "offline", busy: "clock" };
  const text = gone ? t("failed.gone.text", { n: service.photo_minutes }) : error.message;
  const act = gone
    ? button({ label: t("photo.choose"), symbol: "image", class: "primary" }, choose)
    : button({ label: t("retry"), class: "primary" }, run);
  columns[0].fail(
    panel({
      symbol: symbols[kind] ?? "warning",
      title: t(`failed.${kind}.title`),
      text,
      small: error.requestId && t("error.request", { id: error.requestId }),
      actions: [act],
      role: "alert",
    }),
  );
  for (const column of columns.slice(1)) column.fail(null);
  document.body.dataset.failed = kind;
  if (kind === "offline") whenBack(running.signal);
}

/** Asks again by itself once the service answers, less and less often. */
async function whenBack(signal) {
  for (let seconds = 1; ; seconds = Math.min(2 * seconds, 30)) {
    await new Promise((resolve) => {
      setTimeout(resolve, seconds * 1000);
      addEventListener("online", resolve, { once: true, signal });
    });
    if (signal.aborted) return;
    if (!navigator.onLine) continue;
    const failure = await greet().catch((error) => error);
    if (signal.aborted) return;
    if (!failure) return run();
  }
}

// ---- The start ----------------------------------------------------------------------------------------------

function showStart() {
  document.body.dataset.view = "start";
  $("start").hidden = false;
  $("search").hidden = true;
  [photo, further] = [null, []];
  document.title = t("title.start", { title: service.title });
  showRecent();
}

async function showRecent() {
  const searches = recent();
  if (!searches.length) return $("recent").replaceChildren();
  const rows = await Promise.all(
    searches.map(async (each) => {
      const shown = each.photo ? await kept(each.photo) : null;
      const url = shown && URL.createObjectURL(shown.blob);
      const image =
        url &&
        h("img", {
          src: url,
          alt: "",
          onload: () => URL.revokeObjectURL(url),
          onerror: () => URL.revokeObjectURL(url),
        });
      const label = each.photo
        ? each.text
          ? t("recent.both", { words: each.text })
          : t("recent.photo")
        : each.text || t("recent.likes");
      const link = h(
        "a",
        { href: each.address },
        image || h("span", { class: "no-picture" }, icon(each.photo ? "image" : "search")),
        h("span", { class: "label" }, label),
        h("small", {}, ago(each.time)),
      );
      link.addEventListener("click", (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        go(parse(each.address));
      });
      return h("li", {}, link);
    }),
  );
  const clear = button({ label: t("recent.clear"), class: "link" }, async () => {
    forgetSearches();
    await forgetPhotos();
    showRecent();
    say(t("recent.cleared"));
    $("start-choose").focus();
  });
  $("recent").replaceChildren(
    h("header", {}, h("h2", {}, t("recent.title")), clear),
    h("ul", { role: "list" }, ...rows),
  );
}

function showIdeas(facets) {
  const named =
    facets.find((facet) => facet.column === "category_name") ?? facets.find((facet) => facet.counts);
  if (!named?.counts) return;
  const values = Object.entries(named.counts)
    .sort((first, second) => second[1] - first[1])
    .slice(0, IDEAS);
  $("ideas").replaceChildren(
    h("p", { id: "ideas-title" }, t("ideas.title")),
    h(
      "ul",
      { role: "list", "aria-labelledby": "ideas-title" },
      ...values.map(([value]) =>
        h(
          "li",
          {},
          button({ label: value, class: "chip" }, () => go({ ...nothing(), text: value })),
        ),
      ),
    ),
  );
}

// ---- The controls -------------------------------------------------------------------------------------------

/** Brings every control in line with the state. */
function sync() {
  if (!typing) $("text").value = state.text;
  if (!asks(state)) return;
  document.body.dataset.view = "search";
  delete document.body.dataset.failed;
  $("start").hidden = true;
  $("search").hidden = false;
  $("photo-panel").hidden = !state.photo;
  $("mix-panel").hidden = !(state.photo && state.text.trim()) || state.near.length > 0;
  $("weight").value = state.weight;
  $("weight").setAttribute(
    "aria-valuetext",
    t("mix.value", { words: percent(state.weight), photo: percent(1 - state.weight) }),
  );
  const chosen = Object.values(state.where).reduce(
    (sum, each) => sum + (Array.isArray(each) ? each.length : 1),
    state.not.length,
  );
  $("refined").textContent = chosen ? number(chosen) : "";
  document.title = t("title.search", {
    what: state.near.at(-1) ?? (state.text.trim() || t("recent.photo")),
    title: service.title,
  });
  showTrail();
  showChips();
  showIndexes();
  one("filter-panel").update(state.where);
  loadColumns();
}

async function loadColumns() {
  const [index] = indexNames();
  if (columnsOf === index || !index) return;
  columnsOf = index;
  try {
    const { facets } = await ask(`facets?index=${encodeURIComponent(index)}`);
    one("filter-panel").columns = facets;
    if (index === service.indexes[0]?.name) showIdeas(facets);
  } catch {
    columnsOf = null; // the search says what is wrong
  }
}

function chip(text, label, symbol, remove) {
  return h(
    "li",
    {},
    h(
      "span",
      { class: "chip on" },
      symbol && icon(symbol),
      h("span", {}, text),
      button({ label, symbol: "x", only: true, class: "round small" }, remove),
    ),
  );
}

function showChips() {
  const without = (name, value) => () => go({ [name]: state[name].filter((each) => each !== value) });
  const made = [];
  for (const value of state.like)
    made.push(chip(value, t("chip.remove", { what: value }), "heart", without("like", value)));
  for (const value of state.unlike)
    made.push(chip(value, t("chip.remove", { what: value }), "less", without("unlike", value)));
  for (const value of state.not)
    made.push(
      chip(t("chip.not", { words: value }), t("chip.remove", { what: value }), null, without("not", value)),
    );
  for (const [column, chosen] of Object.entries(state.where)) {
    const { [column]: _, ...others } = state.where;
    const name = columnName(column);
    if (Array.isArray(chosen)) {
      for (const value of chosen) {
        const rest = chosen.filter((each) => each !== value);
        made.push(
          chip(`${name}: ${value}`, t("chip.remove", { what: value }), null, () =>
            go({ where: rest.length ? { ...others, [column]: rest } : others }),
          ),
        );
      }
    } else
      made.push(
        chip(`${name}: ${chosen.gte ?? ""}–${chosen.lte ?? ""}`, t("chip.remove", { what: name }), null, () =>
          go({ where: others }),
        ),
      );
  }
  const clear =
    made.length > 1 &&
    h(
      "li",
      {},
      button({ label: t("chip.clear"), class: "link" }, () =>
        go({ where: {}, not: [], like: [], unlike: [] }),
      ),
    );
  $("chips").replaceChildren(
    ...(made.length ? [h("ul", { role: "list", "aria-label": t("chip.label") }, ...made, clear || "")] : []),
  );
}

/** The way of "More like this": the search, then each product. */
function showTrail() {
  if (!state.near.length) return $("trail").replaceChildren();
  const first = state.text.trim()
    ? `“${state.text.trim()}”`
    : state.photo
      ? t("trail.photo")
      : t("trail.search");
  const begun = state.photo || state.text.trim() || state.like.length;
  const to = (count) => () => go({ near: state.near.slice(0, count) }).then(() => $("answers-title").focus());
  const steps = state.near.map((sku, place) => {
    const shown = h("span", { class: "step" }, h("span", {}, sku));
    describe(sku, shown);
    const last = place === state.near.length - 1;
    return h(
      "li",
      {},
      last
        ? h("span", { "aria-current": "true" }, shown)
        : h("button", { type: "button", class: "link", onclick: to(place + 1) }, shown),
    );
  });
  $("trail").replaceChildren(
    h("ol", {}, begun && h("li", {}, button({ label: first, class: "link" }, to(0))), ...steps),
  );
}

const products = new Map();
async function describe(sku, shown) {
  try {
    const [index] = indexNames();
    if (!products.has(sku))
      products.set(sku, ask(`products/${encodeURIComponent(sku)}?index=${encodeURIComponent(index)}`));
    const product = await products.get(sku);
    shown.replaceChildren(
      ...(product.image_url ? [picture(product, 96)] : []),
      h("span", {}, nameOf(product) === sku ? sku : `${nameOf(product)} ${sku}`),
    );
  } catch {
    products.delete(sku); // its id is there already
  }
}

function showIndexes() {
  const names = service.indexes.map((index) => index.name);
  if (names.length < 2) return;
  const [first, second] = indexNames();
  const select = (id, label, values, value, act) => {
    const made = h(
      "select",
      { id },
      ...values.map(([name, text]) => h("option", { value: name, selected: name === value }, text)),
    );
    made.addEventListener("change", () => act(made.value));
    return h("label", { for: id }, h("span", {}, label), made);
  };
  const others = names.filter((name) => name !== first).map((name) => [name, name]);
  $("indexes").replaceChildren(
    select(
      "index",
      t("index.label"),
      names.map((name) => [name, name]),
      first,
      (name) => go({ index: name === names[0] ? null : name, beside: null, where: {} }),
    ),
    select("beside", t("index.beside"), [["", t("index.alone")], ...others], second ?? "", (name) =>
      go({ beside: name || null }),
    ),
  );
}

/** Marks on the photo what was searched for. */
function mark(answer) {
  const fixed = state.near.length ? "near" : state.also.length ? "several" : null;
  const chosen = { item: state.item, box: state.box, whole: state.whole };
  if (answer && !state.box && !state.item && !state.whole)
    Object.assign(chosen, { item: answer.item, box: answer.box });
  one("photo-stage").mark({ ...chosen, fixed });
}

// ---- The answers --------------------------------------------------------------------------------------------

class Column {
  constructor(name, titled) {
    this.name = name;
    this.verdict = h("div", { class: "verdict" });
    this.grid = h("result-grid");
    this.blank = h("div", { hidden: true });
    this.more = h("div", { class: "more" });
    this.latency = h("div", { class: "latency" });
    this.node = h(
      "section",
      { class: "column", "aria-label": t("index.column", { name }) },
      titled && h("h2", {}, name),
      this.verdict,
      this.blank,
      this.grid,
      this.more,
      this.latency,
    );
  }

  wait() {
    this.blank.hidden = true;
    this.grid.hidden = false;
    this.verdict.toggleAttribute("stale", true);
    if (!this.verdict.hasChildNodes()) this.verdict.append(h("div", { class: "bone" }));
    this.grid.wait(8);
  }

  fail(blank) {
    this.verdict.replaceChildren();
    this.latency.replaceChildren();
    this.more.replaceChildren();
    this.grid.clear();
    this.grid.hidden = true;
    this.blank.replaceChildren(...(blank ? [blank] : []));
    this.blank.hidden = !blank;
  }

  show(answer, took) {
    if (!answer.hits.length) {
      const filtered = Object.keys(state.where).length > 0;
      const clear = button({ label: t("empty.clear"), class: "primary" }, () => go({ where: {} }));
      this.fail(
        panel({
          symbol: "nothing",
          title: t("empty.title"),
          text: t(filtered ? "empty.filtered" : "empty.text"),
          actions: filtered ? [clear] : [],
        }),
      );
    } else {
      this.blank.hidden = true;
      this.grid.hidden = false;
      this.verdict.removeAttribute("stale");
      this.verdict.replaceChildren(...verdictOf(answer));
      this.grid.show(answer, state, abilities());
      const more = answer.hits.length === state.top && state.top < MOST;
      const next = Math.min(MOST, state.top * 2);
      const show = async () => {
        await go({ top: next }, { replace: true });
        this.grid.focusOn(answer.hits.length);
      };
      this.more.replaceChildren(...(more ? [button({ label: t("more.show") }, show)] : []));
    }
    this.latency.replaceChildren(latencyOf(answer, took));
  }
}

let columns = [];
function shownColumns(names) {
  if (columns.map((column) => column.name).join("\n") !== names.join("\n")) {
    columns = names.map((name) => new Column(name, names.length > 1));
    $("columns").replaceChildren(...columns.map((column) => column.node));
    $("columns").toggleAttribute("beside", names.length > 1);
  }
  return columns;
}

const abilities = () => ({ why: Boolean(photo && !state.near.length), thumbs: service.feedback });

function verdictOf(answer) {
  const asked = state.near.length
    ? "near"
    : state.photo && state.text.trim()
      ? "both"
      : state.photo
        ? "photo"
        : state.text.trim()
          ? "words"
          : "likes";
  if (!answer.verdict) {
    const text = t(`found.${asked}`, {
      n: answer.hits.length,
      count: answer.hits.length,
      words: state.text.trim(),
    });
    return [
      icon("search"),
      h(
        "div",
        {},
        h("p", { class: "sentence" }, text),
        answer.no_verdict && h("p", { class: "because" }, answer.no_verdict),
      ),
    ];
  }
  const share = answer.confidence ?? 0;
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.inlineSize = `${Math.round(share * 100)}%`;
  return [
    h("span", { class: `sign ${answer.verdict}` }, icon(VERDICTS[answer.verdict])),
    h(
      "div",
      {},
      h("p", { class: "sentence" }, t(`verdict.${answer.verdict}`)),
      h("p", { class: "because" }, bar, h("span", {}, t("verdict.confidence", { share: percent(share) }))),
    ),
  ];
}

function latencyOf(answer, took) {
  const stages = Object.entries(answer.ms);
  const inside = stages.reduce((sum, [, value]) => sum + value, 0);
  const longest = Math.max(...stages.map(([, value]) => value), 0.001);
  const rows = stages.map(([stage, value]) => {
    const bar = h("i");
    bar.style.inlineSize = `${(100 * value) / longest}%`;
    return h(
      "div",
      {},
      h("dt", {}, stage.replaceAll("_", " ")),
      h("dd", {}, h("span", { class: "bar", "aria-hidden": "true" }, bar), milliseconds(value)),
    );
  });
  return h(
    "details",
    {},
    h(
      "summary",
      {},
      icon("clock"),
      h("span", {}, t("latency.line", { inside: milliseconds(inside), took: milliseconds(took) })),
    ),
    h("dl", {}, ...rows),
    h(
      "p",
      { class: "hint" },
      t("latency.version", { index: answer.index, version: answer.index_version }) +
        (answer.action ? ` · ${t("latency.action", { action: answer.action })}` : ""),
    ),
  );
}

/** What follows from an answer that is shown. */
function arrived(answer) {
  say(
    answer.hits.length
      ? t("status.found", { n: answer.hits.length, count: answer.hits.length, first: nameOf(answer.hits[0]) })
      : t("empty.title"),
  );
  one("filter-panel").update(state.where, answer.facets);
  mark(answer);
  const base = { ...state, near: [], top: TOP };
  if (!asks(base)) return;
  const address = format(base).slice(location.pathname.length);
  const subject = `${photo?.ids[0] ?? state.photo ?? ""} ${state.text.trim()} ${state.photo || state.text.trim() ? "" : state.like.join(" ")}`;
  remember({ address, subject, text: state.text.trim(), photo: state.photo });
}

function listenForAnswers() {
  const toggle = (name, other) => (event) => {
    const { sku_id: sku } = event.detail.hit;
    const chosen = state[name].includes(sku);
    const list = state[name].filter((each) => each !== sku);
    say(t(`judged.${name}.${chosen ? "off" : "on"}`, { name: nameOf(event.detail.hit) }));
    const base = state.near.length
      ? { near: [], photo: null, also: [], text: "", item: null, box: null, whole: false, like: [state.near.at(-1)] }
      : {};
    const liked = { ...state, ...base };
    go({
      ...base,
      [name]: chosen ? list : [...liked[name].filter((each) => each !== sku), sku],
      [other]: liked[other].filter((each) => each !== sku),
    });
    $("answers-title").focus({ preventScroll: true });
  };
  addEventListener("like", toggle("like", "unlike"));
  addEventListener("unlike", toggle("unlike", "like"));
  addEventListener("near", (event) => {
    go({ near: [...state.near, event.detail.hit.sku_id] });
    $("answers-title").focus({ preventScroll: true });
    scrollTo({ top: 0 });
  });
  addEventListener("open", (event) =>
    one("product-dialog").show(event.detail.hit, event.detail.answer, state, abilities()),
  );
  addEventListener("why", ({ detail: { hit, answer } }) => {
    const region = state.also.length
      ? {} // its first item
      : state.box || state.item || state.whole
        ? regionOf(state)
        : answer.item
          ? { item: answer.item }
          : answer.box
            ? { box: answer.box }
            : { whole: true };
    const body = { photo_id: state.photo, sku_id: hit.sku_id, index: answer.index, ...region };
    one("why-dialog").show(hit, photo, (signal) => ask("explain", { body, signal }));
  });
  addEventListener("thumb", async ({ detail: { hit, answer, pressed } }) => {
    const good = pressed.dataset.good === "true";
    try {
      await ask("feedback", { body: { request_id: answer.request_id, sku_id: hit.sku_id, good } });
      for (const node of pressed.parentElement.children)
        node.setAttribute("aria-pressed", String(node === pressed));
      say(t("thumbs.thanks"));
    } catch (error) {
      tell({ kind: "error", error });
    }
  });
}

// ---- Everything else ----------------------------------------------------------------------------------------

function listen() {
  const typed = debounced(() => words(true), TYPING);
  const words = (replace) => {
    typed.cancel();
    typing = false;
    const text = $("text").value.trim();
    if (text !== state.text.trim() || state.near.length)
      go({ text, near: [] }, { replace: replace && asks(state) && state.text !== "" });
  };
  $("text").addEventListener("input", () => {
    typing = true;
    typed();
  });
  $("words").addEventListener("submit", (event) => {
    event.preventDefault();
    words(false);
  });
  const weighed = debounced(() => go({ weight: Number($("weight").value) }, { replace: true }), 150);
  $("weight").addEventListener("input", weighed);
  $("avoid").addEventListener("submit", (event) => {
    event.preventDefault();
    const word = $("avoid-words").value.trim();
    if (!word || state.not.includes(word)) return;
    $("avoid-words").value = "";
    go({ not: [...state.not, word] });
  });
  one("filter-panel").addEventListener("where", (event) => go({ where: event.detail }));
  one("photo-stage").addEventListener("choose", (event) =>
    go({ item: null, box: null, whole: false, near: [], ...event.detail }),
  );
  $("photo-remove").addEventListener("click", () => {
    go({ photo: null, also: [], item: null, box: null, whole: false, weight: 0.5, near: [] });
    $("text").focus();
  });
  $("home").addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(nothing());
  });
  $("share").addEventListener("click", share);
  $("operators").addEventListener("click", () => one("operators-drawer").show());
  addEventListener("popstate", () => {
    state = parse(location.search);
    run();
  });
  addEventListener("keydown", (event) => {
    const writes = event.target.closest?.("input, textarea, select, dialog[open]");
    if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      $("text").focus();
      $("text").select();
    } else if (event.key === "Escape" && event.target === $("text")) $("text").blur();
  });
}

async function share() {
  const told = t(state.photo ? "share.copied_photo" : "share.copied", { n: service.photo_minutes });
  try {
    if (navigator.share && matchMedia("(pointer: coarse)").matches)
      return await navigator.share({ url: location.href, title: document.title });
    await navigator.clipboard.writeText(location.href);
    say(told);
    $("share").dataset.done = "";
    $("share").lastChild.textContent = told;
    setTimeout(() => ($("share").lastChild.textContent = t("share.label")), 4000);
  } catch (error) {
    if (!isAborted(error)) tell({ kind: "error", text: t("share.failed", { address: location.href }) });
  }
}

async function begin() {
  $("share").append(icon("link"), h("span", {}, t("share.label")));
  $("operators").append(h("span", {}, t("operators.open")));
  listenForPhotos();
  listenForAnswers();
  listen();
  $("more-panel").open = matchMedia("(min-width: 60rem)").matches;
  document.documentElement.removeAttribute("data-waiting");
  state = parse(location.search);
  let failure = null;
  await greet().catch((error) => (failure = error));
  $("title").textContent = service.title;
  if (!running) await run(); // else somebody was faster
  if (failure && !asks(state))
    tell({ kind: "error", error: failure, action: [t("retry"), () => location.reload()] });
  if (!asks(state)) loadColumns();
}

/** Asks what the service can do. */
async function greet() {
  service = await ask("service");
  const skus = service.indexes[0]?.num_skus ?? 0;
  const key = service.feedback ? "about.feedback" : "about";
  $("about").textContent = t(key, { n: skus, count: skus, minutes: service.photo_minutes });
}

begin();
