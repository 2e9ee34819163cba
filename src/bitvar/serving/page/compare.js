/** Two images on top of each other, with a slider between them. */

import { SOURCE, altText, finestOf, paint } from "./items.js";
import { perScaleText } from "./settings.js";
import { make, setText } from "./dom.js";

/** @typedef {import("./items.js").Item} Item */

/** Make the comparison. */
export function compareView() {
  const [left, right] = [make("img", { draggable: "false" }), make("img", { draggable: "false" })];
  const [leftLabel, rightLabel] = [make("figcaption", { class: "left" }), make("figcaption", { class: "right" })];
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50, step: 0.5, "aria-label": "Boundary between the two images" });
  const handle = make("span", { class: "compare-handle", "aria-hidden": "true" });
  const element = make("figure", { class: "compare" }, left, right, handle, leftLabel, rightLabel, slider);
  const move = () => element.style.setProperty("--boundary", `${slider.value}%`);
  slider.addEventListener("input", move);
  move();

  /** @param {Item} first @param {Item} second */
  const update = (first, second) => {
    element.style.setProperty("--ratio", String(first.settings.size[0] / first.settings.size[1]));
    show(left, first);
    show(right, second);
    const [leftText, rightText] = differences(first, second);
    setText(leftLabel, leftText);
    setText(rightLabel, rightText);
  };
  return { element, update };
}

/** @param {HTMLImageElement} image @param {Item} item */
function show(image, item) {
  paint(image, item, finestOf(item));
  image.alt = altText(item);
}

/** Label each image by what sets it apart. @param {Item} first @param {Item} second */
function differences(first, second) {
  if (first.id === SOURCE) return ["Before", "After"];
  const names = /** @type {const} */ (["prompt", "seed", "guidance_scale", "temperature"]);
  const words = { prompt: "", seed: "seed ", guidance_scale: "guidance ", temperature: "temperature " };
  const differing = names.filter((name) => String(first.settings[name]) !== String(second.settings[name]));
  const shown = differing.length ? differing.slice(0, 2) : /** @type {const} */ (["seed"]);
  const label = (/** @type {Item} */ item) => shown.map((name) => words[name] + perScaleText(/** @type {any} */ (item.settings[name]))).join(", ");
  return [label(first), label(second)];
}
