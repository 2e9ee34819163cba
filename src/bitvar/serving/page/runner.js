/** Draws the images of a run, two at a time, and reports how each of them goes. */

import { editFields } from "./edit.js";
import { stringifyWithSeed } from "./exact_json.js";
import { hasAlpha, mediaTypeOf } from "./metadata.js";
import { requestFields } from "./settings.js";
import { ApiError, Unreachable } from "./api.js";

/** @typedef {import("./items.js").Item} Item */

const AT_ONCE = 2;
const LARGEST_PREVIEW = 256;
const BUSY_TRIES = 5;
const LONGEST_WAIT = 20;

/**
 * @typedef {object} Hooks
 * @property {(id: string) => Item | undefined} find
 * @property {(id: string, changes: Partial<Item>) => void} update
 * @property {() => Promise<boolean>} askKey  asks for an API key; false if the user gave none
 * @property {(param: string, message: string) => void} onRefused  gets the field of the request that was refused
 * @property {() => void} onTrouble  called when the server did not answer as expected
 */

/** Draws images until they are done or stopped. */
export class Runner {
  /** @type {string[]} */
  #waiting = [];
  /** @type {Map<string, {controller: AbortController, request: string}>} */
  #drawing = new Map();

  /** @param {import("./api.js").Api} api @param {Hooks} hooks */
  constructor(api, hooks) {
    this.api = api;
    this.hooks = hooks;
  }

  /** Draw items; resolves when none is left. @param {string[]} ids */
  async run(ids) {
    this.#waiting.push(...ids);
    await Promise.all(Array.from({ length: AT_ONCE - this.#drawing.size }, () => this.#work()));
  }

  /** Stop everything at once. */
  stop() {
    for (const id of this.#waiting.splice(0)) this.hooks.update(id, { status: "stopped", note: "Stopped before it began." });
    for (const { controller, request } of this.#drawing.values()) {
      controller.abort();
      if (request) this.api.cancel(request);
    }
  }

  async #work() {
    for (let id = this.#waiting.shift(); id !== undefined; id = this.#waiting.shift()) {
      const controller = new AbortController();
      this.#drawing.set(id, { controller, request: "" });
      try {
        await this.#draw(id, controller.signal);
      } catch (error) {
        this.#fail(id, error, controller.signal);
      } finally {
        this.#drawing.delete(id);
      }
    }
  }

  /** @param {string} id @param {AbortSignal} signal */
  async #draw(id, signal) {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#stream(id, signal);
      } catch (error) {
        if (!(error instanceof ApiError) || signal.aborted) throw error;
        if (error.status === 401 && (await this.hooks.askKey())) continue;
        if (error.status !== 429 || tries > BUSY_TRIES) throw error;
        const wait = Math.min(error.retryAfter ?? tries, LONGEST_WAIT);
        this.hooks.update(id, { note: `The server is busy. Trying again in ${wait} s.` });
        await pause(wait, signal);
      }
    }
  }

  /** @param {string} id @param {AbortSignal} signal */
  async #stream(id, signal) {
    const item = this.hooks.find(id);
    if (!item) return;
    const began = performance.now();
    this.hooks.update(id, { status: "drawing", note: "", reached: 0 });
    await this.api.draw(requestOf(item), {
      signal,
      onStart: (request) => this.#drawing.set(id, { .../** @type {any} */ (this.#drawing.get(id)), request }),
      onQueue: (position) => this.hooks.update(id, { note: position ? `Waiting behind ${position} ${position === 1 ? "request" : "requests"}.` : "" }),
      onImage: (event) => this.#take(id, event, (performance.now() - began) / 1000),
    });
  }

  /** @param {string} id @param {import("./api.js").ImageEvent} event @param {number} elapsed */
  #take(id, event, elapsed) {
    const item = this.hooks.find(id);
    if (!item) return;
    const bytes = bytesOf(event.b64_json);
    const blob = new Blob([bytes], { type: mediaTypeOf(bytes) ?? "application/octet-stream" });
    const transparent = hasAlpha(bytes);
    const more = event.bitvar ?? {};
    if (event.type.endsWith(".completed")) {
      const seconds = more.timings?.drawing_seconds ?? elapsed;
      const native = more.native_size ? nativeOf(more.native_size, item.native) : item.native;
      this.hooks.update(id, { status: "done", note: "", image: blob, reached: item.scales.length, warnings: more.warnings ?? [], seconds, native, transparent });
    } else if (Number.isInteger(more.scale) && item.scales[more.scale]) {
      const scales = item.scales.with(more.scale, { ...item.scales[more.scale], preview: blob });
      this.hooks.update(id, { scales, note: "", reached: more.scale + 1, transparent });
    }
  }

  /** @param {string} id @param {unknown} error @param {AbortSignal} signal */
  #fail(id, error, signal) {
    const item = this.hooks.find(id);
    if (signal.aborted) {
      const reached = item?.reached ? `Stopped after scale ${item.reached} of ${item.scales.length}.` : "Stopped.";
      this.hooks.update(id, { status: "stopped", note: reached });
      return;
    }
    if (!(error instanceof ApiError) && !(error instanceof Unreachable)) {
      this.hooks.update(id, { status: "failed", note: "The page could not read the server's answer." });
      throw error;
    }
    this.hooks.update(id, { status: "failed", note: error.message });
    if (error instanceof ApiError && error.param) this.hooks.onRefused(error.param, error.message);
    if (error instanceof Unreachable || error.status >= 500) {
      for (const other of this.#waiting.splice(0)) this.hooks.update(other, { status: "failed", note: error.message });
      this.hooks.onTrouble();
    }
  }
}

/** @param {Item} item @returns {import("./api.js").DrawRequest} */
function requestOf({ settings, scales, native, edit }) {
  const previews = scales.length - 1;
  const stream = {
    response_format: "b64_json",
    stream: true,
    partial_images: previews,
    ...(previews ? { preview_size: Math.min(Math.max(...native), LARGEST_PREVIEW) } : {}),
  };
  if (!edit) return { path: "/v1/images/generations", body: stringifyWithSeed({ ...requestFields(settings), ...stream }, settings.seed) };
  const body = new FormData();
  for (const [name, value] of Object.entries({ ...editFields(settings, edit), ...stream })) body.append(name, String(value));
  body.append("image", edit.source, "image");
  if (edit.mask) body.append("mask", edit.mask, "mask.png");
  return { path: "/v1/images/edits", body };
}

/** @param {string} base64 */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** @param {unknown} value @param {import("./sizes.js").Size} otherwise @returns {import("./sizes.js").Size} */
function nativeOf(value, otherwise) {
  const sides = Array.isArray(value) ? value : String(value).split("x").map(Number);
  return sides.length === 2 && sides.every(Number.isInteger) ? [sides[0], sides[1]] : otherwise;
}

/** @param {number} seconds @param {AbortSignal} signal */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
