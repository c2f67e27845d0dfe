// <result-grid>: the answers of one search as cards. Events: "near", "like", "unlike", "why", "open", "thumb".

import { button, h, icon } from "./dom.js";
import { has, number, percent, t } from "./words.js";

const MOST_FIELDS = 3; // on a card
let made = 0;

/** The word, symbol and colour of a similarity in whole per cent, as it is shown. */
function grade(similarity) {
  if (similarity >= 70) return { name: "high", word: t("grade.high"), symbol: "full" };
  if (similarity >= 40) return { name: "middle", word: t("grade.middle"), symbol: "half" };
  return { name: "low", word: t("grade.low"), symbol: "hollow" };
}

/** The mark of a similarity: a symbol, the per cent and the word for it. */
export function gradeMark(similarity) {
  const { name, word, symbol } = grade(Math.round(similarity));
  return h(
    "p",
    { class: `grade ${name}` },
    icon(symbol),
    h("b", {}, percent(similarity / 100)),
    h("span", {}, word),
  );
}

/** What a product is called. */
export const nameOf = (product) => product.title || capital(product.category ?? "") || product.sku_id;

const capital = (text) => text.replace(/^./u, (first) => first.toLocaleUpperCase());

/** The picture of a product; `size` is that of the longer side, in pixels. */
export function picture(product, size, props = {}) {
  if (!product.image_url)
    return h("span", { class: "no-picture" }, icon("image"), h("span", {}, t("card.no_picture")));
  const mark = product.image_url.includes("?") ? "&" : "?";
  return h("img", { src: `${product.image_url}${mark}size=${size}`, alt: "", decoding: "async", ...props });
}

/** The rows of a product's fields: name and value, empty ones left out. */
export function fieldRows(product) {
  const fields = Object.entries(product.fields).filter(([, value]) => value !== null && value !== "");
  return fields.map(([name, value]) => [
    columnName(name),
    Array.isArray(value) ? value.join(", ") : typeof value === "number" ? number(value, 2) : String(value),
  ]);
}

/** What a column is called on the page. */
export const columnName = (column) =>
  has(`column.${column}`) ? t(`column.${column}`) : capital(column.replaceAll("_", " "));

export class ResultGrid extends HTMLElement {
  #hits = [];

  connectedCallback() {
    if (this.list) return;
    this.list = h("ul", { class: "grid", role: "list" });
    this.append(this.list);
    this.list.addEventListener("keydown", (event) => this.#walk(event));
    this.list.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) this.#rove(card);
    });
  }

  /** Shows as many grey cards as answers are expected. */
  wait(count) {
    this.setAttribute("aria-busy", "true");
    if (this.#hits.length) return this.toggleAttribute("stale", true);
    const bones = () =>
      h("li", { class: "card bones", "aria-hidden": "true" }, h("div", { class: "picture" }), h("i"), h("i"));
    this.list.replaceChildren(...Array.from({ length: count }, bones));
  }

  /** Shows answers. `can` says what a card offers: why, thumbs; `state` what is liked and disliked. */
  show(answer, state, can) {
    this.answer = answer;
    this.can = can;
    this.#hits = answer.hits;
    this.removeAttribute("stale");
    this.setAttribute("aria-busy", "false");
    this.list.replaceChildren(...answer.hits.map((hit) => this.#card(hit, state)));
    const [first] = this.list.children;
    if (first) this.#rove(first);
  }

  /** Puts the focus on a card. */
  focusOn(place) {
    this.list.children[place]?.querySelector(".open").focus();
  }

  clear() {
    this.#hits = [];
    this.removeAttribute("stale");
    this.setAttribute("aria-busy", "false");
    this.list.replaceChildren();
  }

  #say(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail: { ...detail, answer: this.answer }, bubbles: true }));
  }

  #card(hit, state) {
    const id = `card-${++made}`;
    const name = nameOf(hit);
    const act = (label, symbol, event, props = {}) =>
      button({ label, symbol, only: true, class: "round", ...props }, (click) =>
        this.#say(event, { hit, pressed: click.currentTarget }),
      );
    return h(
      "li",
      { class: "card", "data-sku": hit.sku_id, "aria-labelledby": id },
      h(
        "div",
        { class: "picture" },
        picture(hit, 320, { loading: hit.rank > 8 ? "lazy" : "eager" }),
        hit.rule === "pin" && h("span", { class: "badge" }, icon("pin"), t("card.pinned")),
        h(
          "div",
          { class: "judge" },
          act(t("card.like", { name }), "heart", "like", {
            "aria-pressed": String(state.like.includes(hit.sku_id)),
          }),
          act(t("card.unlike", { name }), "less", "unlike", {
            "aria-pressed": String(state.unlike.includes(hit.sku_id)),
          }),
        ),
      ),
      h(
        "div",
        { class: "text" },
        h(
          "h2",
          { id },
          h("button", { type: "button", class: "open", onclick: () => this.#say("open", { hit }) }, name),
        ),
        h(
          "p",
          { class: "sub" },
          hit.title && hit.category ? `${hit.category} · ` : "",
          h("span", { class: "sku" }, hit.sku_id),
        ),
        fields(hit),
        hit.matched.length > 0 &&
          h("p", { class: "matched" }, t("card.matched", { words: hit.matched.join(", ") })),
        gradeMark(hit.similarity_percent),
      ),
      h(
        "div",
        { class: "acts" },
        button({ label: t("card.near"), class: "quiet", "aria-describedby": id }, () =>
          this.#say("near", { hit }),
        ),
        this.can.why &&
          button({ label: t("card.why"), class: "quiet", "aria-describedby": id }, () =>
            this.#say("why", { hit }),
          ),
        this.can.thumbs &&
          h(
            "span",
            { class: "thumbs", role: "group", "aria-label": t("thumbs.label", { name }) },
            t("thumbs.ask"),
            act(t("thumbs.good"), "thumb", "thumb", { "data-good": "true", "aria-pressed": "false" }),
            act(t("thumbs.bad"), "thumb-down", "thumb", { "data-good": "false", "aria-pressed": "false" }),
          ),
      ),
    );
  }

  /** One card's buttons can be reached by Tab at a time; arrows go from card to card. */
  #rove(chosen) {
    for (const card of this.list.children)
      for (const node of card.querySelectorAll("button")) node.tabIndex = card === chosen ? 0 : -1;
  }

  #walk(event) {
    const card = event.target.closest(".card");
    if (!card || (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End")) return;
    const cards = [...this.list.children];
    const place = cards.indexOf(card);
    const columns = cards.filter((each) => each.offsetTop === cards[0].offsetTop).length;
    const ahead = document.documentElement.dir === "rtl" ? -1 : 1;
    const steps = {
      ArrowLeft: -ahead,
      ArrowRight: ahead,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -place,
      End: cards.length - 1 - place,
    };
    const next = cards[place + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.querySelector(".open").focus();
  }
}

function fields(hit) {
  const rows = fieldRows(hit).slice(0, MOST_FIELDS);
  return (
    rows.length > 0 &&
    h(
      "dl",
      { class: "fields" },
      ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    )
  );
}

customElements.define("result-grid", ResultGrid);
