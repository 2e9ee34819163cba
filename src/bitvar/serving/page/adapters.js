/** The choice of adapters and their weights: a row for each, and one more for another. */

import { byId, make } from "./dom.js";

/** @typedef {import("./settings.js").Adapter} Adapter */

const MOST = 8; // as many as a request may name

/** The rows of adapters in the form. */
export class AdapterRows {
  /** @type {string[]} */
  #names = [];
  /** @type {{element: HTMLElement, name: HTMLSelectElement, weight: HTMLInputElement}[]} */
  #rows = [];

  constructor() {
    this.field = byId("adapter-field");
    this.field.addEventListener("change", () => this.#arrange());
  }

  /** Offer the adapters of a model. @param {string[]} names */
  setNames(names) {
    this.#names = names;
    this.field.hidden = names.length === 0;
    this.set([]);
  }

  /** The adapters that are chosen; null for one whose weight is none. @returns {(Adapter | null)[]} */
  get values() {
    return this.#rows.filter(({ name }) => name.value).map(({ name, weight }) => {
      const scale = Number(weight.value);
      return weight.value.trim() !== "" && Math.abs(scale) <= 100 ? { name: name.value, scale } : null;
    });
  }

  /** Choose adapters. @param {Adapter[]} adapters @returns {string[]}  names of those that the model doesn't have */
  set(adapters) {
    this.#rows.splice(0).forEach(({ element }) => element.remove());
    for (const { name, scale } of adapters) if (this.#names.includes(name)) this.#add(name, scale);
    this.#arrange();
    return adapters.map(({ name }) => name).filter((name) => !this.#names.includes(name));
  }

  /** The id of the first field whose weight is none. @returns {string} */
  get wrong() {
    return this.#rows.filter(({ name }) => name.value)[this.values.indexOf(null)].weight.id;
  }

  /** @param {string} name @param {number} scale */
  #add(name, scale) {
    const number = this.#rows.length + 1;
    const [id, weightId] = number === 1 ? ["adapter", "adapter-scale"] : [`adapter-${number}`, `adapter-scale-${number}`];
    const words = number === 1 ? ["Adapter", "Weight"] : [`Adapter ${number}`, `Weight ${number}`];
    const options = ["", ...this.#names].map((value) => make("option", { value }, value || "none"));
    const row = { name: make("select", { id }, ...options), weight: make("input", { type: "text", id: weightId, inputmode: "decimal", value: scale }) };
    const fields = [row.name, row.weight].map((input, index) => make("div", { class: "field" }, make("label", { for: input.id }, words[index]), input));
    const element = make("div", { class: "pair" }, ...fields);
    row.name.value = name;
    this.#rows.push({ ...row, element });
    this.field.append(element);
  }

  /** Keep one empty row at the end, and let no adapter be chosen twice. */
  #arrange() {
    const last = this.#rows.findLastIndex(({ name }) => name.value);
    this.#rows.splice(last + 2).forEach(({ element }) => element.remove());
    if (this.#rows.length === last + 1 && this.#rows.length < Math.min(MOST, this.#names.length)) this.#add("", 1);
    const taken = this.#rows.map(({ name }) => name.value);
    for (const { name } of this.#rows) {
      for (const option of name.options) option.disabled = option.value !== "" && option.value !== name.value && taken.includes(option.value);
    }
  }
}
