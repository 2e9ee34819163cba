/** What the stage shows before the first image: the idea of scales, and prompts to begin with. */

import { button, make } from "./dom.js";

const MOST_EXAMPLES = 6;
const SIDES = [1, 2, 4, 8];

/** @param {(prompt: string) => void} onExample */
export function welcomeView(onExample) {
  const examples = make("div", { class: "examples" });
  const element = make(
    "div",
    { class: "welcome" },
    make("div", { class: "idea", "aria-hidden": "true" }, ...SIDES.map(gridDrawing)),
    make("p", { class: "welcome-title" }, "From one token to a whole image."),
    make("p", { class: "welcome-text" }, "Write a prompt, and watch the image appear coarse to fine."),
    examples,
  );
  /** @param {Record<string, any> | null} card */
  const update = (card) => {
    const all = /** @type {string[]} */ (card?.examples ?? []);
    examples.replaceChildren(...spread(all, MOST_EXAMPLES).map((prompt) => button(prompt, () => onExample(prompt), { class: "chip" })));
  };
  return { element, update };
}

/**
 * Take values from all over a list, both ends included. An even step could meet every time the same of kinds in turn.
 * @template Value
 * @param {Value[]} values @param {number} count  2 or more
 */
export function spread(values, count) {
  if (values.length <= count) return values;
  return Array.from({ length: count }, (_, index) => values[Math.round((index * (values.length - 1)) / (count - 1))]);
}

/** @param {number} side */
function gridDrawing(side) {
  const grid = make("div", { class: "idea-grid" });
  grid.style.setProperty("--side", String(side));
  for (let index = 0; index < side * side; index++) {
    const cell = make("i");
    // A disc that the finer grids resolve better and better.
    const [x, y] = [((index % side) + 0.5) / side - 0.5, (Math.floor(index / side) + 0.5) / side - 0.5];
    const inside = side === 1 ? 0.55 : Math.min(1, Math.max(0.12, (0.5 - Math.hypot(x, y)) * side * 0.55 + 0.3));
    cell.style.setProperty("--ink", String(inside));
    grid.append(cell);
  }
  return grid;
}
