/** What the page remembers besides images: prompts, choices, and, until the tab is closed, the API key. */

const LONGEST_HISTORY = 300;

/**
 * Read a value from local storage.
 * @template Value
 * @param {string} name
 * @param {Value} otherwise
 * @returns {Value}
 */
export function remembered(name, otherwise) {
  try {
    const text = localStorage.getItem(`bitvar.${name}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** @param {string} name @param {unknown} value */
export function remember(name, value) {
  try {
    localStorage.setItem(`bitvar.${name}`, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the page works without it.
  }
}

/** Prompts that were drawn, newest first. @returns {string[]} */
export function promptHistory() {
  const prompts = remembered("prompts", /** @type {unknown} */ ([]));
  return Array.isArray(prompts) ? prompts.filter((prompt) => typeof prompt === "string") : [];
}

/** @param {string} prompt */
export function rememberPrompt(prompt) {
  const others = promptHistory().filter((other) => other !== prompt);
  remember("prompts", [prompt, ...others].slice(0, LONGEST_HISTORY));
}

/** @param {string | null} prompt  null forgets all */
export function forgetPrompt(prompt) {
  remember("prompts", prompt === null ? [] : promptHistory().filter((other) => other !== prompt));
}

/** @returns {string | null} */
export function apiKey() {
  try {
    return sessionStorage.getItem("bitvar.key");
  } catch {
    return null;
  }
}

/** @param {string} key */
export function rememberApiKey(key) {
  sessionStorage.setItem("bitvar.key", key);
}
