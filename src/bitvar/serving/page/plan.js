/** What one press of the button draws: every prompt of a pattern, with every seed and every guidance. */

import { PatternError, countPrompts, expandPattern } from "./patterns.js";
import { seedsFrom } from "./settings.js";

/** Most images of one run. */
export const LARGEST_RUN = 64;

/**
 * @typedef {object} Plan
 * @property {number} count  number of images
 * @property {number} prompts  number of prompts
 * @property {string | null} problem  why it can't be drawn, as a sentence for the user
 */

/**
 * Count what a form asks for.
 * @param {{prompt: string, images: number, guidances: number}} form
 * @returns {Plan}
 */
export function planOf({ prompt, images, guidances }) {
  try {
    const prompts = countPrompts(prompt);
    const count = prompts * images * guidances;
    const problem = count > LARGEST_RUN ? `That makes ${count.toLocaleString("en")} images; at most ${LARGEST_RUN} are drawn at once.` : null;
    return { count, prompts, problem };
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    return { count: 0, prompts: 0, problem: error.message };
  }
}

/**
 * List the settings of every image, in the order in which they are drawn.
 * @param {import("./settings.js").Settings} settings  with a pattern as prompt
 * @param {{images: number, guidances: import("./settings.js").PerScale[]}} more
 * @returns {import("./settings.js").Settings[]}
 */
export function expandRun(settings, { images, guidances }) {
  const seeds = seedsFrom(settings.seed, images);
  return expandPattern(settings.prompt, LARGEST_RUN).flatMap((prompt) =>
    seeds.flatMap((seed) => guidances.map((guidance_scale) => ({ ...settings, prompt, seed, guidance_scale }))),
  );
}
