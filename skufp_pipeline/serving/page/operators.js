// <operators-drawer>: versions of the indexes, rules and metrics, for who has an operator's key.

import { ask } from "./api.js";
import { button, closesOnBackdrop, h, openDialog } from "./dom.js";
import { summary } from "./metrics.js";
import { dialogHead } from "./product.js";
import { moment, t } from "./words.js";

const KEY = "skufp.key";
const RULES = ["pin", "bury", "hide"];

export class OperatorsDrawer extends HTMLElement {
  connectedCallback() {
    if (this.dialog) return;
    this.told = h("p", { class: "told", role: "status" });
    this.body = h("div");
    this.dialog = closesOnBackdrop(
      h(
        "dialog",
        { class: "drawer", "aria-labelledby": "operators-title" },
        dialogHead(h("h2", { id: "operators-title" }, t("operators.title")), () => this.dialog.close()),
        this.told,
        this.body,
      ),
    );
    this.append(this.dialog);
  }

  show() {
    this.#tell("");
    openDialog(this.dialog);
    return sessionStorage.getItem(KEY) ? this.#load() : this.#askKey();
  }

  #tell(text, bad = false) {
    this.told.textContent = text;
    this.told.classList.toggle("bad", bad);
  }

  #ask(path, options = {}) {
    return ask(path, { key: sessionStorage.getItem(KEY), ...options });
  }

  /** Does something and says how it went; afterwards everything is read again. */
  async #act(act) {
    this.dialog.setAttribute("aria-busy", "true");
    try {
      await act();
      await this.#load();
      this.#tell(t("operators.done"));
    } catch (error) {
      this.#refused(error);
    } finally {
      this.dialog.removeAttribute("aria-busy");
    }
  }

  #refused(error) {
    if (error.status === 401 || error.status === 403) {
      sessionStorage.removeItem(KEY);
      this.#askKey();
    }
    this.#tell(error.message, true);
  }

  #askKey() {
    const field = h("input", {
      id: "operators-key",
      type: "password",
      autocomplete: "off",
      required: true,
      spellcheck: "false",
      "aria-describedby": "operators-key-hint",
    });
    const form = h(
      "form",
      {},
      h("label", { for: "operators-key" }, t("operators.key"), field),
      h("p", { class: "hint", id: "operators-key-hint" }, t("operators.key_hint")),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "submit", class: "primary" }, t("operators.unlock")),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, field.value.trim());
      this.#tell("");
      this.#load();
    });
    this.body.replaceChildren(form);
    field.focus();
  }

  async #load() {
    try {
      const [{ indexes }, { rules, problem }, metrics] = await Promise.all([
        this.#ask("index"),
        this.#ask("rules"),
        this.#ask("metrics", { as: "text", from: document.baseURI }),
      ]);
      const forget = button({ label: t("operators.forget"), class: "link" }, () => {
        sessionStorage.removeItem(KEY);
        this.#askKey();
      });
      const refresh = button({ label: t("operators.refresh") }, () => this.#load());
      this.body.replaceChildren(
        this.#metrics(metrics),
        this.#versions(indexes),
        this.#rules(rules, problem),
        h("section", { class: "buttons" }, refresh, forget),
      );
    } catch (error) {
      this.#refused(error);
    }
  }

  #metrics(text) {
    const tiles = summary(text).map(([name, value]) =>
      h("div", {}, h("dt", {}, t(`operators.metrics.${name}`)), h("dd", {}, value)),
    );
    return h("section", {}, h("h3", {}, t("operators.metrics")), h("dl", { class: "tiles" }, ...tiles));
  }

  #versions(indexes) {
    const one = ({ name, versions, failed }) =>
      h(
        "div",
        { class: "index" },
        h(
          "div",
          { class: "row" },
          h("h4", {}, name),
          button({ label: t("operators.reload"), class: "link" }, () =>
            this.#act(() => this.#ask("index/reload", { body: { index: name } })),
          ),
        ),
        failed &&
          h(
            "p",
            { class: "told bad" },
            t("operators.failed", { version: failed.version, reason: failed.reason }),
          ),
        table(
          [t("operators.version"), t("operators.when"), ""],
          versions.map((each) => [
            each.version,
            moment(each.created),
            each.state !== "published"
              ? t(`operators.state.${each.state.replace(" ", "_")}`)
              : button(
                  {
                    label: t("operators.rollback"),
                    class: "link",
                    "aria-label": t("operators.rollback_to", { version: each.version }),
                  },
                  () =>
                    this.#act(() =>
                      this.#ask("index/rollback", { body: { index: name, version: each.version } }),
                    ),
                ),
          ]),
        ),
      );
    return h("section", {}, h("h3", {}, t("operators.versions")), ...indexes.map(one));
  }

  #rules(rules, problem) {
    const rows = rules.map(({ sku_id: sku, rule, bias }) => [
      sku,
      t(`operators.rule.${rule}`) +
        (rule === "hide" || bias === null || bias === undefined ? "" : ` (${bias})`),
      button({ label: t("operators.delete", { sku }), symbol: "x", only: true, class: "round small" }, () =>
        this.#act(() => this.#ask(`rules/${encodeURIComponent(sku)}`, { method: "DELETE" })),
      ),
    ]);
    const sku = h("input", { id: "rule-sku", required: true, autocomplete: "off" });
    const rule = h(
      "select",
      { id: "rule-kind" },
      ...RULES.map((each) => h("option", { value: each }, t(`operators.rule.${each}`))),
    );
    const bias = h("input", {
      id: "rule-bias",
      type: "number",
      step: "any",
      min: "0",
      max: "4",
      placeholder: t("operators.usual"),
      inputmode: "decimal",
    });
    rule.addEventListener("change", () => (bias.disabled = rule.value === "hide"));
    const form = h(
      "form",
      {},
      h(
        "div",
        { class: "row" },
        h("label", { for: "rule-sku" }, t("operators.sku"), sku),
        h("label", { for: "rule-kind" }, t("operators.rule"), rule),
      ),
      h(
        "div",
        { class: "row" },
        h("label", { for: "rule-bias" }, t("operators.bias"), bias),
        h("button", { type: "submit", class: "primary" }, t("operators.add")),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const body = {
        rule: rule.value,
        ...(bias.value !== "" && !bias.disabled && { bias: Number(bias.value) }),
      };
      this.#act(() => this.#ask(`rules/${encodeURIComponent(sku.value.trim())}`, { method: "PUT", body }));
    });
    return h(
      "section",
      {},
      h("h3", {}, t("operators.rules")),
      problem && h("p", { class: "told bad" }, problem),
      rows.length
        ? table([t("operators.sku"), t("operators.rule"), ""], rows)
        : h("p", { class: "hint" }, t("operators.no_rules")),
      form,
    );
  }
}

function table(heads, rows) {
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, ...heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td"))))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell) => h("td", {}, cell))))),
  );
}

customElements.define("operators-drawer", OperatorsDrawer);
