// <why-dialog>: where a photo and a product's picture are alike, drawn over both, and the places that match.

import { isAborted } from "./api.js";
import { closesOnBackdrop, h, openDialog } from "./dom.js";
import { dialogHead } from "./product.js";
import { nameOf } from "./results.js";
import { percent, t } from "./words.js";

const COLOURS = ["#ffb000", "#5ab4ff", "#ff7ab6", "#7ee081", "#c9a2ff"]; // of pairs, on the darkened pictures
const LINE = { gap: 0.14, badge: 11 };

export class WhyDialog extends HTMLElement {
  #running = null;
  #drawn = null;

  connectedCallback() {
    if (this.dialog) return;
    this.title_ = h("h2", { id: "why-title" });
    this.canvas = h("canvas", { role: "img" });
    this.says = h("p", { class: "says" });
    this.pairs = h("ol", { class: "pairs" });
    this.strength = h("input", {
      type: "range",
      min: "0",
      max: "1",
      step: "0.05",
      value: "0.75",
      id: "why-strength",
    });
    this.strength.addEventListener("input", () => this.#draw());
    this.controls = h(
      "label",
      { class: "strength", for: "why-strength" },
      h("span", {}, t("why.strength")),
      this.strength,
    );
    this.note = h("p", { class: "note" });
    this.state = h("p", { class: "state", role: "status" });
    this.body = h(
      "div",
      { class: "why" },
      h("div", { class: "drawing" }, this.canvas),
      this.says,
      this.controls,
      this.pairs,
      this.note,
    );
    this.dialog = closesOnBackdrop(
      h(
        "dialog",
        { class: "wide", "aria-labelledby": "why-title" },
        dialogHead(this.title_, () => this.dialog.close()),
        this.state,
        this.body,
      ),
    );
    this.dialog.addEventListener("close", () => this.#running?.abort());
    this.append(this.dialog);
    new ResizeObserver(() => this.#draw()).observe(this.canvas.parentElement);
  }

  /** Opens and explains `hit`. `explain(signal)` asks the service; `photo` is that of photos.js. */
  async show(hit, photo, explain) {
    this.#running?.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    this.#drawn = null;
    this.title_.textContent = t("why.title", { name: nameOf(hit) });
    this.state.textContent = t("why.waiting");
    this.state.hidden = false;
    this.body.hidden = true;
    this.dialog.setAttribute("aria-busy", "true");
    openDialog(this.dialog);
    try {
      const answer = await explain(signal);
      const [left, right] = await Promise.all([
        createImageBitmap(photo.blob),
        answer.view_url ? loaded(answer.view_url) : null,
      ]);
      if (signal.aborted) return;
      this.#drawn = { answer, left, right, only: null };
      this.#tell(answer);
      this.state.hidden = true;
      this.body.hidden = false;
      this.#draw();
    } catch (error) {
      if (!isAborted(error)) this.state.textContent = error.message;
    } finally {
      if (!signal.aborted) this.dialog.removeAttribute("aria-busy");
    }
  }

  #tell(answer) {
    this.says.textContent = t(answer.pairs.length ? "why.says" : "why.says_map", {
      cosine: percent(Math.max(0, answer.cosine)),
      n: answer.pairs.length,
    });
    this.canvas.setAttribute(
      "aria-label",
      t("why.picture", { n: answer.pairs.length, pairs: answer.pairs.length }),
    );
    this.pairs.replaceChildren(
      ...answer.pairs.map((pair, place) => {
        const only = (on) => {
          if (!this.#drawn) return;
          this.#drawn.only = on ? place : null;
          this.#draw();
        };
        const dot = h("i", { class: "dot" }, String(place + 1));
        dot.style.setProperty("--dot", COLOURS[place % COLOURS.length]);
        const points = Math.round(100 * (pair.lead ?? 0));
        const lead = points > 0 ? ` · ${t("why.lead", { n: points })}` : "";
        return h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              class: "pair",
              onfocus: () => only(true),
              onblur: () => only(false),
              onpointerenter: () => only(true),
              onpointerleave: () => only(false),
            },
            dot,
            h("span", {}, t("why.pair", { share: percent(Math.max(0, pair.similarity)) }) + lead),
          ),
        );
      }),
    );
    this.note.textContent = answer.left_out || t("why.note");
  }

