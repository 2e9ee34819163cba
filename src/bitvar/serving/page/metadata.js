/**
 * The settings that bitvar stores inside image files: a text chunk of a PNG, or an EXIF comment of a WebP or JPEG.
 * No pixel is decoded.
 */

import { crc32 } from "./crc32.js";
import { parseExact } from "./exact_json.js";

const KEY = "bitvar";
const COMMENT_KIND = "ASCII\0\0\0";
const EXIF_POINTER = 0x8769;
const USER_COMMENT = 0x9286;
const LARGEST_TEXT = 240_000;

/** A file whose settings can't be read, with a sentence for the user. */
export class MetadataError extends Error {
  /** Whether the file is an image that simply has no settings. */
  isForeign = false;
}

/**
 * Read the settings inside an image file.
 * @param {Uint8Array} bytes
 * @returns {Promise<Record<string, unknown> | null>}  null if the file has none
 */
export async function readRecord(bytes) {
  const text = await textIn(bytes);
  if (text === null) return null;
  if (text.length > LARGEST_TEXT) throw new MetadataError("The settings in this file are too long to be bitvar's.");
  let record;
  try {
    record = parseExact(text);
  } catch {
    throw new MetadataError("The settings in this file are damaged: they are no JSON.");
  }
  if (typeof record !== "object" || record === null || Array.isArray(record)) {
    throw new MetadataError("The settings in this file are damaged: they are no JSON object.");
  }
  return /** @type {Record<string, unknown>} */ (record);
}

/**
 * Tell the media type of an image by its first bytes.
 * @param {Uint8Array} bytes
 * @returns {"image/png" | "image/webp" | "image/jpeg" | null}
 */
export function mediaTypeOf(bytes) {
  const start = latin1(bytes.subarray(0, 12));
  if (start.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (start.startsWith("RIFF") && start.slice(8) === "WEBP") return "image/webp";
  if (start.startsWith("\xff\xd8\xff")) return "image/jpeg";
  return null;
}

/**
 * Tell whether an image file has an alpha channel, by its header.
 * @param {Uint8Array} bytes
 */
export function hasAlpha(bytes) {
  const kind = mediaTypeOf(bytes);
  if (kind === "image/png") return bytes[25] === 4 || bytes[25] === 6; // grey or RGB, with alpha
  if (kind !== "image/webp") return false;
  const chunk = latin1(bytes.subarray(12, 16));
  return (chunk === "VP8X" && (bytes[20] & 0x10) !== 0) || (chunk === "VP8L" && (bytes[24] & 0x10) !== 0);
}

/** @param {Uint8Array} bytes @returns {Promise<string | null>} */
async function textIn(bytes) {
  switch (mediaTypeOf(bytes)) {
    case "image/png":
      return pngText(bytes);
    case "image/webp":
      return commentIn(webpExif(bytes));
    case "image/jpeg":
      return commentIn(jpegExif(bytes));
    default:
      throw new MetadataError("This is not a PNG, WebP or JPEG file.");
  }
}

/** @param {Uint8Array} bytes */
async function pngText(bytes) {
  const view = viewOf(bytes);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin1(bytes.subarray(at + 4, at + 8));
    const end = at + 8 + length;
    if (kind === "IEND" || end + 4 > bytes.length) return null;
    const body = bytes.subarray(at + 8, end);
    if (["tEXt", "zTXt", "iTXt"].includes(kind) && latin1(body.subarray(0, KEY.length + 1)) === `${KEY}\0`) {
      if (crc32(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
        throw new MetadataError("The settings in this file are damaged: their checksum is wrong.");
      }
      return unpackText(kind, body.subarray(KEY.length + 1));
    }
    at = end + 4;
  }
  return null;
}

/** @param {string} kind @param {Uint8Array} rest */
async function unpackText(kind, rest) {
  if (kind === "tEXt") return latin1(rest);
  if (kind === "zTXt") return latin1(await inflate(rest.subarray(1)));
  const language = rest.indexOf(0, 2);
  const translated = rest.indexOf(0, language + 1);
  if (language < 0 || translated < 0) throw new MetadataError("The settings in this file are damaged.");
  const text = rest.subarray(translated + 1);
  return new TextDecoder().decode(rest[0] === 1 ? await inflate(text) : text);
}

/** @param {Uint8Array} packed */
async function inflate(packed) {
  const stream = new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const pieces = [];
  let length = 0;
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      pieces.push(step.value);
      length += step.value.length;
      if (length > LARGEST_TEXT) throw new RangeError("too long");
    }
  } catch {
    throw new MetadataError("The settings in this file are damaged or too long.");
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** @param {Uint8Array} bytes */
function webpExif(bytes) {
  const view = viewOf(bytes);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (latin1(bytes.subarray(at, at + 4)) === "EXIF") return bytes.subarray(at + 8, at + 8 + length);
    at += 8 + length + (length % 2);
  }
  return null;
}

/** @param {Uint8Array} bytes */
function jpegExif(bytes) {
  const view = viewOf(bytes);
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1];
    const length = view.getUint16(at + 2);
    if (marker === 0xda || marker === 0xd9 || length < 2) return null;
    const body = bytes.subarray(at + 4, at + 2 + length);
    if (marker === 0xe1 && latin1(body.subarray(0, 6)) === "Exif\0\0") return body;
    at += 2 + length;
  }
  return null;
}

/**
 * Find the text in the comment of EXIF data.
 * @param {Uint8Array | null} exif
 */
function commentIn(exif) {
  if (exif === null) return null;
  const tiff = latin1(exif.subarray(0, 6)) === "Exif\0\0" ? exif.subarray(6) : exif;
  const comment = userComment(tiff);
  const [before, after] = [`{"${KEY}": `, "}"];
  return comment?.startsWith(before) && comment.endsWith(after) ? comment.slice(before.length, -after.length) : null;
}

/** @param {Uint8Array} tiff @returns {string | null} */
function userComment(tiff) {
  const order = latin1(tiff.subarray(0, 2));
  if (tiff.length < 8 || (order !== "II" && order !== "MM")) return null;
  const little = order === "II";
  const view = viewOf(tiff);
  const pointer = entryOf(view, view.getUint32(4, little), EXIF_POINTER, little);
  if (pointer === null) return null;
  const entry = entryOf(view, view.getUint32(pointer + 8, little), USER_COMMENT, little);
  if (entry === null) return null;
  const length = view.getUint32(entry + 4, little);
  const start = length > 4 ? view.getUint32(entry + 8, little) : entry + 8;
  const text = new TextDecoder().decode(tiff.subarray(start, start + length));
  return text.startsWith(COMMENT_KIND) ? text.slice(COMMENT_KIND.length) : null;
}

/**
 * Find an entry of a TIFF directory.
 * @param {DataView} view @param {number} start @param {number} tag @param {boolean} little
 * @returns {number | null}  its offset
 */
function entryOf(view, start, tag, little) {
  if (start + 2 > view.byteLength) return null;
  const count = view.getUint16(start, little);
  for (let index = 0; index < count; index++) {
    const at = start + 2 + 12 * index;
    if (at + 12 > view.byteLength) return null;
    if (view.getUint16(at, little) === tag) return at;
  }
  return null;
}

/** @param {Uint8Array} bytes */
function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** @param {Uint8Array} bytes */
function latin1(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
