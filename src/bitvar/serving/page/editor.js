/** The editor: the image on the stage with a mask to paint on it, its tools below, and its name above the prompt. */

import { canBeExact, editOf, scalesKept } from "./edit.js";
import { byId, make, setText } from "./dom.js";
import { urlOf } from "./items.js";
import { escapePattern } from "./patterns.js";
import { nativeFor } from "./sizes.js";

/** @typedef {import("./edit.js").Draft} Draft */

const STRIPES = ["#4c1d95", "#c4b5fd"];
const LARGEST_CANVAS = 1024;
const STEP = 0.02;
const [STRENGTH, MASKED_STRENGTH] = ["50", "100"];

/**
 * Prepare the tools of the editor.
 * @param {import("./app.js").App} app
 * @param {(edit: import("./edit.js").Edit) => void} onVariation  gets an edit to draw with the image's own prompt
 */
export function prepareEditor(app, onVariation) {
  const tools = byId("edit-tools");
  const size = byId("brush-size", HTMLInputElement);
  const erase = byId("brush-erase", HTMLInputElement);
  const strength = byId("strength", HTMLInputElement);
  const exact = byId("exact", HTMLInputElement);
  const localized = byId("localized", HTMLInputElement);
  let chosen = false; // whether the strength was chosen by hand
  let covered = 0;
  /** @type {Draft | null} */
  let draft = null;

  const brush = () => ({ radius: Number(size.value) / 200, erase: erase.checked });
  const view = canvasView(brush, () => changed());

  const changed = () => {
    if (!draft) return;
    covered = draft.mask.coverage(draft.size);
    const masked = covered > 0;
    byId("localized-field").hidden = masked || !draft.prompt.trim();
    const limited = masked || isLocalized();
    if (!chosen) strength.value = masked ? MASKED_STRENGTH : STRENGTH;
    byId("mask-undo", HTMLButtonElement).disabled = byId("mask-clear", HTMLButtonElement).disabled = draft.mask.steps.length === 0;
    exact.disabled = !limited || !canBeExact(draft.size);
    setText(byId("exact-hint"), limited && !canBeExact(draft.size) ? "The image is too large for that." : "");
    const part = covered < 0.01 ? "Less than 1 %" : `${Math.round(100 * covered)} %`;
    setText(byId("mask-state"), masked ? `${part} of the image may change.` : isLocalized() ? "Paint over what should change, or let the new prompt decide." : "Paint over what should change, or paint nothing to change the whole image.");
    showStrength();
  };
  const isLocalized = () => localized.checked && !byId("localized-field").hidden;
  const showStrength = () => {
    strength.disabled = isLocalized();
    setText(byId("strength-value"), isLocalized() ? "" : `${strength.value} %`);
    setText(byId("strength-hint"), isLocalized() ? "The part that the two prompts disagree on is found, and drawn anew." : strengthText(Number(strength.value), covered > 0));
  };
  localized.addEventListener("change", () => changed());
  const act = (/** @type {(mask: import("./mask.js").Mask) => void} */ change) => () => {
    if (!draft) return;
    change(draft.mask);
    view.redraw();
    changed();
  };
  byId("mask-undo").addEventListener("click", act((mask) => mask.undo()));
  byId("mask-clear").addEventListener("click", act((mask) => mask.clear()));
  byId("mask-invert").addEventListener("click", act((mask) => mask.invert()));
  strength.addEventListener("input", () => {
    chosen = true;
    showStrength();
  });
  size.addEventListener("input", () => view.showBrush());
  byId("edit-close").addEventListener("click", () => app.closeEdit());
  byId("edit-back").addEventListener("click", () => app.showEdit());
  byId("edit-show").addEventListener("click", () => app.showEdit());

  for (const kind of /** @type {const} */ (["layout", "colours"])) {
    byId(`vary-${kind}`).addEventListener("click", async () => {
      if (!draft || !app.state.card) return;
      const scales = nativeFor(app.state.card.sizes, draft.size).grids.length;
      onVariation(await editOf(draft, { keep_scales: scalesKept(kind, scales), exact: false, masked: false }));
    });
  }

  app.store.watch(
    (state) => [state.draft, state.view],
    (next, shown) => {
      byId("editing").hidden = !next;
      tools.hidden = !next || shown !== "edit";
      byId("edit-back").hidden = !next || shown === "edit";
      if (next === draft) return;
      draft = next;
      chosen = false;
      if (!next) return;
      view.open(next);
      byId("edit-thumb", HTMLImageElement).src = urlOf(next.source);
      setText(byId("edit-name"), next.name);
      exact.checked = localized.checked = true;
      changed();
    },
  );

  return {
    view,
    /**
     * The edit as the tools say; null while none is prepared.
     * @param {string} prompt  pattern of what the result shows; the image's own redraws all, since nothing differs
     * @returns {Promise<import("./edit.js").Edit | null>}
     */
    edit: async (prompt) => {
      if (!draft) return null;
      const same = ["", draft.prompt.trim(), escapePattern(draft.prompt.trim())];
      const differs = isLocalized() && !same.includes(prompt.trim());
      const kept = differs ? { source_prompt: draft.prompt } : { strength: Number(strength.value) / 100 };
      return editOf(draft, { ...kept, exact: exact.checked, masked: true });
    },
  };
}

