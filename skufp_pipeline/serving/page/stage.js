// <photo-stage>: the photo, the items found in it, and one box to move and resize by mouse, finger or keys.
// Boxes are x1, y1, x2, y2 in pixels of the upright photo. It says what was chosen by the event "choose".

import { button, debounced, h } from "./dom.js";
import { has, percent, t } from "./words.js";

const LEAST = 8; // pixels of a side of a box
const EDGES = { nw: [0, 1], n: [1], ne: [2, 1], e: [2], se: [2, 3], s: [3], sw: [0, 3], w: [0] };

export class PhotoStage extends HTMLElement {
  #photo = null;
  #box = null;
  #url = null;
  #drag = null;
  #pressed = false; // keys have moved the box, and nothing was said of it yet
  #settle = debounced(() => this.#choose({ box: this.#box }), 450);

  connectedCallback() {
    if (this.firstChild) return;
    this.image = h("img", { alt: t("photo.alt"), decoding: "async" });
    this.items = h("div", { class: "items" });
    this.frame = h(
      "div",
      {
        class: "box",
        tabindex: "0",
        role: "application",
        "aria-roledescription": t("box.role"),
        hidden: true,
      },
      ...Object.keys(EDGES).map((edge) => h("i", { class: `handle ${edge}`, "data-edge": edge })),
    );
    this.canvas = h("div", { class: "canvas" }, this.image, this.items, this.frame);
    this.missing = h("p", { class: "missing", hidden: true });
    this.chips = h("div", { class: "regions", role: "group", "aria-label": t("regions.label") });
    this.hint = h("p", { class: "hint", id: "box-hint" });
    this.frame.setAttribute("aria-describedby", "box-hint");
    this.append(this.canvas, this.missing, this.chips, this.hint);
    this.frame.addEventListener("pointerdown", (event) => this.#grab(event));
    this.frame.addEventListener("keydown", (event) => this.#press(event));
    this.canvas.addEventListener("pointerdown", (event) => this.#draw(event));
    this.image.addEventListener("error", () => this.#unseen(t("photo.unseen")));
    this.image.addEventListener("dragstart", (event) => event.preventDefault());
  }

  /** Shows a photo of `photos.js`, or says that it isn't on this device. */
  photo(photo) {
    if (photo && this.#photo?.blob === photo.blob) return;
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#photo = photo;
    this.#url = photo ? URL.createObjectURL(photo.blob) : null;
    this.#box = null;
    this.#pressed = false;
    this.#settle.cancel();
    this.canvas.hidden = this.chips.hidden = this.hint.hidden = !photo;
    this.missing.hidden = Boolean(photo);
    this.frame.hidden = true;
    if (!photo) return this.#unseen(t("photo.elsewhere"));
    this.image.width = photo.width;
    this.image.height = photo.height;
    this.canvas.style.setProperty("--ratio", photo.width / photo.height);
    this.image.src = this.#url;
    this.#list();
  }

  #unseen(text) {
    this.missing.textContent = text;
    this.missing.hidden = false;
  }

  /** Marks what was searched for: `item` by its number, a box, or the whole; `fixed`
   * says why no part can be chosen: "several" with several photos, "near" for what is like a product. */
  mark({ item, box, whole, fixed }) {
    if (!this.#photo) return;
    const found = this.#photo.items.find((each) => each.number === item);
    for (const node of this.querySelectorAll("[data-item]"))
      node.setAttribute("aria-pressed", String(Number(node.dataset.item) === item && !fixed));
    this.wholeChip.setAttribute(
      "aria-pressed",
      String(!fixed && (whole || (!item && !box))),
    );
    this.hint.textContent = t(`box.hint.${fixed ?? "free"}`);
    this.toggleAttribute("fixed", Boolean(fixed));
    if (this.#drag || this.#pressed) return;
    const { width, height } = this.#photo;
    this.#place(box ?? found?.box ?? [0, 0, width, height]);
    this.frame.hidden = Boolean(fixed);
  }

  #list() {
    const items = [...this.#photo.items];
    const largest = [...items].sort((one, other) => area(other.box) - area(one.box)); // small ones on top
    this.items.replaceChildren(
      ...largest.map((item) => {
        const node = h("button", {
          type: "button",
          class: "item",
          "data-item": item.number,
          "aria-pressed": "false",
          tabindex: "-1",
          "aria-hidden": "true",
          onclick: () => this.#choose({ item: item.number }),
        });
        this.#put(node, item.box);
        return node;
      }),
    );
    this.wholeChip = button({ label: t("regions.whole"), class: "chip", "aria-pressed": "false" }, () =>
      this.#choose({ whole: true }),
    );
    this.chips.replaceChildren(
      ...items.map((item) => {
        const label = t("regions.item", { number: item.number, label: label_of(item.label) });
        return button(
          {
            label,
            class: "chip",
            "data-item": item.number,
            "aria-pressed": "false",
            title: t("regions.score", { share: percent(item.score) }),
          },
          () => this.#choose({ item: item.number }),
        );
      }),
      this.wholeChip,
    );
  }

  #choose(region) {
    this.#settle.cancel();
    this.#pressed = false;
    this.dispatchEvent(new CustomEvent("choose", { detail: region, bubbles: true }));
  }

  #put(node, [x1, y1, x2, y2]) {
    const { width, height } = this.#photo;
    node.style.left = `${(100 * x1) / width}%`;
    node.style.top = `${(100 * y1) / height}%`;
    node.style.width = `${(100 * (x2 - x1)) / width}%`;
    node.style.height = `${(100 * (y2 - y1)) / height}%`;
  }

  #place(box) {
    const { width, height } = this.#photo;
    const least = Math.min(LEAST, width, height);
    let [x1, y1, x2, y2] = box.map(Math.round);
    x1 = clamp(x1, 0, width - least);
    y1 = clamp(y1, 0, height - least);
    x2 = clamp(x2, x1 + least, width);
    y2 = clamp(y2, y1 + least, height);
    this.#box = [x1, y1, x2, y2];
    this.frame.setAttribute("aria-label", t("box.label", { x1, y1, x2, y2, width, height }));
    this.frame.toggleAttribute("whole", (x2 - x1) * (y2 - y1) === width * height); // a finger scrolls over it
    this.#put(this.frame, this.#box);
  }

  #moved([x1, y1, x2, y2], right, down) {
    const { width, height } = this.#photo;
    right = clamp(right, -x1, width - x2);
    down = clamp(down, -y1, height - y2);
    return [x1 + right, y1 + down, x2 + right, y2 + down];
  }

  #press(event) {
    const step = Math.max(1, Math.round(0.03 * Math.max(this.#photo.width, this.#photo.height)));
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[
      event.key
    ];
    if (event.key === "Enter") return this.#choose({ box: this.#box });
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const [x1, y1, x2, y2] = this.#box;
    const least = Math.min(LEAST, this.#photo.width, this.#photo.height);
    if (event.shiftKey)
      this.#place([x1, y1, Math.max(x1 + least, x2 + way[0]), Math.max(y1 + least, y2 + way[1])]);
    else this.#place(this.#moved(this.#box, ...way));
    this.#pressed = true;
    this.#settle();
  }

  #grab(event) {
    if (event.button !== 0) return;
    event.stopPropagation();
    this.#follow(event, event.target.dataset.edge ?? "move", this.#box);
  }

  /** Draws a new box with the mouse; a finger scrolls. */
  #draw(event) {
    if (event.button !== 0 || event.pointerType === "touch" || this.hasAttribute("fixed") || !this.#photo)
      return;
    const [x, y] = this.#at(event);
    this.#follow(event, "draw", [x, y, x, y]);
  }

  #at(event) {
    const seen = this.canvas.getBoundingClientRect();
    const { width, height } = this.#photo;
    return [
      clamp(((event.clientX - seen.left) / seen.width) * width, 0, width),
      clamp(((event.clientY - seen.top) / seen.height) * height, 0, height),
    ];
  }

  #follow(event, edge, box) {
    const pressed = event.target.closest("button");
    const start = this.#at(event);
    let moved = false;
    const move = (next) => {
      const [x, y] = this.#at(next);
      const [right, down] = [x - start[0], y - start[1]];
      const seen = this.canvas.getBoundingClientRect();
      if (
        !moved &&
        Math.hypot((right / this.#photo.width) * seen.width, (down / this.#photo.height) * seen.height) < 4
      )
        return;
      if (!moved) {
        moved = true;
        this.#drag = edge;
        this.frame.hidden = false;
        this.canvas.setPointerCapture(event.pointerId);
      }
      this.#place(this.#dragged(edge, box, right, down, [x, y]));
    };
    const end = (last) => {
      this.canvas.removeEventListener("pointermove", move);
      this.canvas.removeEventListener("pointerup", end);
      this.canvas.removeEventListener("pointercancel", end);
      this.#drag = null;
      if (moved && last.type === "pointerup") {
        if (pressed)
          this.canvas.addEventListener("click", (click) => click.stopPropagation(), {
            capture: true,
            once: true,
          });
        this.#choose({ box: this.#box });
      } else if (!pressed && edge === "move") this.#tap(last);
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }

  /** A tap on the box goes to the item under it. */
  #tap(event) {
    const [x, y] = this.#at(event);
    const under = this.#photo.items
      .filter(({ box: [x1, y1, x2, y2] }) => x >= x1 && x < x2 && y >= y1 && y < y2)
      .sort((one, other) => area(one.box) - area(other.box))
      .find((item) => String(item.box) !== String(this.#box));
    if (under) this.#choose({ item: under.number });
  }

  #dragged(edge, box, right, down, at) {
    if (edge === "move") return this.#moved(box, right, down);
    if (edge === "draw") {
      const [x, y] = box;
      return [Math.min(x, at[0]), Math.min(y, at[1]), Math.max(x, at[0]), Math.max(y, at[1])];
    }
    const next = [...box];
    const least = Math.min(LEAST, this.#photo.width, this.#photo.height);
    for (const side of EDGES[edge]) {
      next[side] += side % 2 ? down : right;
      if (side < 2) next[side] = Math.min(next[side], box[side + 2] - least);
      else next[side] = Math.max(next[side], box[side - 2] + least);
    }
    return next;
  }
}

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const label_of = (label) => (has(`label.${label}`) ? t(`label.${label}`) : label);

customElements.define("photo-stage", PhotoStage);
