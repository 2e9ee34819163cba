/**
 * The server's HTTP interface: the model, readiness, streamed images, cancelling.
 *
 * @typedef {{path: string, body: string | FormData}} DrawRequest  JSON as text, or a form with images
 * @typedef {{type: string, b64_json: string, bitvar?: Record<string, any>, output_format?: string, size?: string}} ImageEvent
 */

import { EventStreamParser, queuePosition } from "./event_stream.js";
import { parseExact } from "./exact_json.js";

/** An answer that says what is wrong. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, param?: string | null, retryAfter?: number | null}} more
   */
  constructor(message, { status = 0, code = null, param = null, retryAfter = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** No answer, or one that broke off. */
export class Unreachable extends Error {}

/** The routes that the page needs. */
export class Api {
  /** @param {() => string | null} key  the API key, if the user gave one */
  constructor(key) {
    this.key = key;
  }

  /** Get the card of the model that is served. @returns {Promise<Record<string, any>>} */
  async card() {
    const list = await (await this.#fetch("/v1/models")).json();
    const model = list.data.find((/** @type {any} */ entry) => entry.bitvar);
    if (!model) throw new ApiError("The server does not describe its model.", {});
    return model.bitvar;
  }

  /** Ask whether the server draws: "ready", or another word such as "loading". @returns {Promise<string>} */
  async readiness() {
    const response = await reach("/readyz", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (response.ok) return "ready";
    const answer = await response.json().catch(() => ({}));
    return answer.status ?? "loading";
  }

  /**
   * Draw an image.
   * @param {DrawRequest} request
   * @param {object} more
   * @param {AbortSignal} more.signal
   * @param {(id: string) => void} more.onStart  gets the request's id
   * @param {(position: number) => void} more.onQueue
   * @param {(event: ImageEvent) => void} more.onImage  gets every preview, and last the finished image
   */
  async draw({ path, body }, { signal, onStart, onQueue, onImage }) {
    // The browser writes the type of a form, which names its boundary.
    const type = typeof body === "string" ? { "Content-Type": "application/json" } : {};
    const response = await this.#fetch(path, { method: "POST", headers: { ...type, Accept: "text/event-stream" }, body, signal });
    onStart(response.headers.get("x-request-id") ?? "");
    let finished = false;
    for await (const part of partsOf(response)) {
      if (part.kind === "comment") {
        const position = queuePosition(part.text);
        if (position !== null) onQueue(position);
      } else if (part.data !== "[DONE]") {
        const event = /** @type {any} */ (parseExact(part.data));
        if (event.error) throw errorOf(event.error, {});
        finished ||= event.type.endsWith(".completed");
        onImage(event);
      }
    }
    if (!finished) throw new Unreachable("The connection broke off before the image was done.");
  }

  /** Cancel a request by its id. The answer doesn't matter: an aborted request is cancelled anyway. @param {string} id */
  cancel(id) {
    const path = `/v1/requests/${encodeURIComponent(id)}`;
    return this.#fetch(path, { method: "DELETE", keepalive: true }).catch(() => undefined);
  }

  /** @param {string} path @param {RequestInit} [options] */
  async #fetch(path, options = {}) {
    const key = this.key();
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const response = await reach(path, { ...options, headers });
    if (!response.ok) throw await refusalOf(response);
    return response;
  }
}

/** @param {string} path @param {RequestInit} options */
async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw asUnreachable(error, options.signal);
  }
}

/** @param {Response} response */
async function* partsOf(response) {
  const parser = new EventStreamParser();
  const decoder = new TextDecoder();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  try {
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      yield* parser.push(decoder.decode(step.value, { stream: true }));
    }
  } catch (error) {
    throw asUnreachable(error, null);
  }
}

/** @param {unknown} error @param {AbortSignal | null | undefined} signal */
function asUnreachable(error, signal) {
  const name = error instanceof Error ? error.name : "";
  if (name === "AbortError" && (!signal || signal.aborted)) return error;
  if (name === "TypeError" || name === "TimeoutError" || name === "NetworkError") {
    return new Unreachable("The server does not answer.");
  }
  return error;
}

/** @param {Response} response */
async function refusalOf(response) {
  const answer = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("retry-after"));
  const more = { status: response.status, retryAfter: Number.isFinite(wait) && wait > 0 ? wait : null };
  return errorOf(answer.error ?? { message: `The server answered ${response.status}.` }, more);
}

/** @param {any} error @param {{status?: number, retryAfter?: number | null}} more */
function errorOf(error, more) {
  return new ApiError(String(error.message ?? "Something went wrong on the server."), { code: error.code, param: error.param, ...more });
}
