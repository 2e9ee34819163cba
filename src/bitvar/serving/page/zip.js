/** ZIP archives without compression: images are compressed already. */

import { crc32 } from "./crc32.js";

const UTF8_NAMES = 0x0800;
const LARGEST = 0xffffffff;

/**
 * Pack files into one archive.
 * @param {{name: string, data: Uint8Array}[]} files
 * @param {Date} [when]  the date that all files get
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function zip(files, when = new Date()) {
  if (files.length > 0xffff) throw new RangeError(`${files.length} files are too many for one archive.`);
  const entries = files.map(({ name, data }) => ({ name: new TextEncoder().encode(name), data, crc: crc32(data), offset: 0 }));
  /** @type {Uint8Array[]} */
  const parts = [];
  let length = 0;
  const append = (/** @type {Uint8Array[]} */ ...pieces) => {
    for (const piece of pieces) {
      parts.push(piece);
      length += piece.length;
    }
  };
  for (const entry of entries) {
    entry.offset = length;
    append(header(0x04034b50, [], entry, when, []), entry.name, entry.data);
  }
  const directory = length;
  for (const entry of entries) {
    append(header(0x02014b50, [[2, 20]], entry, when, [[2, 0], [2, 0], [2, 0], [4, 0], [4, entry.offset]]), entry.name);
  }
  const size = length - directory;
  const count = entries.length;
  append(fields([[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, directory], [2, 0]]));
  if (length > LARGEST) throw new RangeError("The images are too large for one archive; export fewer.");
  return joined(parts, length);
}

/**
 * @param {number} signature
 * @param {[number, number][]} before
 * @param {{name: Uint8Array, data: Uint8Array, crc: number}} entry
 * @param {Date} when
 * @param {[number, number][]} after
 */
function header(signature, before, entry, when, after) {
  const time = (when.getHours() << 11) | (when.getMinutes() << 5) | (when.getSeconds() >> 1);
  const date = (Math.max(0, when.getFullYear() - 1980) << 9) | ((when.getMonth() + 1) << 5) | when.getDate();
  const size = entry.data.length;
  const common = [[2, 20], [2, UTF8_NAMES], [2, 0], [2, time], [2, date], [4, entry.crc], [4, size], [4, size], [2, entry.name.length], [2, 0]];
  return fields([[4, signature], ...before, .../** @type {[number, number][]} */ (common), ...after]);
}

/** @param {[number, number][]} values  width in bytes, and value */
function fields(values) {
  const bytes = new Uint8Array(values.reduce((sum, [width]) => sum + width, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [width, value] of values) {
    if (width === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += width;
  }
  return bytes;
}

/** @param {Uint8Array[]} parts @param {number} length */
function joined(parts, length) {
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
