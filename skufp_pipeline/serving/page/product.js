// <product-dialog>: one product, large. Its buttons raise the same events as a card's.

import { button, closesOnBackdrop, h, openDialog } from "./dom.js";
import { fieldRows, gradeMark, nameOf, picture } from "./results.js";
import { percent, t } from "./words.js";

/** The head of a dialog: its title and the button that closes it. */
export function dialogHead(title, close) {
  title.tabIndex = -1;
  return h(
    "div",
    { class: "head" },
    title,
    button({ label: t("close"), symbol: "x", only: true, class: "round" }, close),
  );
}

export class ProductDialog extends HTMLElement {
  connectedCallback() {
    if (this.dialog) return;
    this.name = h("h2", { id: "product-title" });
    this.body = h("div", { class: "product" });
    this.dialog = closesOnBackdrop(
      h(
        "dialog",
        { class: "wide", "aria-labelledby": "product-title" },
        dialogHead(this.name, () => this.dialog.close()),
        this.body,
      ),
    );
    this.append(this.dialog);
  }

  /** Opens with a hit of an answer. */
  show(hit, answer, state, can) {
    const say = (name) => () => {
      this.dialog.close();
      this.dispatchEvent(new CustomEvent(name, { detail: { hit, answer }, bubbles: true }));
    };
    const pressed = (list) => ({ "aria-pressed": String(list.includes(hit.sku_id)) });
    this.name.textContent = nameOf(hit);
    const rows = [
      [t("product.sku"), hit.sku_id],
      ...(hit.category ? [[t("product.category"), hit.category]] : []),
      ...fieldRows(hit),
      ...(hit.confidence === null ? [] : [[t("product.confidence"), percent(hit.confidence)]]),
      ...(hit.matched.length ? [[t("product.matched"), hit.matched.join(", ")]] : []),
    ];
    this.body.replaceChildren(
      h(
        "div",
        { class: "picture large" },
        picture(hit, 640, { alt: t("product.picture", { name: nameOf(hit) }) }),
      ),
      h(
        "div",
        { class: "facts" },
        gradeMark(hit.similarity_percent),
        h("dl", {}, ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
        h(
          "div",
          { class: "buttons" },
          button({ label: t("card.near"), symbol: "near", class: "primary" }, say("near")),
          can.why && button({ label: t("card.why"), symbol: "why" }, say("why")),
          button({ label: t("product.like"), symbol: "heart", ...pressed(state.like) }, say("like")),
          button({ label: t("product.unlike"), symbol: "less", ...pressed(state.unlike) }, say("unlike")),
        ),
      ),
    );
    openDialog(this.dialog);
  }
}

customElements.define("product-dialog", ProductDialog);
