/** The form: prompt, settings, and what they make together. */

import { AdapterRows } from "./adapters.js";
import { escapePattern } from "./patterns.js";
import { planOf } from "./plan.js";
import { formatOf, isGuided, parsePerScale, parseSeed, perScaleText, randomSeed, sentBackground } from "./settings.js";
import { nativeFor, outputsOf, parseSize, shapesOf, sizeText } from "./sizes.js";
import { remember, remembered } from "./saved.js";
import { byId, make, setText } from "./dom.js";
import { shapeChoices } from "./shapes.js";

/**
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {object} Actions
 * @property {(settings: Settings, more: {images: number, guidances: import("./settings.js").PerScale[], native: import("./sizes.js").NativeSize}) => void} onGenerate
 * @property {() => void} onStop
 * @property {() => void} onNoModel  called when there is nothing to draw with yet
 */

const KEPT = ["images", "seed", "guidance", "temperature", "negative", "guidances", "top-p", "top-k", "background", "format"];
const FIELD_OF_PARAM = /** @type {Record<string, string>} */ ({
  prompt: "prompt", negative_prompt: "negative", seed: "seed", size: "size", guidance_scale: "guidance",
  temperature: "temperature", top_p: "top-p", top_k: "top-k", lora: "adapter", background: "background", output_format: "format",
});

