/** The large image: one, a sheet of a run, or a comparison of two. */

import { SOURCE, altText, finestOf, imageAfter, isOpen, paint, urlOf } from "./items.js";
import { compareView } from "./compare.js";
import { button, byId, make, setText } from "./dom.js";
import { sheetView } from "./sheet.js";
import { welcomeView } from "./welcome.js";

/** @typedef {import("./items.js").Item} Item */

/**
 * Show the stage.
 * @param {import("./app.js").App} app
 * @param {(prompt: string) => void} onExample
 * @param {{element: HTMLElement, update: () => void}} editor  what is shown while an edit is prepared
 */
export function showStage(app, onExample, editor) {
  const frame = byId("frame");
  /** @type {{kind: string, element: HTMLElement, update: (...values: any[]) => void} | null} */
  let shown = null;

  /** @param {string} kind @param {() => {element: HTMLElement, update: (...values: any[]) => void}} create */
  const become = (kind, create) => {
    if (shown?.kind !== kind) {
      shown = { kind, ...create() };
      frame.replaceChildren(shown.element);
    }
    return shown;
  };

  app.store.watch(
    (state) => [state.items, state.selected, state.view, state.other, state.held, state.pixels, state.card],
    (items, selected, view, other, held, pixels, card) => {
      const item = app.find(selected);
      const { second } = app;
      const siblings = item ? app.siblings(item) : [];
      frame.dataset.view = item || view === "edit" ? view : "welcome";
      if (view === "edit") become("edit", () => editor).update();
      else if (!item) become("welcome", () => welcomeView(onExample)).update(card);
      else if (view === "compare" && second) become("compare", () => compareView()).update(...(other === SOURCE ? [second, item] : [item, second]));
      else if (view === "sheet" && siblings.length > 1) become(`sheet ${item.run}`, () => sheetView((id) => app.select(id))).update(siblings);
      else become(`single ${item.id}`, () => singleView((id) => app.retry(id))).update(item, held);
      showTools(app, item, siblings);
      frame.classList.toggle("pixels", pixels && view !== "edit" && isSmall(item));
    },
  );
  byId("to-sheet").addEventListener("click", () => app.showSheet());
  byId("swap").addEventListener("click", () => app.swap());
  byId("close-compare").addEventListener("click", () => app.closeCompare());
  byId("pixels").addEventListener("click", () => app.setPixels(!app.state.pixels));
}

/** Whether the file is so small that its pixels show. @param {Item | undefined} item */
function isSmall(item) {
  return item !== undefined && Math.max(...item.settings.size) <= 256;
}

/** @param {import("./app.js").App} app @param {Item | undefined} item @param {Item[]} siblings */
function showTools(app, item, siblings) {
  const { view, pixels } = app.state;
  const comparing = view === "compare";
  byId("to-sheet").hidden = comparing || view === "sheet" || view === "edit" || siblings.length < 2;
  setText(byId("to-sheet"), `All ${siblings.length}`);
  byId("close-compare").hidden = !comparing;
  byId("swap").hidden = !comparing || app.state.other === SOURCE;
  byId("pixels").hidden = view === "edit" || !isSmall(item);
  byId("pixels").setAttribute("aria-pressed", String(pixels));
  setText(byId("stage-status"), statusText(app.state, item, siblings));
}

/** @param {import("./app.js").State} state @param {Item | undefined} item @param {Item[]} siblings */
function statusText({ view, held, other }, item, siblings) {
  if (view === "edit") return "Paint over what should change.";
  if (!item) return "";
  if (view === "compare" && other === SOURCE) return "Before and after the edit.";
  if (view === "compare") return "Click another image in the gallery to compare with it.";
  const done = siblings.filter((sibling) => sibling.status === "done").length;
  if (view === "sheet") return done < siblings.length ? `${done} of ${siblings.length} images` : `${done} images`;
  if (held !== null) return `Scale ${held + 1} of ${item.scales.length}`;
  if (item.status !== "drawing") return item.status === "done" && siblings.length > 1 ? `${item.position + 1} of ${siblings.length}` : "";
  return item.reached ? `Scale ${item.reached} of ${item.scales.length}` : "";
}

/** @param {(id: string) => void} onRetry */
function singleView(onRetry) {
  const figure = make("figure", { class: "single" });
  const progress = make("progress", { class: "progress", max: 1, "aria-label": "Drawing" });
  const note = make("div", { class: "note" });
  figure.append(progress, note);

  /** @param {Item} item @param {number | null} held */
  const update = (item, held) => {
    figure.style.setProperty("--ratio", String(item.settings.size[0] / item.settings.size[1]));
    const blob = (held === null ? null : imageAfter(item, held)) ?? finestOf(item);
    if (blob) showImage(figure, item, blob);
    figure.classList.toggle("blank", !blob);
    figure.classList.toggle("drawing", isOpen(item));
    progress.hidden = !isOpen(item);
    progress.value = item.scales.length ? item.reached / item.scales.length : 0;
    showNote(note, item, onRetry);
  };
  return { element: figure, update };
}

/**
 * Lay a new image over the one before, so that it sharpens without a flash.
 * @param {HTMLElement} figure @param {Item} item @param {Blob} blob
 */
function showImage(figure, item, blob) {
  const before = [...figure.querySelectorAll("img")];
  const top = before.at(-1);
  if (top?.getAttribute("src") === urlOf(blob)) return;
  for (const image of before.slice(0, -1)) image.remove();
  if (top) top.alt = "";
  const image = make("img", { alt: altText(item), draggable: "false" });
  paint(image, item, blob);
  const uncover = () => top?.remove();
  image.addEventListener("animationend", uncover);
  image.addEventListener("error", uncover);
  if (top) top.after(image);
  else figure.prepend(image);
}

/** @param {HTMLElement} note @param {Item} item @param {(id: string) => void} onRetry */
function showNote(note, item, onRetry) {
  const key = `${item.status} ${item.note}`;
  note.hidden = !item.note;
  if (note.dataset.key === key) return;
  note.dataset.key = key;
  note.classList.toggle("failed", item.status === "failed");
  // The button disappears, so the focus moves to the one that stops.
  const retry = (/** @type {string} */ id) => {
    byId("go").focus();
    onRetry(id);
  };
  const again = item.status === "failed" || item.status === "stopped";
  note.replaceChildren(
    make("p", {}, item.note),
    ...(again ? [button(item.status === "failed" ? "Try again" : "Draw it again", () => retry(item.id), { class: "small" })] : []),
  );
}
