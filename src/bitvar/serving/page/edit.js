/**
 * What is edited, and how: the image, the mask on it, and how much of it is kept.
 *
 * @typedef {object} Draft  an edit that is being prepared
 * @property {Blob} source  file of the image
 * @property {import("./sizes.js").Size} size  of the image as it is shown
 * @property {string} name  of the image, for people
 * @property {string} prompt  that it was made from; empty if it isn't known
 * @property {boolean} transparent
 * @property {import("./mask.js").Mask} mask
 *
 * @typedef {object} Edit  an edit as it is sent
 * @property {Blob} source
 * @property {import("./sizes.js").Size} size  of the source
 * @property {Blob | null} mask  transparent where the image may change; null for everywhere
 * @property {boolean} exact  whether the pixels outside the mask stay as they are
 * @property {number} [strength]  share of the scales that are drawn anew
 * @property {number} [keep_scales]  number of coarse scales to keep, in its place
 * @property {string} [source_prompt]  what the image shows: what differs from it changes, in place of both
 */

import { Mask } from "./mask.js";
import { requestFields } from "./settings.js";
import { nativeFor, sizeText } from "./sizes.js";

const LARGEST_PIXELS = 50_000_000;
const LARGEST_EXACT = 4096 * 4096;

/** An image that can't be edited, with a sentence for the user. */
export class EditError extends Error {}

/**
 * Prepare to edit an image.
 * @param {Blob} source
 * @param {{name: string, prompt?: string, transparent?: boolean}} more
 * @returns {Promise<Draft>}
 */
export async function draftOf(source, { name, prompt = "", transparent = false }) {
  /** @type {ImageBitmap} */
  let bitmap;
  try {
    bitmap = await createImageBitmap(source);
  } catch {
    throw new EditError(`${name} can't be read as an image.`);
  }
  const size = /** @type {import("./sizes.js").Size} */ ([bitmap.width, bitmap.height]);
  bitmap.close();
  if (size[0] * size[1] > LARGEST_PIXELS) throw new EditError(`${name} is too large: ${size.join(" × ")} pixels.`);
  return { source, size, name, prompt, transparent, mask: new Mask() };
}

/** Whether an edit of an image can keep its pixels. @param {import("./sizes.js").Size} size */
export function canBeExact([width, height]) {
  return width * height <= LARGEST_EXACT;
}

/**
 * Make an edit of a draft.
 * @param {Draft} draft
 * @param {{strength?: number, keep_scales?: number, source_prompt?: string, exact: boolean, masked: boolean}} choice
 * @returns {Promise<Edit>}
 */
export async function editOf({ source, size, mask }, { exact, masked, ...kept }) {
  const file = masked && mask.coverage(size) > 0 ? await mask.file(size) : null;
  const limited = file !== null || kept.source_prompt !== undefined;
  return { source, size, mask: file, exact: limited && exact && canBeExact(size), ...kept };
}

/**
 * Count the coarse scales that a variation keeps.
 * @param {"layout" | "colours"} kind  what stays
 * @param {number} scales  number of scales of the model's size
 */
export function scalesKept(kind, scales) {
  return kind === "layout" ? Math.max(1, Math.round(scales / 2)) : 1;
}

/**
 * Choose the size of the file that an edit makes, and that the model draws.
 * @param {Edit} edit
 * @param {import("./sizes.js").NativeSize[]} sizes  of the model
 * @param {import("./sizes.js").Size[]} outputs  files that the page offers
 * @returns {{size: import("./sizes.js").Size, native: import("./sizes.js").NativeSize}}
 */
export function sizesOf({ size, exact }, sizes, outputs) {
  const native = nativeFor(sizes, size);
  const offered = outputs.some((output) => sizeText(output) === sizeText(size));
  return { native, size: exact || offered ? size : [native.width, native.height] };
}

/**
 * Make the fields of an edit's form, the images apart: lists and objects as JSON.
 * @param {import("./settings.js").Settings} settings
 * @param {Edit} edit
 * @returns {Record<string, string>}
 */
export function editFields(settings, { exact, strength, keep_scales, source_prompt }) {
  const { size, prompt, ...common } = requestFields(settings);
  const localized = source_prompt === undefined ? {} : { method: "localized", source_prompt };
  const own = { ...(exact ? { exact: true } : { size }), strength, keep_scales, ...localized };
  const fields = { ...(String(prompt).trim() ? { prompt } : {}), ...common, ...own, seed: settings.seed };
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
  );
}

/** Say how much an edit keeps. @param {Edit} edit @param {number} scales  number of scales */
export function keptText({ strength, keep_scales, source_prompt, mask, exact }, scales) {
  const kept = keep_scales === undefined ? `${Math.round(100 * (strength ?? 0))} % drawn anew` : `${keep_scales} of ${scales} scales kept`;
  const drawn = source_prompt === undefined ? kept : "what differs between the prompts";
  return [drawn, ...(exact ? ["the rest exactly as it was"] : mask ? ["within the painted part"] : [])].join(", ");
}
