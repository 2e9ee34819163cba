/** The choice of a shape, as small drawings of it. */

import { make } from "./dom.js";

/**
 * Make a radio button for each shape.
 * @param {import("./sizes.js").Shape[]} shapes
 * @param {(shape: import("./sizes.js").Shape) => void} onChoose
 */
export function shapeChoices(shapes, onChoose) {
  return shapes.map((shape) => {
    const drawing = make("span", { class: "shape-drawing", "aria-hidden": "true" });
    const longest = Math.max(shape.value, 1);
    drawing.style.setProperty("--across", String(shape.value / longest));
    drawing.style.setProperty("--down", String(1 / longest));
    const input = make("input", { type: "radio", name: "shape", value: shape.name, onchange: () => onChoose(shape) });
    return make("label", { class: "shape" }, input, make("span", { class: "shape-box" }, drawing), shape.name);
  });
}
