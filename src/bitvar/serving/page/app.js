/**
 * What the page knows and can do, without a view: the server, the images, and which of them is shown.
 *
 * @typedef {import("./items.js").Item} Item
 * @typedef {object} State
 * @property {import("./connection.js").ServerStatus} server
 * @property {Record<string, any> | null} card  the model's card
 * @property {Item[]} items  newest first
 * @property {string | null} selected  id of the image on the stage
 * @property {"single" | "sheet" | "compare" | "edit"} view
 * @property {import("./edit.js").Draft | null} draft  edit that is being prepared
 * @property {string | null} other  id of the second image of a comparison
 * @property {number | null} held  scale that the strip holds
 * @property {boolean} pixels  whether small images are enlarged to plain squares
 */

import { Api, ApiError, Unreachable } from "./api.js";
import { Connection } from "./connection.js";
import { EditError, draftOf } from "./edit.js";
import { openImage } from "./files.js";
import { GalleryDb } from "./gallery_db.js";
import { SOURCE, altText, isOpen, newId, newestFirst, releaseUrls, sourceOf } from "./items.js";
import { Runner } from "./runner.js";
import { apiKey, remember, rememberPrompt, remembered } from "./saved.js";
import { MetadataError } from "./metadata.js";
import { expandRun } from "./plan.js";
import { tokensOf } from "./sizes.js";
import { Store } from "./store.js";

/** The page's state and actions. */
export class App {
  #db = new GalleryDb();

