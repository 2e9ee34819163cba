/** The gallery: every image, newest first, walked through with the arrow keys. */

import { exportImages } from "./files.js";
import { altText, finestOf, isOpen, paint } from "./items.js";
import { byId, make, setText } from "./dom.js";

/** @typedef {import("./items.js").Item} Item */

const PAGE = 60;

/**
 * @param {import("./app.js").App} app
 * @param {object} actions
 * @param {(question: {title: string, text: string}) => Promise<boolean>} actions.confirm
 * @param {() => void} actions.onChoose  called when an image is chosen by pointer
 */
export function showGallery(app, { confirm, onChoose }) {
  const list = byId("thumbs");
  /** @type {Map<string, ReturnType<typeof thumb>>} */
  const thumbs = new Map();
  let limit = PAGE;

  const update = () => {
    const { items, selected, view, other } = app.state;
    const done = items.filter((item) => item.status === "done").length;
    const visible = items.filter((item) => item.status === "done" || isOpen(item)).slice(0, limit);
    const ids = new Set(visible.map((item) => item.id));
    for (const [id, { element }] of thumbs) if (!ids.has(id)) (element.remove(), thumbs.delete(id));
    visible.forEach((item, index) => {
      const own = thumbs.get(item.id) ?? thumb(item.id, app);
      thumbs.set(item.id, own);
      if (list.children[index] !== own.element) list.insertBefore(own.element, list.children[index] ?? null);
      const isSelected = view !== "sheet" && item.id === (view === "compare" ? other : selected);
      own.update(item, { isSelected, isFirst: view === "compare" && item.id === selected, canFocus: ids.has(selected ?? "") ? item.id === selected : index === 0 });
    });
    setText(byId("gallery-count"), done ? String(done) : "");
    byId("gallery-empty").hidden = visible.length > 0;
    list.hidden = visible.length === 0;
    byId("export").hidden = byId("delete-all").hidden = done === 0;
    byId("more-thumbs").hidden = items.length <= limit;
  };

  app.store.watch((state) => [state.items, state.selected, state.view, state.other], update);
  byId("more-thumbs").addEventListener("click", () => {
    limit += PAGE;
    update();
  });
  byId("export").addEventListener("click", () => exportImages(app.state.items));
  byId("delete-all").addEventListener("click", async () => {
    const count = app.state.items.filter((item) => item.status === "done").length;
    const title = count === 1 ? "Delete the image?" : `Delete all ${count} images?`;
    if (await confirm({ title, text: "They can't be brought back. Export them first if you want to keep them." })) await app.removeAll();
  });
  list.addEventListener("click", (event) => {
    // Keys and screen readers click with a count of 0; for them the focus stays in view.
    if (event.detail > 0 && event.target !== list) onChoose();
  });
  list.addEventListener("keydown", (event) => {
    const focused = /** @type {HTMLElement} */ (event.target).closest("li");
    if (event.key === "Delete" && focused?.dataset.id) {
      const next = focused.nextElementSibling ?? focused.previousElementSibling;
      app.remove([focused.dataset.id]);
      next?.querySelector("button")?.focus();
    } else if (walk(list, event.key)) event.preventDefault();
  });
}

/**
 * Move through the gallery by a key.
 * @param {HTMLElement} list @param {string} key
 * @returns {boolean}  whether the key did anything
 */
export function walk(list, key) {
  const buttons = [...list.querySelectorAll("button")];
  const at = buttons.findIndex((one) => one.tabIndex === 0);
  const columns = buttons.filter((one) => one.offsetTop === buttons[0].offsetTop).length;
  const target = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: buttons.length - 1 }[key];
  const next = target === undefined ? undefined : buttons[target];
  if (!next) return false;
  next.focus();
  next.click();
  return true;
}

/** @param {string} id @param {import("./app.js").App} app */
function thumb(id, app) {
  const image = make("img", { alt: "", loading: "lazy", draggable: "false" });
  const choose = make("button", { type: "button", class: "thumb", onclick: () => app.select(id) }, image);
  const element = make("li", { "data-id": id }, choose);

  /** @param {Item} item @param {{isSelected: boolean, isFirst: boolean, canFocus: boolean}} place */
  const update = (item, { isSelected, isFirst, canFocus }) => {
    const blob = finestOf(item);
    paint(image, item, blob);
    image.hidden = !blob;
    const label = isOpen(item) ? `${altText(item)}, being drawn` : altText(item);
    if (choose.getAttribute("aria-label") !== label) choose.setAttribute("aria-label", label);
    choose.title = item.settings.prompt;
    choose.tabIndex = canFocus ? 0 : -1;
    choose.toggleAttribute("aria-current", isSelected);
    if (isSelected) choose.setAttribute("aria-current", "true");
    choose.classList.toggle("first", isFirst);
    choose.classList.toggle("drawing", isOpen(item));
  };
  return { element, update };
}
