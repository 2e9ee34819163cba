/** The settings of the selected image, and what can be done with it. */

import { keptText } from "./edit.js";
import { downloadImage } from "./files.js";
import { urlOf } from "./items.js";
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
      else facts.replaceChildren(...factsOf(item), ...[madeFrom(item, app)].filter((one) => one !== null), make("div", { class: "facts-actions" }, usesOf(item, onUse), toolsOf(item, app, onCode)));
    },
  );
}

/** @param {Item} item */
function factsOf({ settings, native, seconds, warnings, edit, scales }) {
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
    ...(edit ? [["Edit", keptText(edit, scales.length)]] : []),
    ...(seconds === null ? [] : [["Time", `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(0)} s`]]),
  ]);
  return [
    settings.prompt.trim() ? make("p", { class: "facts-prompt" }, settings.prompt) : null,
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
    done ? button("Edit", () => edit(item, app), { class: "quiet small", icon: "edit" }) : null,
    done ? button("Compare", () => app.compare(), { class: "quiet small", icon: "compare" }) : null,
    button("Code", () => onCode(item), { class: "quiet small", icon: "code" }),
    done ? button("Delete", () => remove(item, app), { class: "quiet small", icon: "delete" }) : null,
  );
}

/** Prepare to edit an image. @param {Item} item @param {import("./app.js").App} app */
function edit({ image, settings, transparent }, app) {
  if (image) app.edit(image, { name: settings.prompt.trim() || "an edited image", prompt: settings.prompt, transparent });
}

/** The image that it was made from, which opens a comparison. @param {Item} item @param {import("./app.js").App} app */
function madeFrom(item, app) {
  if (!item.edit || item.status !== "done") return null;
  const image = make("img", { src: urlOf(item.edit.source), alt: "", draggable: "false" });
  const label = make("span", {}, "Made from this image", make("small", {}, "Compare before and after"));
  return make("button", { type: "button", class: "made-from", onclick: () => app.compareWithSource(item) }, image, label);
}

/** Delete an image; the focus moves to the one that is shown next. @param {Item} item @param {import("./app.js").App} app */
async function remove(item, app) {
  await app.remove([item.id]);
  /** @type {HTMLElement | null} */ (document.querySelector(".thumb[tabindex='0']"))?.focus({ preventScroll: true });
}
