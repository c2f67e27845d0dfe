// Makes elements. Text only ever becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element; `on*` props are listeners, true is an empty attribute, null and false are left out. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Returns an icon of icons.svg; it says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `static/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** Returns a button; `label` is read out and shown as a tip where it has only an icon. */
export function button({ label, symbol, only, ...props }, onclick) {
  const named = only ? { "aria-label": label, title: label } : {};
  return h(
    "button",
    { type: "button", ...named, ...props, onclick },
    symbol && icon(symbol),
    !only && h("span", {}, label),
  );
}

/** Returns a function that runs `act` once nothing has called it for `wait` milliseconds. */
export function debounced(act, wait) {
  let timer = 0;
  const later = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Opens a dialog; a click beside it closes it, and what had the focus gets it back. */
export function openDialog(dialog) {
  if (dialog.open) return;
  const before = document.activeElement;
  dialog.showModal();
  dialog.addEventListener("close", () => before?.isConnected && before.focus({ preventScroll: true }), {
    once: true,
  });
}

/** Closes a dialog when its backdrop is pressed. */
export function closesOnBackdrop(dialog) {
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target !== dialog) return;
    const edge = dialog.getBoundingClientRect();
    const inside =
      event.clientX >= edge.left &&
      event.clientX <= edge.right &&
      event.clientY >= edge.top &&
      event.clientY <= edge.bottom;
    if (!inside) dialog.close();
  });
  return dialog;
}