  /**
   * @param {object} voices
   * @param {() => Promise<boolean>} voices.askKey
   * @param {(text: string) => void} voices.announce  tells screen readers
   * @param {(text: string, undo?: () => void, more?: {brief?: boolean}) => void} voices.notify  shows a short message
   * @param {(param: string, message: string) => void} voices.onRefused  gets the field that the server refused
   */
  constructor(voices) {
    this.voices = voices;
    /** @type {State} */
    const state = {
      server: "connecting", card: null, items: [], selected: null, view: "single", draft: null, other: null, held: null,
      pixels: remembered("pixels", false),
    };
    this.store = new Store(state);
    this.api = new Api(apiKey);
    this.connection = new Connection(this.api, (status) => this.#serverBecame(status));
    this.runner = new Runner(this.api, {
      find: (id) => this.find(id),
      update: (id, changes) => this.#update(id, changes),
      askKey: voices.askKey,
      onRefused: voices.onRefused,
      onTrouble: () => this.connection.check(),
    });
  }

  get state() {
    return this.store.state;
  }

  /** Read the gallery and ask for the server. */
  async start() {
    await Promise.all([this.connection.check(), this.#restore()]);
  }

  /** @param {string | null} id @returns {Item | undefined} */
  find(id) {
    return this.state.items.find((item) => item.id === id);
  }

  /** Ask the server for its model once more. */
  async askForModel() {
    if (this.state.server === "ready") await this.#loadCard();
    else await this.connection.check();
  }

  /** The images of the same run, in order. @param {Item} item */
  siblings(item) {
    return item.run ? this.state.items.filter((other) => other.run === item.run) : [item];
  }

  /**
   * Draw a run.
   * @param {import("./settings.js").Settings} settings  with a pattern as prompt
   * @param {object} more
   * @param {number} more.images
   * @param {import("./settings.js").PerScale[]} more.guidances
   * @param {import("./sizes.js").NativeSize} more.native
   * @param {import("./edit.js").Edit | null} [more.edit]  of the image to draw from; none for new images
   */
  async generate(settings, { images, guidances, native, edit = null }) {
    if (settings.prompt.trim()) rememberPrompt(settings.prompt);
    const [run, created] = [newId(), Date.now()];
    const { counts } = tokensOf(native.grids);
    /** @type {Item[]} */
    const fresh = expandRun(settings, { images, guidances }).map((own, position) => ({
      id: newId(), run, created, position, status: "waiting", note: "Waiting for its turn.", settings: own,
      native: [native.width, native.height], image: null,
      scales: native.grids.map((grid, index) => ({ grid, tokens: counts[index], preview: null })),
      reached: 0, warnings: [], seconds: null, edit,
    }));
    const finished = this.state.items.filter((item) => item.status === "done" || isOpen(item));
    this.store.set({ items: [...fresh, ...finished], selected: fresh[0].id, view: fresh.length > 1 ? "sheet" : "single", held: null });
    this.voices.announce(fresh.length === 1 ? "Drawing." : `Drawing ${fresh.length} images.`);
    await this.runner.run(fresh.map((item) => item.id));
    this.#announceEnd(fresh.map((item) => item.id));
  }

  /** Draw an image again that failed or was stopped. @param {string} id */
  async retry(id) {
    this.#update(id, { status: "waiting", note: "Waiting for its turn.", reached: 0 });
    this.voices.announce("Drawing.");
    await this.runner.run([id]);
    this.#announceEnd([id]);
  }

  /**
   * Prepare to edit an image.
   * @param {Blob} source @param {{name: string, prompt?: string, transparent?: boolean}} more
   */
  async edit(source, more) {
    try {
      this.store.set({ draft: await draftOf(source, more), view: "edit", held: null });
      this.voices.announce(`Editing ${more.name}. Paint over what should change.`);
    } catch (error) {
      if (!(error instanceof EditError)) throw error;
      this.voices.notify(error.message);
    }
  }

  /** Go back to the image that is edited. */
  showEdit() {
    if (this.state.draft) this.store.set({ view: "edit", held: null });
  }

  /** Edit no image any more. */
  closeEdit() {
    this.store.set({ draft: null, ...(this.state.view === "edit" ? { view: "single" } : {}) });
  }

  /** Stop all drawing at once. */
  stop() {
    this.runner.stop();
  }

  /** Show an image; in a comparison, make it the second one. @param {string} id */
  select(id) {
    if (this.state.view === "compare" && id !== this.state.selected) this.store.set({ other: id });
    else this.store.set({ selected: id, view: "single", held: null });
  }

  /** Show all images of the selected one's run. */
  showSheet() {
    this.store.set({ view: "sheet", held: null });
  }

  /** Compare the selected image with another: its neighbour in the run, else the next in the gallery. */
  compare() {
    const item = this.find(this.state.selected);
    if (!item) return;
    const others = [...this.siblings(item), ...this.state.items].filter((other) => other.image && other.id !== item.id);
    if (!others.length) this.voices.notify("A comparison needs a second image: draw another one first.");
    else this.store.set({ view: "compare", other: others[0].id, held: null });
  }

  /** Compare an edited image with what it was made from. @param {Item} item */
  compareWithSource(item) {
    this.store.set({ selected: item.id, view: "compare", other: SOURCE, held: null });
  }

  /** The second image of a comparison. @returns {Item | undefined} */
  get second() {
    const { selected, other } = this.state;
    const item = this.find(selected);
    return other === SOURCE && item ? sourceOf(item) : this.find(other);
  }

  /** Swap the two images of a comparison. */
  swap() {
    if (this.state.other === SOURCE) return;
    this.store.set({ selected: this.state.other, other: this.state.selected });
  }

  /** Go back to one image. */
  closeCompare() {
    this.store.set({ view: "single", other: null });
  }

  /** Hold a scale of the selected image on the stage; null lets go. @param {number | null} scale */
  hold(scale) {
    this.store.set({ held: scale });
  }

  /** @param {boolean} pixels */
  setPixels(pixels) {
    remember("pixels", pixels);
    this.store.set({ pixels });
  }

  /** Read the settings of image files and show them. @param {Iterable<File>} files */
  async open(files) {
    for (const file of files) {
      try {
        const item = await openImage(file);
        this.store.set({ items: [item, ...this.state.items].sort(newestFirst), selected: item.id, view: "single", held: null });
        this.voices.announce(`Opened ${file.name}.`);
        await this.#keep([item]);
      } catch (error) {
        if (!(error instanceof MetadataError)) throw error;
        if (error.isForeign) {
          this.voices.notify(`${file.name} holds no settings, so it is opened to be edited.`, undefined, { brief: true });
          await this.edit(file, { name: file.name, transparent: true });
        } else this.voices.notify(error.message);
      }
    }
  }

  /** Delete images; they can be brought back until the message closes. @param {string[]} ids */
  async remove(ids) {
    const gone = this.state.items.filter((item) => ids.includes(item.id));
    this.#drop(ids);
    await this.#db.remove(ids);
    this.voices.notify(gone.length === 1 ? "Image deleted." : `${gone.length} images deleted.`, async () => {
      this.store.set({ items: [...gone, ...this.state.items].sort(newestFirst), selected: gone[0].id, view: "single", held: null });
      await this.#keep(gone);
    });
  }

  /** Delete all finished images for good. */
  async removeAll() {
    const gone = this.state.items.filter((item) => item.status === "done");
    this.#drop(gone.map((item) => item.id));
    gone.forEach(releaseUrls);
    await this.#db.remove(gone.map((item) => item.id));
  }

  /** @param {string[]} ids */
  #drop(ids) {
    const { items, selected, other } = this.state;
    const rest = items.filter((item) => !ids.includes(item.id));
    const at = items.findIndex((item) => item.id === selected);
    const kept = rest.some((item) => item.id === selected) ? selected : (rest[Math.min(at, rest.length - 1)]?.id ?? null);
    const lostView = kept !== selected || ids.includes(other ?? "");
    this.store.set({ items: rest, selected: kept, ...(lostView ? { view: "single", other: null, held: null } : {}) });
  }

  /** @param {string} id @param {Partial<Item>} changes */
  #update(id, changes) {
    const at = this.state.items.findIndex((item) => item.id === id);
    if (at < 0) return;
    const item = { ...this.state.items[at], ...changes };
    this.store.set({ items: this.state.items.with(at, item) });
    if (changes.status === "done") this.#keep([item]);
  }

  /** @param {Item[]} items */
  async #keep(items) {
    try {
      await this.#db.put(items);
    } catch {
      this.voices.notify("This browser has no room for more images. Export the gallery, then delete some.");
    }
  }

