/** Dialogs: prompt history, code, help, the API key, and a question before deleting. */

import { MASK_FILE, SOURCE_FILE, asCommand, asCurl, asPython, editAsCurl, editAsPython } from "./code.js";
import { save } from "./files.js";
import { apiKey, forgetPrompt, promptHistory, rememberApiKey, remember, remembered } from "./saved.js";
import { button, byId, icon, make, setText } from "./dom.js";

/** Let every dialog close by its buttons and by a press beside it. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
}

/** @param {(prompt: string) => void} onChoose */
export function prepareHistory(onChoose) {
  const dialog = byId("history", HTMLDialogElement);
  const search = byId("history-search", HTMLInputElement);
  const show = () => {
    const wanted = search.value.trim().toLowerCase().split(/\s+/);
    const all = promptHistory();
    const matching = all.filter((prompt) => wanted.every((word) => prompt.toLowerCase().includes(word)));
    byId("history-list").replaceChildren(...matching.map((prompt) => entry(prompt)));
    setText(byId("history-empty"), all.length === 0 ? "Prompts that you draw appear here." : matching.length === 0 ? "No prompt has these words." : "");
    byId("history-clear").hidden = all.length === 0;
  };
  const entry = (/** @type {string} */ prompt) => {
    const choose = button(prompt, () => {
      dialog.close();
      onChoose(prompt);
    }, { class: "history-prompt" });
    const forget = make("button", { type: "button", class: "quiet square small", "aria-label": `Forget ${prompt}`, onclick: () => {
      forgetPrompt(prompt);
      show();
      search.focus();
    } }, icon("close"));
    return make("li", {}, choose, forget);
  };
  byId("history-button").addEventListener("click", () => {
    search.value = "";
    show();
    dialog.showModal();
    search.focus();
  });
  search.addEventListener("input", show);
  byId("history-clear").addEventListener("click", () => {
    forgetPrompt(null);
    show();
  });
}

/** @returns {(item: import("./items.js").Item) => void}  shows the code of an image */
export function prepareCode() {
  const dialog = byId("code", HTMLDialogElement);
  const text = byId("code-text");
  const withKey = () => apiKey() !== null;
  /** @type {{name: string, hint: string, code: (item: import("./items.js").Item) => string}[]} */
  const languages = [
    { name: "curl", hint: "Needs curl and jq.", code: ({ settings, edit }) => (edit ? editAsCurl(settings, edit, location.origin, withKey()) : asCurl(settings, location.origin, withKey())) },
    { name: "Python", hint: "pip install openai", code: ({ settings, edit }) => (edit ? editAsPython(settings, edit, location.origin, withKey()) : asPython(settings, location.origin, withKey())) },
    { name: "Command line", hint: "Draws without a server.", code: ({ settings, native }) => asCommand(settings, native) },
  ];
  /** @type {import("./items.js").Item | null} */
  let item = null;
  const inputs = languages.map(({ name }) => make("input", { type: "radio", name: "language", value: name, onchange: () => show() }));
  const labels = languages.map(({ name }, index) => make("label", { class: "tab" }, inputs[index], name));
  byId("code-tabs").append(...labels);
  byId("code-source").addEventListener("click", () => item?.edit && save(item.edit.source, SOURCE_FILE));
  byId("code-mask").addEventListener("click", () => item?.edit?.mask && save(item.edit.mask, MASK_FILE));
  const show = () => {
    const language = languages.find((_, index) => inputs[index].checked && !labels[index].hidden) ?? languages[0];
    remember("language", language.name);
    setText(byId("code-hint"), language.hint);
    byId("code-files").hidden = !item?.edit;
    byId("code-mask").hidden = !item?.edit?.mask;
    if (item) setText(text, language.code(item));
    setText(byId("code-copy"), "Copy");
  };
  byId("code-copy").addEventListener("click", async () => setText(byId("code-copy"), (await copied(text)) ? "Copied" : "Press Ctrl C"));
  return (chosen) => {
    item = chosen;
    labels[2].hidden = Boolean(item.edit); // a command can't name files of the browser
    const language = remembered("language", "curl");
    for (const input of inputs) input.checked = input.value === language;
    show();
    dialog.showModal();
  };
}

/** Copy a text, or select it where pages may not copy. @param {HTMLElement} element @returns {Promise<boolean>} */
async function copied(element) {
  try {
    await navigator.clipboard.writeText(element.textContent ?? "");
    return true;
  } catch {
    getSelection()?.selectAllChildren(element);
    return document.execCommand("copy");
  }
}

/** @returns {() => void}  opens the help */
export function prepareHelp() {
  const dialog = byId("help", HTMLDialogElement);
  const singleKeys = byId("single-keys", HTMLInputElement);
  singleKeys.checked = remembered("single-keys", true);
  singleKeys.addEventListener("change", () => remember("single-keys", singleKeys.checked));
  const open = () => dialog.showModal();
  byId("help-button").addEventListener("click", open);
  return open;
}

/** @returns {() => Promise<boolean>}  asks for the API key; false if there was none */
export function prepareKey() {
  const dialog = byId("key", HTMLDialogElement);
  const input = byId("key-input", HTMLInputElement);
  /** @type {Promise<boolean> | null} */
  let open = null;
  const ask = () =>
    new Promise((/** @type {(given: boolean) => void} */ resolve) => {
      let given = false;
      input.value = "";
      byId("key-refused").hidden = apiKey() === null;
      byId("key-form").onsubmit = (event) => {
        event.preventDefault();
        given = input.value.trim() !== "";
        if (given) rememberApiKey(input.value.trim());
        dialog.close();
      };
      dialog.onclose = () => resolve(given);
      dialog.showModal();
    });
  // Two images may be refused at once: both wait for the same answer.
  return () => (open ??= ask().finally(() => (open = null)));
}

/** @returns {(question: {title: string, text: string}) => Promise<boolean>} */
export function prepareConfirm() {
  const dialog = byId("confirm", HTMLDialogElement);
  return ({ title, text }) =>
    new Promise((resolve) => {
      let yes = false;
      setText(byId("confirm-title"), title);
      setText(byId("confirm-text"), text);
      byId("confirm-yes").onclick = () => {
        yes = true;
        dialog.close();
      };
      dialog.onclose = () => resolve(yes);
      dialog.showModal();
    });
}
