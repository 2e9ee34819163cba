/** Whether the server is there: asked again every two seconds while it is not. */

import { Unreachable } from "./api.js";

/** @typedef {"connecting" | "ready" | "loading" | "draining" | "gone"} ServerStatus */

const WHILE_AWAY = 2_000;
const WHILE_READY = 20_000;

/** Watch the server, and tell of every change. */
export class Connection {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ServerStatus} */
  #status = "connecting";

  /**
   * @param {import("./api.js").Api} api
   * @param {(status: ServerStatus) => void} onChange
   */
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
  }

  /** Ask now. */
  async check() {
    clearTimeout(this.#timer);
    try {
      this.#become(known(await this.api.readiness()));
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      this.#become("gone");
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.check(), this.#status === "ready" ? WHILE_READY : WHILE_AWAY);
  }

  /** @param {ServerStatus} status */
  #become(status) {
    if (status === this.#status) return;
    this.#status = status;
    this.onChange(status);
  }
}

/** @param {string} word @returns {ServerStatus} */
function known(word) {
  return word === "ready" || word === "draining" ? word : "loading";
}
