/**
 * The text of an event stream (server-sent events), cut anywhere, as events and comments.
 *
 * @typedef {{kind: "event", type: string, data: string} | {kind: "comment", text: string}} StreamPart
 */

/** Parse an event stream piece by piece. */
export class EventStreamParser {
  #rest = "";
  #started = false;
  /** @type {string[]} */
  #data = [];
  #type = "";

  /**
   * Take the next piece of text, and return what it completes.
   * @param {string} piece
   * @returns {StreamPart[]}
   */
  push(piece) {
    let text = this.#rest + piece;
    if (!this.#started && text) {
      text = text.replace(/^\uFEFF/, "");
      this.#started = true;
    }
    // A carriage return at the very end may be half of a line end.
    const open = text.endsWith("\r") ? "\r" : "";
    const lines = text.slice(0, text.length - open.length).split(/\r\n|\n|\r/);
    this.#rest = (lines.pop() ?? "") + open;
    return lines.flatMap((line) => this.#line(line));
  }

  /** @param {string} line @returns {StreamPart[]} */
  #line(line) {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return [{ kind: "comment", text: line.slice(1).trim() }];
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    return [];
  }

  /** @returns {StreamPart[]} */
  #dispatch() {
    const data = this.#data;
    const type = this.#type || "message";
    this.#data = [];
    this.#type = "";
    return data.length ? [{ kind: "event", type, data: data.join("\n") }] : [];
  }
}

/**
 * Read a number of waiting requests from a comment such as `queue=3`.
 * @param {string} comment
 * @returns {number | null}
 */
export function queuePosition(comment) {
  const match = /\bqueue=(\d+)/.exec(comment);
  return match ? Number(match[1]) : null;
}