  async #restore() {
    if (!(await this.#db.open())) {
      this.voices.notify("This browser keeps nothing in a private window: the gallery lasts until you close the page.");
    }
    const restored = (await this.#db.all()).sort(newestFirst);
    this.store.set({ items: [...this.state.items, ...restored], selected: this.state.selected ?? restored[0]?.id ?? null });
  }

  /** @param {import("./connection.js").ServerStatus} status */
  async #serverBecame(status) {
    this.store.set({ server: status });
    if (status === "ready") await this.#loadCard();
  }

  async #loadCard() {
    try {
      this.store.set({ card: await this.api.card() });
    } catch (error) {
      if (error instanceof ApiError && error.status === 401 && (await this.voices.askKey())) await this.#loadCard();
      else if (error instanceof Unreachable) await this.connection.check();
      else if (error instanceof ApiError) this.voices.notify(error.message);
      else throw error;
    }
  }

  /** @param {string[]} ids */
  #announceEnd(ids) {
    const items = ids.map((id) => this.find(id)).filter((item) => item !== undefined);
    const done = items.filter((item) => item.status === "done");
    const failed = items.find((item) => item.status === "failed");
    if (failed) this.voices.announce(`Failed: ${failed.note}`);
    else if (done.length < items.length) this.voices.announce(items.length === 1 ? items[0].note : `Stopped. ${done.length} of ${items.length} images are done.`);
    else if (items.length) this.voices.announce(items.length === 1 ? `Done: ${altText(items[0])}.` : `Done: ${items.length} images.`);
  }
}