/** The form at the left of the page. */
export class Composer {
  /** @type {Record<string, any> | null} */
  #card = null;
  /** @type {import("./sizes.js").Shape[]} */
  #shapes = [];
  #locked = false;
  #running = false;
  #editing = false;

  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.form = byId("composer", HTMLFormElement);
    this.prompt = byId("prompt", HTMLTextAreaElement);
    this.size = byId("size", HTMLSelectElement);
    this.adapters = new AdapterRows();
    this.prompt.value = remembered("draft", "");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    byId("go").addEventListener("click", (event) => {
      if (!this.#running) return;
      event.preventDefault();
      // The second click of a double click is no wish to stop.
      if (event.detail < 2) this.actions.onStop();
    });
    this.form.addEventListener("keydown", (event) => {
      // Enter in a field presses the form's button, which now says "Stop".
      if (event.key === "Enter" && this.#running && event.target instanceof HTMLInputElement) event.preventDefault();
    });
    this.form.addEventListener("input", (event) => this.#changed(/** @type {HTMLElement} */ (event.target)));
    this.#pair("guidance");
    this.#pair("temperature");
    byId("lock").addEventListener("click", () => this.#lock(!this.#locked));
    byId("dice").addEventListener("click", () => this.#dice());
    byId("reset").addEventListener("click", () => this.#reset());
    byId("settings", HTMLDetailsElement).open = matchMedia("(min-width: 44rem)").matches;
    this.#lock(false);
    this.#showPlan();
  }

  /** Take over what the model offers. @param {Record<string, any>} card */
  setCard(card) {
    const same = JSON.stringify(card) === JSON.stringify(this.#card);
    this.#card = card;
    if (same) return;
    this.#shapes = shapesOf(card.sizes);
    byId("shape-field").hidden = this.#editing || this.#shapes.length < 2;
    byId("shapes").replaceChildren(...shapeChoices(this.#shapes, (shape) => this.#showSizes(shape)));
    byId("background-field").hidden = !card.alpha;
    this.adapters.setNames(card.adapters);
    const kept = remembered(`form.${card.name}`, /** @type {Record<string, any> | null} */ (null));
    this.#reset();
    if (kept) this.#restore(kept);
  }

  /** @param {boolean} running */
  setRunning(running) {
    this.#running = running;
    this.form.classList.toggle("running", running);
    this.#showPlan();
  }

  /** Edit an image, or draw new ones. @param {import("./edit.js").Draft | null} draft */
  setEdit(draft) {
    this.#editing = draft !== null;
    byId("size-field").hidden = this.#editing;
    byId("shape-field").hidden = this.#editing || this.#shapes.length < 2;
    this.prompt.placeholder = this.#editing ? "What should it show then?" : "What should it draw?";
    if (draft?.prompt && !this.prompt.value.trim()) this.setPrompt(escapePattern(draft.prompt));
    this.#showPlan();
  }

  /** Put a prompt into the form and draw it. @param {string} prompt */
  draw(prompt) {
    this.setPrompt(prompt);
    this.#submit();
  }

  /** @param {string} prompt */
  setPrompt(prompt) {
    this.prompt.value = prompt;
    this.#changed(this.prompt);
  }

  /** Draw with the present settings, unless something is being drawn. */
  submit() {
    if (!this.#running) this.#submit();
  }

  /** Draw with the present settings by other means, unless something is being drawn. @param {Actions["onGenerate"]} onReady */
  vary(onReady) {
    if (!this.#running) this.#submit(onReady);
  }

  /**
   * Take over the settings of an image.
   * @param {Settings} settings
   * @param {"all" | "all but the seed" | "only the prompt"} extent
   * @returns {{used: string, notes: string[]}}  what was taken over, and what could not be, in sentences
   */
  use(settings, extent) {
    const notes = [];
    const taken = ["the prompt"];
    this.prompt.value = settings.prompt;
    if (extent !== "only the prompt") {
      this.#set("negative", settings.negative_prompt);
      this.#set("guidance", perScaleText(settings.guidance_scale));
      this.#set("temperature", perScaleText(settings.temperature));
      this.#set("top-p", String(settings.top_p));
      this.#set("top-k", String(settings.top_k ?? 0));
      this.#set("guidances", "");
      this.#set("images", "1");
      if (settings.negative_prompt) taken.push("the negative prompt");
      if (extent === "all") taken.push(`seed ${settings.seed}`);
      taken.push(`guidance ${perScaleText(settings.guidance_scale)}`, `temperature ${perScaleText(settings.temperature)}`);
      if (settings.top_p) taken.push(`top-p ${settings.top_p}`);
      if (settings.top_k) taken.push(`top-k ${settings.top_k}`);
      if (this.#choose(settings.size)) taken.push(`size ${settings.size.join(" × ")}`);
      else notes.push(`This model has no size of ${settings.size.join(" × ")}.`);
      const missing = this.adapters.set(settings.adapters ?? []);
      taken.push(...(settings.adapters ?? []).map(({ name }) => name).filter((name) => !missing.includes(name)).map((name) => `adapter ${name}`));
      notes.push(...missing.map((name) => `This server has no adapter ${name}.`));
      this.#set("background", settings.background ?? "auto");
      if (sentBackground(settings) && this.#card?.alpha) taken.push(`${settings.background} background`);
      else if (settings.background === "transparent") notes.push("This model draws no transparent images.");
      this.#set("format", formatOf(settings));
      if (extent === "all") this.#set("seed", settings.seed);
      this.#lock(extent === "all");
      const [served, used] = [this.#card?.name, settings.model];
      if (served && used && served !== used) notes.push(`It was made with ${used}; this server has ${served}, which draws another image.`);
    }
    this.#changed(this.prompt);
    return { used: `Used: ${taken.join(", ")}.`, notes };
  }

  /** Show at a field what the server said about it. @param {string} param @param {string} message */
  refuse(param, message) {
    const field = FIELD_OF_PARAM[param.split(/[.[]/)[0]];
    if (field) this.#invalid(field, message);
  }

  /** @param {Actions["onGenerate"]} onReady  gets the settings and how many images */
  #submit(onReady = this.actions.onGenerate) {
    this.form.querySelectorAll("[aria-invalid]").forEach((field) => this.#valid(field));
    if (!this.#card) {
      this.actions.onNoModel();
      return this.#invalid("prompt", "The server has not named its model yet. Try again in a moment.");
    }
    if (!this.prompt.value.trim() && !this.#editing) return this.#invalid("prompt", "Write a prompt first.", true);
    if (!this.#locked || !this.#value("seed").trim()) this.#set("seed", randomSeed());
    const guidance = this.#read("guidance", (text) => parsePerScale(text), "Give a number from 0 to 100, or one for each scale.");
    const temperature = this.#read("temperature", (text) => parsePerScale(text), "Give a number from 0 to 100, or one for each scale.");
    const guidances = this.#read("guidances", guidanceList, "Give numbers from 0 to 100 with commas between them.");
    const top_p = this.#read("top-p", (text) => single(text || "0", 1), "Give a number from 0 to 1.");
    const seed = this.#read("seed", parseSeed, "Give a whole number from 0 to 9223372036854775807.");
    const images = this.#read("images", wholeCount, "Give a whole number from 1 to 16.");
    const top_k = this.#read("top-k", (text) => wholeFrom(0, 1_000_000, text || "0"), "Give a whole number from 0 to 1000000.");
    const adapters = this.adapters.values.filter((adapter) => adapter !== null);
    if (adapters.length < this.adapters.values.length) return this.#invalid(this.adapters.wrong, "Give a number from -100 to 100.", true);
    const plan = this.#plan();
    if (plan.problem) return this.#invalid("prompt", plan.problem, true);
    const size = parseSize(this.size.value);
    if (guidance === null || temperature === null || guidances === null || top_p === null || top_k === null || seed === null || images === null || !size) return;
    onReady(
      {
        prompt: this.prompt.value, negative_prompt: this.#value("negative"), seed, guidance_scale: guidance, temperature, top_p, top_k, size,
        adapters,
        background: this.#card.alpha ? /** @type {import("./settings.js").Background} */ (this.#value("background")) : "auto",
        format: /** @type {import("./settings.js").FileFormat} */ (this.#value("format")),
        model: this.#card.name,
      },
      { images, guidances: guidances.length ? guidances : [guidance], native: nativeFor(this.#card.sizes, size) },
    );
  }

  /** @param {HTMLElement} field */
  #changed(field) {
    this.#valid(field);
    if (field.id === "seed") this.#lock(this.#value("seed") !== "");
    remember("draft", this.prompt.value);
    if (this.#card) {
      const values = Object.fromEntries(KEPT.map((id) => [id, this.#value(id)]));
      remember(`form.${this.#card.name}`, { ...values, size: this.size.value, locked: this.#locked, adapters: this.adapters.values });
    }
    this.#showPlan();
  }

  /** @param {Record<string, any>} kept */
  #restore(kept) {
    for (const id of KEPT) if (typeof kept[id] === "string") this.#set(id, kept[id]);
    const size = parseSize(String(kept.size));
    if (size) this.#choose(size);
    if (Array.isArray(kept.adapters)) this.adapters.set(kept.adapters.filter((adapter) => adapter));
    this.#lock(kept.locked === true);
    this.#changed(this.size);
  }

  #reset() {
    const defaults = this.#card?.defaults ?? {};
    const [first] = this.#card?.sizes ?? [];
    this.#set("guidance", perScaleText(defaults.guidance_scale ?? 3));
    this.#set("temperature", perScaleText(defaults.temperature ?? 1));
    this.#set("top-p", String(defaults.top_p ?? 0));
    this.#set("top-k", String(defaults.top_k ?? 0));
    for (const [id, value] of [["images", "1"], ["negative", ""], ["guidances", ""], ["seed", ""], ["background", "auto"], ["format", "png"]]) this.#set(id, value);
    this.adapters.set([]);
    this.#lock(false);
    if (first) this.#choose([first.width, first.height]);
    this.#changed(this.size);
  }

  /** @param {import("./sizes.js").Size} size @returns {boolean}  whether the model has it */
  #choose(size) {
    const shape = this.#shapes.find((one) => outputsOf(one).some((output) => sizeText(output.size) === sizeText(size)));
    if (!shape) return false;
    const choice = byId("shapes").querySelector(`input[value="${shape.name}"]`);
    if (choice instanceof HTMLInputElement) choice.checked = true;
    this.#showSizes(shape);
    this.size.value = sizeText(size);
    return true;
  }

  /** @param {import("./sizes.js").Shape} shape */
  #showSizes(shape) {
    const area = (/** @type {string} */ value) => (parseSize(value) ?? [0, 0]).reduce((product, side) => product * side, 1);
    const before = area(this.size.value);
    const outputs = outputsOf(shape);
    const options = outputs.map(({ size, factor }) =>
      make("option", { value: sizeText(size) }, `${size[0]} × ${size[1]}${factor > 1 ? ` (enlarged ${factor}×)` : ""}`),
    );
    this.size.replaceChildren(...options);
    const distance = (/** @type {HTMLOptionElement} */ option) => Math.abs(Math.log(area(option.value) / (before || 1)));
    if (before) this.size.value = options.reduce((best, option) => (distance(option) < distance(best) ? option : best)).value;
  }

  #dice() {
    this.#set("seed", randomSeed());
    this.#lock(true);
    this.#changed(byId("dice"));
  }

  /** @param {boolean} locked */
  #lock(locked) {
    this.#locked = locked;
    const lock = byId("lock");
    lock.setAttribute("aria-pressed", String(locked));
    lock.querySelector("use")?.setAttribute("href", locked ? "#icon-lock" : "#icon-unlock");
    setText(byId("seed-hint"), locked ? "Locked: the same seed every time." : "A new one each time.");
  }

  /** Tie a slider to its field. @param {string} id */
  #pair(id) {
    const range = byId(`${id}-range`, HTMLInputElement);
    range.addEventListener("input", () => this.#set(id, range.value));
    byId(id).addEventListener("input", () => this.#set(id, this.#value(id)));
  }

  #plan() {
    const guidances = guidanceList(this.#value("guidances"))?.length || 1;
    return planOf({ prompt: this.prompt.value, images: wholeCount(this.#value("images")) ?? 1, guidances });
  }

  #showPlan() {
    const { count, prompts, problem } = this.#plan();
    const many = prompts > 1 ? `${prompts} prompts, ${count} ${count === 1 ? "image" : "images"}.` : "Write {red|blue} to try several words.";
    if (!this.prompt.hasAttribute("aria-invalid")) setText(byId("prompt-hint"), problem ?? many);
    setText(byId("go-label"), this.#running ? "Stop" : this.#editing ? (count > 1 ? `Edit into ${count} images` : "Edit the image") : count > 1 ? `Generate ${count} images` : "Generate");
    setText(byId("go-key"), this.#running ? "Esc" : "Ctrl ↵");
    const guidance = parsePerScale(this.#value("guidance"));
    const unused = guidance !== null && !isGuided(guidance) && !guidanceList(this.#value("guidances"))?.some(isGuided) && this.#value("negative").trim();
    setText(byId("negative-hint"), unused ? "Not used while guidance is 1. Try 2." : "What to steer away from.");
    const size = this.#editing ? [] : [this.size.value.replace("x", " × ")];
    setText(byId("settings-facts"), [...size, `guidance ${this.#value("guidance")}`].join(" · "));
  }

  /**
   * @template Value
   * @param {string} id
   * @param {(text: string) => Value | null} parse
   * @param {string} message
   * @returns {Value | null}
   */
  #read(id, parse, message) {
    const value = parse(this.#value(id));
    if (value === null) this.#invalid(id, message, true);
    return value;
  }

  /** @param {string} id @param {string} message @param {boolean} [focus] */
  #invalid(id, message, focus = false) {
    const field = byId(id);
    field.setAttribute("aria-invalid", "true");
    let error = document.getElementById(`${id}-error`);
    if (!error) {
      error = make("p", { id: `${id}-error`, class: "field-error", role: "alert" });
      (field.closest(".field") ?? field.parentElement)?.append(error);
      if (id === "prompt") byId("prompt-hint").after(error);
    }
    setText(error, message);
    if (!focus) return;
    for (let details = field.closest("details"); details; details = details.parentElement?.closest("details") ?? null) details.open = true;
    field.focus();
  }

  /** @param {Element} field */
  #valid(field) {
    field.removeAttribute("aria-invalid");
    document.getElementById(`${field.id}-error`)?.remove();
  }

  /** @param {string} id */
  #value(id) {
    return /** @type {HTMLInputElement} */ (byId(id)).value;
  }

  /** @param {string} id @param {string} value */
  #set(id, value) {
    /** @type {HTMLInputElement} */ (byId(id)).value = value;
    const range = document.getElementById(`${id}-range`);
    if (range instanceof HTMLInputElement && range.value !== value) range.value = String([parsePerScale(value) ?? 0].flat()[0]);
  }
}

/** @param {string} text @param {number} high @returns {number | null} */
function single(text, high) {
  const value = parsePerScale(text, high);
  return typeof value === "number" ? value : null;
}

/** @param {string} text @returns {number[] | null} */
function guidanceList(text) {
  if (text.trim() === "") return [];
  const values = parsePerScale(text.replace(/[,\s]+$/, ""));
  return values === null ? null : [...new Set([values].flat())];
}

/** @param {string} text */
function wholeCount(text) {
  return wholeFrom(1, 16, text);
}

/** @param {number} low @param {number} high @param {string} text @returns {number | null} */
function wholeFrom(low, high, text) {
  const value = Number(text);
  return text.trim() !== "" && Number.isInteger(value) && value >= low && value <= high ? value : null;
}