  #draw() {
    if (!this.#drawn || this.body.hidden) return;
    const { answer, left, right, only } = this.#drawn;
    const width = this.canvas.parentElement.clientWidth;
    const maps = right && answer.view ? [answer.photo, answer.view] : [answer.photo];
    const gap = maps.length === 2 ? Math.round(width * LINE.gap) : 0;
    const ratios = maps.map((map) => map.width / map.height);
    const height = Math.min(
      (width - gap) / ratios.reduce((one, other) => one + other),
      420,
      innerHeight * 0.5,
    );
    const used = ratios.reduce((sum, ratio) => sum + ratio * height, gap);
    const places = [];
    let x = (width - used) / 2;
    for (const [number, map] of maps.entries()) {
      places.push({ map, x, y: 0, scale: height / map.height, width: ratios[number] * height, height });
      x += ratios[number] * height + gap;
    }
    const sharp = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * sharp);
    this.canvas.height = Math.round(height * sharp);
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(sharp, sharp);
    pen.clearRect(0, 0, width, height);
    const [x1, y1, x2, y2] = answer.box ?? [0, 0, left.width, left.height];
    this.#heat(pen, places[0], left, [x1, y1, x2 - x1, y2 - y1]);
    if (places[1]) {
      this.#heat(pen, places[1], right, [0, 0, right.naturalWidth, right.naturalHeight]);
      const shown = [...answer.pairs.entries()].filter(([number]) => only === null || only === number);
      for (const draw of [link, badge])
        for (const [number, pair] of shown) draw(pen, pair, number, places, only === number);
    }
  }

  /** Draws a picture, dark where its map is low and glowing where it is high. */
  #heat(pen, { map, x, y, scale, width, height }, image, [left, top, across, down]) {
    pen.save();
    pen.beginPath();
    pen.roundRect(x, y, width, height, 10);
    pen.clip();
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, left, top, across, down, x, y, width, height);
    pen.globalAlpha = Number(this.strength.value);
    const [x1, y1, x2, y2] = map.seen;
    pen.drawImage(heat(map.cells), x + x1 * scale, y + y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale);
    pen.restore();
  }
}

/** A small picture of a map, from its lowest to its highest value: dark blue and opaque, clear, amber. */
function heat(cells) {
  const rows = cells.length;
  const columns = cells[0].length;
  const all = cells.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  for (const [place, value] of all.entries()) {
    const share = high > low ? (value - low) / (high - low) : 0.5;
    const [red, green, blue, alpha] =
      share < 0.6 ? [10, 14, 40, 1 - share / 0.6] : [255, 170, 40, (share - 0.6) * 0.9];
    pixels.data.set([red, green, blue, Math.round(alpha * 225)], 4 * place);
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const smooth = new OffscreenCanvas(columns * 16, rows * 16); // two steps: softer than one
  const pen = smooth.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, smooth.width, smooth.height);
  return smooth;
}

const boxesOf = (pair, [first, second]) => [
  rectangle(pair.photo_box, first),
  rectangle(pair.view_box, second),
];
const middle = ([x, y, width, height]) => [x + width / 2, y + height / 2];

function link(pen, pair, number, places, strong) {
  const colour = COLOURS[number % COLOURS.length];
  const boxes = boxesOf(pair, places);
  const [from, to] = boxes.map(middle);
  for (const [style, wide] of [
    ["rgb(0 0 0 / 60%)", 3],
    [colour, 0],
  ]) {
    pen.strokeStyle = style;
    pen.lineWidth = (strong ? 3 : 2) + wide;
    for (const box of boxes) {
      pen.beginPath();
      pen.roundRect(...box, 4);
      pen.stroke();
    }
    const [start, end] = [boxes[0][0] + boxes[0][2], boxes[1][0]];
    pen.beginPath();
    pen.moveTo(start, from[1]);
    pen.bezierCurveTo(start + (end - start) / 2, from[1], start + (end - start) / 2, to[1], end, to[1]);
    pen.stroke();
  }
}

function badge(pen, pair, number, places) {
  for (const [x, y] of boxesOf(pair, places).map(middle)) {
    pen.beginPath();
    pen.arc(x, y, LINE.badge, 0, 2 * Math.PI);
    pen.fillStyle = COLOURS[number % COLOURS.length];
    pen.fill();
    pen.fillStyle = "#111";
    pen.font = "700 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(String(number + 1), x, y + 1);
  }
}

const rectangle = ([x1, y1, x2, y2], { x, y, scale }) => [
  x + x1 * scale,
  y + y1 * scale,
  (x2 - x1) * scale,
  (y2 - y1) * scale,
];

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

customElements.define("why-dialog", WhyDialog);
