/** Files that come in and go out: reading the settings of an image, saving an image, exporting the gallery. */

import { fileName } from "./code.js";
import { MetadataError, hasAlpha, mediaTypeOf, readRecord } from "./metadata.js";
import { settingsOfRecord } from "./settings.js";
import { zip } from "./zip.js";
import { newId, suffixOf } from "./items.js";

/** @typedef {import("./items.js").Item} Item */

/**
 * Read an image file with bitvar's settings.
 * @param {File} file
 * @returns {Promise<Item>}
 * @throws {MetadataError} with a sentence for the user
 */
export async function openImage(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const record = await readRecord(bytes);
  if (record === null) {
    const error = new MetadataError(`${file.name} holds no settings: bitvar didn't make it, or another program removed them.`);
    error.isForeign = true;
    throw error;
  }
  const { settings, native, count, notes } = readSettings(record);
  const several = count > 1 ? [`It is a sheet of ${count} images; these are the settings of the first.`] : [];
  return {
    id: newId(),
    run: "",
    created: Date.now(),
    position: 0,
    status: "done",
    note: "",
    settings: { ...settings, format: mediaTypeOf(bytes) === "image/webp" ? "webp" : "png" },
    native,
    image: new Blob([bytes], { type: mediaTypeOf(bytes) ?? "" }),
    scales: [],
    reached: 0,
    warnings: [...several, ...notes],
    seconds: null,
    transparent: hasAlpha(bytes),
  };
}

/** @param {Record<string, unknown>} record */
function readSettings(record) {
  try {
    return settingsOfRecord(record);
  } catch (error) {
    throw error instanceof TypeError ? new MetadataError(error.message) : error;
  }
}

/** Save an image as the server sent it, with its settings inside. @param {Item} item */
export function downloadImage(item) {
  if (item.image) save(item.image, fileName(item.settings, suffixOf(item.image)));
}

/** Save all images and a list of their settings as one archive. @param {Item[]} items */
export async function exportImages(items) {
  /** @type {{name: string, data: Uint8Array}[]} */
  const files = [];
  const list = [];
  for (const item of items) {
    if (!item.image) continue;
    const number = String(files.length + 1).padStart(4, "0");
    const name = `${number}-${fileName(item.settings, suffixOf(item.image))}`;
    files.push({ name, data: new Uint8Array(await item.image.arrayBuffer()) });
    list.push({ file: name, created: new Date(item.created).toISOString(), ...item.settings, native_size: item.native });
  }
  const settings = new TextEncoder().encode(`${JSON.stringify(list, null, 2)}\n`);
  const archive = zip([...files, { name: "settings.json", data: settings }]);
  save(new Blob([archive], { type: "application/zip" }), `bitvar-${new Date().toISOString().slice(0, 10)}.zip`);
}

/** Let the browser save a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
