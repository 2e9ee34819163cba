/**
 * The settings of one image, and what they are read from and turned into.
 *
 * @typedef {number | number[]} PerScale  one value, or one a scale
 * @typedef {{name: string, scale: number}} Adapter
 * @typedef {"auto" | "transparent" | "opaque"} Background
 * @typedef {"png" | "webp"} FileFormat
 * @typedef {object} Settings
 * @property {string} prompt
 * @property {string} negative_prompt  empty for none
 * @property {string} seed  digits, since a seed has up to 63 bits
 * @property {PerScale} guidance_scale
 * @property {PerScale} temperature
 * @property {number} top_p
 * @property {number} [top_k]  0, for off, if it is missing
 * @property {import("./sizes.js").Size} size  of the file
 * @property {Adapter[]} [adapters]  none if it is missing
 * @property {Background} [background]  "auto" if it is missing, as in images drawn before there was one
 * @property {FileFormat} [format]  of the file; PNG if it is missing
 * @property {string} model
 */

import { sizeText } from "./sizes.js";

const SEEDS = 2n ** 63n;

/** Draw a seed that people can still read out. */
export function randomSeed() {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}

/** @param {string} text @returns {string | null}  the seed's digits, or null if it is none */
export function parseSeed(text) {
  const digits = text.trim();
  return /^\d{1,19}$/.test(digits) && BigInt(digits) < SEEDS ? String(BigInt(digits)) : null;
}

/**
 * Count up from a seed, as the server and the command line do.
 * @param {string} seed @param {number} count
 */
export function seedsFrom(seed, count) {
  return Array.from({ length: count }, (_, index) => String((BigInt(seed) + BigInt(index)) % SEEDS));
}

/**
 * Read one number, or several with commas between them.
 * @param {string} text @param {number} [high]
 * @returns {PerScale | null}  null if it is neither, or out of range
 */
export function parsePerScale(text, high = 100) {
  const values = text.split(",").map((entry) => (entry.trim() === "" ? NaN : Number(entry)));
  if (!values.every((value) => value >= 0 && value <= high)) return null;
  return values.length === 1 ? values[0] : values;
}

/** @param {PerScale} value */
export function perScaleText(value) {
  return Array.isArray(value) ? value.join(", ") : String(value);
}

/** @param {PerScale} guidance @returns {boolean}  whether any scale is guided */
export function isGuided(guidance) {
  return [guidance].flat().some((value) => value !== 1);
}

/**
 * Make the fields of a request, the seed apart.
 * @param {Settings} settings
 * @returns {Record<string, unknown>}
 */
export function requestFields(settings) {
  return {
    ...(settings.model ? { model: settings.model } : {}),
    prompt: settings.prompt,
    ...(sentNegative(settings) ? { negative_prompt: settings.negative_prompt } : {}),
    size: sizeText(settings.size),
    guidance_scale: settings.guidance_scale,
    temperature: settings.temperature,
    ...(settings.top_p ? { top_p: settings.top_p } : {}),
    ...(settings.top_k ? { top_k: settings.top_k } : {}),
    ...(settings.adapters?.length ? { lora: settings.adapters.length === 1 ? settings.adapters[0] : settings.adapters } : {}),
    ...(sentBackground(settings) ? { background: settings.background } : {}),
    ...(formatOf(settings) === "png" ? {} : { output_format: settings.format }),
  };
}

/** @param {Settings} settings  whether the negative prompt takes part: without guidance there is nothing to steer */
export function sentNegative(settings) {
  return settings.negative_prompt.trim() !== "" && isGuided(settings.guidance_scale);
}

/** @param {Settings} settings  whether a request says anything about the background */
export function sentBackground({ background }) {
  return background === "transparent" || background === "opaque";
}

/** @param {Settings} settings @returns {FileFormat} */
export function formatOf({ format }) {
  return format || "png";
}

/**
 * Read the record of an image file.
 * @param {Record<string, unknown>} record
 * @returns {{settings: Settings, native: import("./sizes.js").Size, count: number, notes: string[]}}
 */
export function settingsOfRecord(record) {
  const width = whole(record, "width");
  const height = whole(record, "height");
  const requested = record.exact_size === true ? [whole(record, "requested_width"), whole(record, "requested_height")] : [width, height];
  const enlarge = record.enlarge === undefined ? 1 : whole(record, "enlarge");
  const notes = [];
  if ((record.format ?? 1) !== 2) {
    notes.push(record.format === undefined || record.format === 1
      ? "An earlier version of bitvar made it, with other random numbers: the same seed gives a similar image, not the same one."
      : "A newer version of bitvar made it; some settings may be unknown here.");
  }
  if (record.edit) notes.push("It was made from another image, which is not in the file: these settings alone draw a new one.");
  const seeds = Array.isArray(record.seeds) ? record.seeds : [];
  return {
    settings: {
      prompt: record.edit && record.prompt === "" ? "" : text(record, "prompt"),
      negative_prompt: typeof record.negative_prompt === "string" ? record.negative_prompt : "",
      seed: String((seedOf(record.seed) + BigInt(record.grid === true ? 0 : Number(record.batch_index ?? 0))) % SEEDS),
      guidance_scale: perScale(record, "guidance_scale"),
      temperature: perScale(record, "temperature"),
      top_p: typeof record.top_p === "number" ? record.top_p : 0,
      size: [requested[0] * enlarge, requested[1] * enlarge],
      top_k: typeof record.top_k === "number" ? record.top_k : 0,
      adapters: adaptersOf(record.lora),
      background: backgroundOf(record.background),
      model: typeof record.model === "string" ? record.model.replace(/@[0-9a-f]+$/, "") : "",
    },
    native: [width, height],
    count: Math.max(1, seeds.length),
    notes,
  };
}

/** @param {unknown} lora @returns {Adapter[]} */
function adaptersOf(lora) {
  if (!Array.isArray(lora)) return [];
  return lora.map((entry) => ({ name: text(entry, "name"), scale: Number(entry.weight) }));
}

/** @param {unknown} value @returns {Background} */
function backgroundOf(value) {
  return value === "transparent" || value === "opaque" ? value : "auto";
}

/** @param {unknown} value */
function seedOf(value) {
  const seed = parseSeed(String(value));
  if (seed === null) throw new TypeError("The settings in this file are damaged: it has no seed.");
  return BigInt(seed);
}

/** @param {Record<string, unknown>} record @param {string} name */
function text(record, name) {
  const value = record?.[name];
  if (typeof value !== "string" || !value.trim()) throw new TypeError(`The settings in this file are damaged: it has no ${name}.`);
  return value;
}

/** @param {Record<string, unknown>} record @param {string} name */
function whole(record, name) {
  const value = record[name];
  if (!Number.isInteger(value) || Number(value) < 1) throw new TypeError(`The settings in this file are damaged: it has no ${name}.`);
  return Number(value);
}

/** @param {Record<string, unknown>} record @param {string} name @returns {PerScale} */
function perScale(record, name) {
  const value = record[name];
  const values = [value].flat();
  if (!values.length || !values.every((entry) => typeof entry === "number" && entry >= 0 && entry <= 100)) {
    throw new TypeError(`The settings in this file are damaged: it has no ${name}.`);
  }
  return /** @type {PerScale} */ (value);
}
