/** What the page tells: short messages, the state of the server, and words for screen readers. */

import { byId, setText } from "./dom.js";

const BRIEF_TIME = 10_000;

/** @returns {(text: string, undo?: () => void, more?: {brief?: boolean}) => void}  what can be undone, or is brief, goes away by itself */
export function prepareToast() {
  const toast = byId("toast");
  const action = byId("toast-action");
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let goesAway = false;
  const close = () => {
    clearTimeout(timer);
    toast.hidden = true;
  };
  const closeLater = () => {
    clearTimeout(timer);
    if (goesAway) timer = setTimeout(close, BRIEF_TIME);
  };
  byId("toast-close").addEventListener("click", close);
  // Nobody has to hurry while pointing at the message.
  for (const event of ["pointerenter", "focusin"]) toast.addEventListener(event, () => clearTimeout(timer));
  for (const event of ["pointerleave", "focusout"]) toast.addEventListener(event, closeLater);
  return (text, undo, { brief = undo !== undefined } = {}) => {
    goesAway = brief;
    setText(byId("toast-text"), text);
    action.hidden = !undo;
    action.onclick = () => {
      close();
      undo?.();
    };
    toast.hidden = false;
    announce(undo ? `${text} Undo is available.` : text);
    closeLater();
  };
}

/** Tell screen readers, after what they are saying now. @param {string} text */
export function announce(text) {
  const live = byId("live");
  live.textContent = "";
  // A live region speaks when its text changes, so the same words need a change too.
  requestAnimationFrame(() => setText(live, text));
}

/** @type {Record<import("./connection.js").ServerStatus, string>} */
const SERVER_TEXTS = {
  connecting: "",
  ready: "",
  loading: "The model is loading. You can write your prompt in the meantime.",
  draining: "The server is shutting down and takes no new images.",
  gone: "The server does not answer. Your prompt and your images are kept here; this page keeps trying.",
};

/** @param {import("./app.js").App} app */
export function showServer(app) {
  const banner = byId("banner");
  app.store.watch(
    (state) => [state.server, state.card],
    (server, card) => {
      const text = SERVER_TEXTS[/** @type {import("./connection.js").ServerStatus} */ (server)];
      banner.hidden = !text;
      banner.dataset.server = server;
      setText(byId("banner-text"), text);
      byId("banner-retry").hidden = server !== "gone";
      byId("model").dataset.server = server;
      setText(byId("model"), card ? card.name : server === "connecting" ? "connecting" : "");
      byId("model").title = card ? `${card.digest}, ${card.dtype} on ${card.device}` : "";
    },
  );
  byId("banner-retry").addEventListener("click", () => app.connection.check());
}