/** @param {number} percent @param {boolean} masked */
function strengthText(percent, masked) {
  if (percent === 0) return "Nothing changes.";
  if (percent === 100) return masked ? "The painted part is drawn from nothing." : "Nothing of the image is kept.";
  return percent > 50 ? "Its coarsest scales are kept: colours and rough places." : "Most coarse scales are kept: the layout stays.";
}

/** Make an ink that shows on an image of any colours. @param {HTMLCanvasElement} canvas @returns {import("./mask.js").Ink} */
function stripesFor(canvas) {
  const side = Math.max(8, Math.round(Math.max(canvas.width, canvas.height) / 36));
  const tile = make("canvas", { width: side, height: side });
  const context = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  [context.fillStyle, context.strokeStyle] = STRIPES;
  context.fillRect(0, 0, side, side);
  context.lineWidth = side / 3;
  context.beginPath();
  for (const shift of [-side, 0, side]) {
    context.moveTo(shift - side, 2 * side);
    context.lineTo(shift + 2 * side, -side);
  }
  context.stroke();
  return context.createPattern(tile, "repeat") ?? STRIPES[0];
}

/**
 * Make the image with the mask over it.
 * @param {() => {radius: number, erase: boolean}} brush
 * @param {() => void} onChange  called after each change of the mask by hand
 */
function canvasView(brush, onChange) {
  const image = make("img", { alt: "", draggable: "false" });
  const canvas = make("canvas", { tabindex: 0, role: "application", "aria-label": "Mask of the part to change", "aria-describedby": "mask-keys mask-state" });
  const ring = make("span", { class: "brush", "aria-hidden": "true", hidden: true });
  const element = make("figure", { class: "single editing" }, image, canvas, ring);
  /** @type {Draft | null} */
  let draft = null;
  /** @type {import("./mask.js").Point} */
  let at = [0.5, 0.5];
  let painting = false;

  const longer = () => Math.max(...(draft?.size ?? [1, 1]));
  const sides = () => (draft?.size ?? [1, 1]).map((side) => side / longer());
  /** @type {import("./mask.js").Ink} */
  let ink = STRIPES[0];
  const redraw = () => draft?.mask.draw(canvas, ink);
  const begin = () => {
    painting = true;
    draft?.mask.begin(at, brush());
    if (brush().erase) redraw();
    else draft?.mask.drawEnd(canvas, ink);
  };
  const extend = () => {
    draft?.mask.extend(at);
    draft?.mask.drawEnd(canvas, ink);
  };
  const end = () => {
    if (!painting) return;
    painting = false;
    redraw();
    onChange();
  };
  const showBrush = (shown = !ring.hidden) => {
    const [across, down] = sides();
    ring.hidden = !shown;
    ring.style.setProperty("--x", `${(100 * at[0]) / across}%`);
    ring.style.setProperty("--y", `${(100 * at[1]) / down}%`);
    ring.style.setProperty("--across", `${(200 * brush().radius) / across}%`);
  };
  /** @param {PointerEvent} event */
  const move = (event) => {
    const box = canvas.getBoundingClientRect();
    const [across, down] = sides();
    at = [((event.clientX - box.left) / box.width) * across, ((event.clientY - box.top) / box.height) * down];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || painting) return;
    canvas.setPointerCapture(event.pointerId);
    move(event);
    begin();
    showBrush(true);
  });
  canvas.addEventListener("pointermove", (event) => {
    const events = painting ? (event.getCoalescedEvents?.() ?? []) : [];
    for (const one of events.length ? events : [event]) {
      move(one);
      if (painting) extend();
    }
    showBrush(true);
  });
  for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) canvas.addEventListener(name, end);
  canvas.addEventListener("pointerleave", () => showBrush(painting || document.activeElement === canvas));
  canvas.addEventListener("focus", () => showBrush(canvas.matches(":focus-visible")));
  canvas.addEventListener("blur", () => {
    end();
    showBrush(false);
  });
  canvas.addEventListener("keydown", (event) => {
    const [across, down] = sides();
    const step = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] })[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key !== "z") return;
      byId("mask-undo").click();
    } else if (step) {
      at = [Math.min(across, Math.max(0, at[0] + step[0])), Math.min(down, Math.max(0, at[1] + step[1]))];
      if (painting) extend();
    } else if (event.key === " ") {
      if (!painting) begin();
    } else if (event.key === "[" || event.key === "]") {
      byId("brush-size", HTMLInputElement)[event.key === "[" ? "stepDown" : "stepUp"]();
    } else return;
    event.preventDefault();
    showBrush(true);
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key === " ") end();
  });

  return {
    element,
    redraw,
    showBrush: () => showBrush(),
    update: () => {},
    /** @param {Draft} next */
    open: (next) => {
      draft = next;
      const scale = Math.min(1, LARGEST_CANVAS / longer());
      [canvas.width, canvas.height] = next.size.map((side) => Math.max(1, Math.round(side * Math.max(scale, Math.min(4, 512 / longer())))));
      ink = stripesFor(canvas);
      at = /** @type {import("./mask.js").Point} */ (sides().map((side) => side / 2));
      image.src = urlOf(next.source);
      image.alt = `The image to edit: ${next.name}`;
      image.classList.toggle("transparent", next.transparent);
      element.style.setProperty("--ratio", String(next.size[0] / next.size[1]));
      redraw();
    },
  };
}
