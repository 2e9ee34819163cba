/** All images of a run; with several guidance values, a table with a row for each seed. */

import { altText, finestOf, isOpen, paint } from "./items.js";
import { perScaleText } from "./settings.js";
import { make, setText } from "./dom.js";

/** @typedef {import("./items.js").Item} Item */

/** @param {(id: string) => void} onChoose */
export function sheetView(onChoose) {
  const element = make("div", { class: "sheet" });
  /** @type {Map<string, ReturnType<typeof tile>>} */
  const tiles = new Map();

  /** @param {Item[]} items */
  const update = (items) => {
    const known = items.every((item) => tiles.has(item.id)) && tiles.size === items.length;
    if (!known) {
      tiles.clear();
      for (const item of items) tiles.set(item.id, tile(item, onChoose));
      element.replaceChildren(...(tableOf(items, tiles) ?? listOf(items, tiles)));
    }
    for (const item of items) tiles.get(item.id)?.update(item);
  };
  return { element, update };
}

/** @param {Item[]} items @param {Map<string, {element: HTMLElement}>} tiles */
function listOf(items, tiles) {
  const severalPrompts = unique(items.map((item) => item.settings.prompt)).length > 1;
  const figures = items.map(({ id, settings }) => {
    const caption = severalPrompts ? settings.prompt : `seed ${settings.seed}`;
    return make("figure", { class: "tile-item" }, tiles.get(id)?.element ?? null, make("figcaption", { title: caption }, caption));
  });
  const list = make("div", { class: "sheet-list" }, ...figures);
  list.style.setProperty("--columns", String(Math.ceil(Math.sqrt(items.length))));
  return [list];
}

/**
 * Arrange a run over seeds and guidance as a table for each prompt.
 * @param {Item[]} items @param {Map<string, {element: HTMLElement}>} tiles
 * @returns {HTMLElement[] | null}  null if guidance is the same everywhere
 */
function tableOf(items, tiles) {
  const guidances = unique(items.map((item) => perScaleText(item.settings.guidance_scale)));
  if (guidances.length < 2) return null;
  const prompts = unique(items.map((item) => item.settings.prompt));
  return prompts.map((prompt) => {
    const own = items.filter((item) => item.settings.prompt === prompt);
    const head = make("tr", {}, make("td"), ...guidances.map((value) => make("th", { scope: "col" }, `guidance ${value}`)));
    const rows = unique(own.map((item) => item.settings.seed)).map((seed) => {
      const cells = guidances.map((value) => {
        const item = own.find((one) => one.settings.seed === seed && perScaleText(one.settings.guidance_scale) === value);
        return make("td", {}, (item && tiles.get(item.id)?.element) ?? null);
      });
      return make("tr", {}, make("th", { scope: "row" }, `seed ${seed}`), ...cells);
    });
    return make("table", { class: "sheet-table" }, make("caption", {}, prompt), make("thead", {}, head), make("tbody", {}, ...rows));
  });
}

/** @param {Item} first @param {(id: string) => void} onChoose */
function tile(first, onChoose) {
  const image = make("img", { alt: "", draggable: "false" });
  const note = make("span", { class: "tile-note" });
  const element = make("button", { type: "button", class: "tile", onclick: () => onChoose(first.id) }, image, note);
  element.style.setProperty("--ratio", String(first.settings.size[0] / first.settings.size[1]));

  /** @param {Item} item */
  const update = (item) => {
    const blob = finestOf(item);
    paint(image, item, blob);
    image.hidden = !blob;
    element.setAttribute("aria-label", `${altText(item)}${item.status === "done" ? "" : `, ${item.note || "being drawn"}`}`);
    element.title = `${altText(item)}, guidance ${perScaleText(item.settings.guidance_scale)}`;
    element.classList.toggle("drawing", isOpen(item));
    element.classList.toggle("failed", item.status === "failed");
    setText(note, item.status === "waiting" || item.status === "done" ? "" : item.note);
  };
  return { element, update };
}

/** @param {string[]} values */
function unique(values) {
  return [...new Set(values)];
}
