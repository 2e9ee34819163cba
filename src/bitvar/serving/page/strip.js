/** The scales of an image: grid, share of the tokens, and the image after each of them. */

import { imageAfter, paint } from "./items.js";
import { byId, make } from "./dom.js";

/** @typedef {import("./items.js").Item} Item */

const LESSON = "Coarse to fine: each grid of tokens adds what the ones before left out. The bar is its share of all tokens.";

/** @param {import("./app.js").App} app */
export function showStrip(app) {
  const strip = byId("strip");
  /** @type {{key: string, cells: ReturnType<typeof cell>[]}} */
  let shown = { key: "", cells: [] };

  app.store.watch(
    (state) => [state.items, state.selected, state.view, state.held],
    (items, selected, view, held) => {
      const item = app.find(selected);
      strip.hidden = !item || view !== "single" || item.scales.length === 0;
      if (!item || strip.hidden) return;
      const key = `${item.id} ${item.scales.length}`;
      if (key !== shown.key) shown = { key, cells: build(strip, item, app) };
      shown.cells.forEach((one, index) => one.update(item, held === index));
    },
  );
}

/** @param {HTMLElement} strip @param {Item} item @param {import("./app.js").App} app */
function build(strip, item, app) {
  const total = item.scales.reduce((sum, scale) => sum + scale.tokens, 0);
  const cells = item.scales.map((scale, index) => cell(scale, { index, total, item, app }));
  const list = make("ol", { class: "scales", role: "list" }, ...cells.map((one) => one.element));
  list.addEventListener("pointerleave", () => app.hold(null));
  list.addEventListener("focusout", (event) => {
    if (!list.contains(/** @type {Node | null} */ (event.relatedTarget))) app.hold(null);
  });
  strip.replaceChildren(list, make("p", { class: "lesson" }, LESSON));
  return cells;
}

/**
 * @param {import("./items.js").Scale} scale
 * @param {{index: number, total: number, item: Item, app: import("./app.js").App}} place
 */
function cell({ grid: [rows, columns], tokens }, { index, total, item: { native }, app }) {
  const share = (100 * tokens) / total;
  const percent = share < 1 ? "< 1 %" : `${Math.round(share)} %`;
  const image = make("img", { alt: "", draggable: "false", hidden: true });
  const picture = make("span", { class: "scale-picture" }, image, make("span", { class: "scale-grid" }));
  picture.style.setProperty("--rows", String(rows));
  picture.style.setProperty("--columns", String(columns));
  picture.style.setProperty("--ratio", String(native[0] / native[1]));
  const bar = make("span", { class: "scale-bar" }, make("i"));
  bar.style.setProperty("--share", `${share}%`);
  const element = make(
    "button",
    { type: "button", class: "scale", "aria-label": `Scale ${index + 1}: ${rows} by ${columns} tokens, ${percent} of all` },
    picture,
    make("span", { class: "scale-size" }, `${rows} × ${columns}`),
    bar,
    make("span", { class: "scale-share" }, percent),
  );
  for (const event of ["pointerenter", "focus", "click"]) element.addEventListener(event, () => app.hold(index));

  /** @param {Item} item @param {boolean} isHeld */
  const update = (item, isHeld) => {
    const blob = imageAfter(item, index);
    image.hidden = !blob;
    paint(image, item, blob);
    element.classList.toggle("held", isHeld);
    element.classList.toggle("next", item.status === "drawing" && item.reached === index);
    element.setAttribute("aria-pressed", String(isHeld));
  };
  return { element: make("li", {}, element), update };
}
