// <filter-panel>: the columns that narrow a search, with counts. It says a new choice by the event "where".

import { button, h } from "./dom.js";
import { columnName } from "./results.js";
import { number, t } from "./words.js";

const FEW = 6; // values that are shown at first
const NAMED = { burgundy: "#6d1a36", lilac: "#b9a3d0", mint: "#98d8b8", mustard: "#d1a126" }; // colours CSS has no name for
const COLOURS = /^(colou?r|colou?r_name)$/i;

export class FilterPanel extends HTMLElement {
  #all = [];
  #open = new Set();
  #state = { where: {}, counts: null };

  /** Takes the columns of the whole index. */
  set columns(facets) {
    this.#all = facets;
    this.#render();
  }

  /** Shows a choice, and counts over the answers; without new ones the last stay. */
  update(where, counts = this.#state.counts) {
    this.#state = { where, counts };
    this.#render();
  }

  #say(where) {
    this.dispatchEvent(new CustomEvent("where", { detail: where, bubbles: true }));
  }

  #render() {
    const focused = this.contains(document.activeElement) ? document.activeElement.id : null;
    this.replaceChildren(
      ...this.#all.map((facet, place) =>
        facet.counts ? this.#values(facet, place) : this.#range(facet, place),
      ),
    );
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  #values({ column, counts }, place) {
    const chosen = [this.#state.where[column] ?? []].flat().map(String);
    const here = this.#state.counts?.[column];
    const count = (value) =>
      here && (!chosen.length || chosen.includes(value)) ? (here[value] ?? 0) : counts[value];
    const narrowed = here && !chosen.length;
    const known = Object.keys(counts);
    const values = known.toSorted(
      (one, other) =>
        chosen.includes(other) - chosen.includes(one) || (narrowed ? count(other) - count(one) : 0),
    );
    const open = this.#open.has(column);
    const shown = open ? values : values.slice(0, Math.max(FEW, chosen.length));
    const rows = shown.map((value) => {
      const id = `f-${place}-${known.indexOf(value)}`;
      const box = h("input", { type: "checkbox", id, ...(chosen.includes(value) && { checked: true }) });
      box.addEventListener("change", () => this.#toggle(column, value, box.checked));
      return h(
        "li",
        { class: count(value) === 0 ? "none" : "" },
        box,
        h("label", { for: id }, swatch(column, value), h("span", {}, value)),
        h("span", { class: "count" }, number(count(value))),
      );
    });
    const rest = values.length - shown.length;
    return h(
      "fieldset",
      {},
      h("legend", {}, columnName(column)),
      h("ul", { role: "list" }, ...rows),
      (rest > 0 || open) &&
        button(
          {
            label: open ? t("filters.fewer") : t("filters.more", { n: rest, rest }),
            class: "link",
            id: `f-${place}-more`,
            "aria-expanded": String(open),
          },
          () => {
            if (!this.#open.delete(column)) this.#open.add(column);
            this.#render();
          },
        ),
    );
  }

  #toggle(column, value, on) {
    const chosen = [this.#state.where[column] ?? []]
      .flat()
      .map(String)
      .filter((each) => each !== value);
    const { [column]: _, ...others } = this.#state.where;
    const next = on ? [...chosen, value] : chosen;
    this.#say(next.length ? { ...others, [column]: next } : others);
  }

  #range({ column, ends: [low, high] }, place) {
    const range = this.#state.where[column] ?? {};
    const numeric = typeof low === "number";
    const field = (name, label, hint) => {
      const id = `f-${place}-${name}`;
      const input = h("input", {
        id,
        type: numeric ? "number" : "date",
        ...(numeric && { inputmode: "decimal", step: "any" }),
        placeholder: numeric ? number(hint, 2) : null,
        min: hint === low ? null : low,
        value: range[name] ?? null,
      });
      input.addEventListener("change", () => {
        const { [column]: _, ...others } = this.#state.where;
        const { [name]: __, ...rest } = Array.isArray(range) ? {} : range;
        const value = input.value === "" ? {} : { [name]: numeric ? Number(input.value) : input.value };
        const next = { ...rest, ...value };
        this.#say(Object.keys(next).length ? { ...others, [column]: next } : others);
      });
      return h("label", { for: id }, h("span", {}, label), input);
    };
    return h(
      "fieldset",
      {},
      h("legend", {}, columnName(column)),
      h("div", { class: "range" }, field("gte", t("filters.from"), low), field("lte", t("filters.to"), high)),
    );
  }
}

/** A dot in the colour that a value of a colour column names, if there is such a colour. */
function swatch(column, value) {
  if (!COLOURS.test(column)) return null;
  const named = value.toLowerCase().replaceAll(" ", "");
  const colour = NAMED[named] ?? named;
  if (!/^(#[0-9a-f]{6}|[a-z]+)$/.test(colour) || !CSS.supports("color", colour)) return null;
  const dot = h("i", { class: "swatch" });
  dot.style.setProperty("--swatch", colour);
  return dot;
}

customElements.define("filter-panel", FilterPanel);
