/**
 * The images that the page knows: waiting, being drawn, finished.
 *
 * @typedef {"waiting" | "drawing" | "done" | "stopped" | "failed"} Status
 * @typedef {{grid: [number, number], tokens: number, preview: Blob | null}} Scale
 * @typedef {object} Item
 * @property {string} id
 * @property {string} run  id that the images of one press of the button share
 * @property {number} created  when that was, in milliseconds
 * @property {number} position  place in the run
 * @property {Status} status
 * @property {string} note  how the drawing goes, or why it failed
 * @property {import("./settings.js").Settings} settings
 * @property {import("./sizes.js").Size} native  size that the model draws
 * @property {Blob | null} image  the file, with its settings inside
 * @property {Scale[]} scales  coarse to fine; empty for a file that was opened
 * @property {number} reached  number of scales that are done
 * @property {string[]} warnings
 * @property {number | null} seconds  time that drawing took
 * @property {boolean} [transparent]  whether its files have an alpha channel
 * @property {import("./edit.js").Edit | null} [edit]  how it was made from another image; none for a new one
 */

/** Stands for the image that the selected one was made from, where an id is expected. */
export const SOURCE = "source";

/** Make an id that no other image has. Pages on plain HTTP have no `crypto.randomUUID`. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(3)), (word) => word.toString(36)).join("");
}

/** @type {WeakMap<Blob, string>} */
const urls = new WeakMap();

/**
 * Make the address of a blob, always the same one for the same blob.
 * @param {Blob} blob
 */
export function urlOf(blob) {
  const known = urls.get(blob);
  if (known) return known;
  const url = URL.createObjectURL(blob);
  urls.set(blob, url);
  return url;
}

/**
 * Show a file of an item in an element, on a checkerboard if it can be transparent.
 * @param {HTMLImageElement} image
 * @param {Item} item
 * @param {Blob | null} blob  null leaves what is there
 */
export function paint(image, item, blob) {
  if (blob && image.getAttribute("src") !== urlOf(blob)) image.src = urlOf(blob);
  image.classList.toggle("transparent", item.transparent === true);
}

/** Let the browser forget the addresses of an item's blobs. @param {Item} item */
export function releaseUrls(item) {
  for (const blob of [item.image, item.edit?.source, item.edit?.mask, ...item.scales.map((scale) => scale.preview)]) {
    const url = blob && urls.get(blob);
    if (url) URL.revokeObjectURL(url);
    if (blob) urls.delete(blob);
  }
}

/** The finest image that an item has so far. @param {Item} item */
export function finestOf(item) {
  return item.image ?? item.scales.findLast((scale) => scale.preview)?.preview ?? null;
}

/**
 * The image of an item after one of its scales.
 * @param {Item} item
 * @param {number} scale
 */
export function imageAfter(item, scale) {
  return scale === item.scales.length - 1 ? item.image : (item.scales[scale]?.preview ?? null);
}

/** @param {Item} item */
export function isOpen(item) {
  return item.status === "waiting" || item.status === "drawing";
}

/** Say in words what an image shows. @param {Item} item */
export function altText(item) {
  const what = item.id === SOURCE ? "The image before" : item.settings.prompt.trim() || "An edited image";
  return item.id === SOURCE ? what : `${what}, seed ${item.settings.seed}`;
}

/** The image that an edited one was made from, as a comparison shows it. @param {Item} item @returns {Item | undefined} */
export function sourceOf(item) {
  if (!item.edit) return undefined;
  const { source, size } = item.edit;
  return { ...item, id: SOURCE, image: source, scales: [], transparent: true, settings: { ...item.settings, size } };
}

/** Order images newest first, and those of a run as they were asked for. @param {Item} a @param {Item} b */
export function newestFirst(a, b) {
  return b.created - a.created || a.position - b.position;
}

/** The suffix of a file. @param {Blob} blob */
export function suffixOf(blob) {
  return { "image/webp": "webp", "image/jpeg": "jpg" }[blob.type] ?? "png";
}
