/** The settings of the selected image, and what can be done with it. */

import { downloadImage } from "./files.js";
import { formatOf, perScaleText, sentBackground } from "./settings.js";
import { button, byId, make } from "./dom.js";

/** @typedef {import("./items.js").Item} Item */

const FORMAT_NAMES = { png: "PNG", webp: "WebP" };

/**
 * @param {import("./app.js").App} app
 * @param {object} actions
 * @param {(item: Item, extent: "all" | "all but the seed" | "only the prompt") => void} actions.onUse
 * @param {(item: Item) => void} actions.onCode
 */
export function showFacts(app, { onUse, onCode }) {
  const facts = byId("facts");
  let shown = "";
  app.store.watch(
    (state) => [state.items, state.selected, state.view],
    (items, selected, view) => {
      const item = app.find(selected);
      facts.hidden = !item || view !== "single";
      const key = item && !facts.hidden ? `${item.id} ${item.status}` : "";
      if (key === shown) return;
      shown = key;
      if (!item || facts.hidden) facts.replaceChildren();
      else facts.replaceChildren(...factsOf(item), make("div", { class: "facts-actions" }, usesOf(item, onUse), toolsOf(item, app, onCode)));
    },
  );
}

/** @param {Item} item */
function factsOf({ settings, native, seconds, warnings }) {
  const [width, height] = settings.size;
  const enlarged = native[0] !== width || native[1] !== height;
  const list = /** @type {[string, string][]} */ ([
    ["Seed", settings.seed],
    ["Guidance", perScaleText(settings.guidance_scale)],
    ["Temperature", perScaleText(settings.temperature)],
    ...(settings.top_p ? [["Top-p", String(settings.top_p)]] : []),
    ["Size", `${width} × ${height}${enlarged ? `, drawn at ${native[0]} × ${native[1]}` : ""}`],
    ...(settings.top_k ? [["Top-k", String(settings.top_k)]] : []),
    ...(settings.adapters ?? []).map(({ name, scale }) => ["Adapter", `${name}, ${scale}`]),
    ...(sentBackground(settings) ? [["Background", settings.background]] : []),
    ...(formatOf(settings) === "png" ? [] : [["File", FORMAT_NAMES[formatOf(settings)]]]),
    ...(settings.model ? [["Model", settings.model]] : []),
    ...(seconds === null ? [] : [["Time", `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(0)} s`]]),
  ]);
  return [
    make("p", { class: "facts-prompt" }, settings.prompt),
    settings.negative_prompt ? make("p", { class: "facts-negative" }, make("span", {}, "Without "), settings.negative_prompt) : null,
    ...warnings.map((warning) => make("p", { class: "warning" }, warning)),
    make("dl", { class: "facts-list" }, ...list.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
  ].filter((element) => element !== null);
}

/** @param {Item} item @param {(item: Item, extent: "all" | "all but the seed" | "only the prompt") => void} onUse */
function usesOf(item, onUse) {
  return make(
    "div",
    { class: "uses", role: "group", "aria-label": "Use the settings of this image" },
    button("Use all settings", () => onUse(item, "all"), { class: "small" }),
    button("All but the seed", () => onUse(item, "all but the seed"), { class: "small" }),
    button("Only the prompt", () => onUse(item, "only the prompt"), { class: "small" }),
  );
}

/** @param {Item} item @param {import("./app.js").App} app @param {(item: Item) => void} onCode */
function toolsOf(item, app, onCode) {
  const done = item.status === "done";
  return make(
    "div",
    { class: "tools", role: "group", "aria-label": "This image" },
    done ? button("Download", () => downloadImage(item), { class: "quiet small", icon: "download" }) : null,
    done ? button("Compare", () => app.compare(), { class: "quiet small", icon: "compare" }) : null,
    button("Code", () => onCode(item), { class: "quiet small", icon: "code" }),
    done ? button("Delete", () => remove(item, app), { class: "quiet small", icon: "delete" }) : null,
  );
}

/** Delete an image; the focus moves to the one that is shown next. @param {Item} item @param {import("./app.js").App} app */
async function remove(item, app) {
  await app.remove([item.id]);
  /** @type {HTMLElement | null} */ (document.querySelector(".thumb[tabindex='0']"))?.focus({ preventScroll: true });
}
