/** Puts the page together: the app, its views, and the keys. */

import { App } from "./app.js";
import { isOpen } from "./items.js";
import { remember, remembered } from "./saved.js";
import { Composer } from "./composer.js";
import { prepareCode, prepareConfirm, prepareDialogs, prepareHelp, prepareHistory, prepareKey } from "./dialogs.js";
import { byId } from "./dom.js";
import { acceptFiles } from "./drop.js";
import { sizesOf } from "./edit.js";
import { prepareEditor } from "./editor.js";
import { showFacts } from "./facts.js";
import { showGallery, walk } from "./gallery.js";
import { announce, prepareToast, showServer } from "./messages.js";
import { escapePattern } from "./patterns.js";
import { outputsOf, shapesOf } from "./sizes.js";
import { showStage } from "./stage.js";
import { showStrip } from "./strip.js";

const notify = prepareToast();
const app = new App({
  askKey: prepareKey(),
  announce,
  notify,
  onRefused: (param, message) => composer.refuse(param, message),
});
const composer = new Composer({
  onGenerate: async (settings, more) => {
    const edit = await editor.edit(settings.prompt);
    draw(settings, { ...more, edit });
  },
  onStop: () => app.stop(),
  onNoModel: () => app.askForModel(),
});
const editor = prepareEditor(app, (edit) => {
  const prompt = app.state.draft?.prompt ?? "";
  composer.vary((settings, more) => {
    // A cool model would draw what is left to it nearly the same each time.
    const temperature = typeof settings.temperature === "number" ? Math.max(1, settings.temperature) : settings.temperature;
    draw({ ...settings, prompt: escapePattern(prompt), temperature }, { ...more, edit });
  });
});
const openHelp = prepareHelp();

prepareDialogs();
prepareHistory((prompt) => {
  composer.setPrompt(prompt);
  composer.prompt.focus();
});
showServer(app);
showStage(app, (prompt) => composer.draw(prompt), editor.view);
showStrip(app);
showFacts(app, {
  onUse: (item, extent) => {
    const { used, notes } = composer.use(item.settings, extent);
    notify([used, ...notes].join(" "), undefined, { brief: notes.length === 0 });
  },
  onCode: prepareCode(),
});
showGallery(app, { confirm: prepareConfirm(), onChoose: showFrame });
acceptFiles((files) => app.open(files));
prepareTheme();
app.store.watch((state) => [state.card], (card) => card && composer.setCard(card));
app.store.watch((state) => [state.draft], (draft) => composer.setEdit(draft));
app.store.watch((state) => [state.view === "edit", state.draft], (editing) => editing && showFrame());
app.store.watch((state) => [state.items.some(isOpen)], (running) => composer.setRunning(running));
addEventListener("keydown", pressed);
app.start();

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (document.querySelector("dialog[open]")) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const writing = target.matches("input, textarea, select");
  const running = app.state.items.some(isOpen);
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) composer.submit();
  else if (event.key === "Escape" && running) app.stop();
  else if (event.key === "Escape" && app.state.view === "compare") app.closeCompare();
  else if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === "?" && remembered("single-keys", true)) openHelp();
  else if (event.key === "/" && remembered("single-keys", true)) composer.prompt.focus();
  else if (target !== document.body || !walk(byId("thumbs"), event.key)) return;
  event.preventDefault();
}

/**
 * Draw new images, or edit one.
 * @param {import("./settings.js").Settings} settings @param {Parameters<App["generate"]>[1]} more
 */
function draw(settings, { edit, ...more }) {
  if (edit && app.state.card) {
    const outputs = shapesOf(app.state.card.sizes).flatMap(outputsOf).map((output) => output.size);
    const { size, native } = sizesOf(edit, app.state.card.sizes, outputs);
    app.generate({ ...settings, size }, { ...more, native, edit });
  } else app.generate(settings, more);
  showFrame();
}

/** Bring the image into view where it is above or below the screen. */
function showFrame() {
  byId("frame").scrollIntoView({ block: "nearest" });
}

/** The button that goes through the themes: the system's, light, dark. */
function prepareTheme() {
  const themes = ["system", "light", "dark"];
  const toggle = byId("theme");
  let theme = remembered("theme", "system");
  const show = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    toggle.setAttribute("aria-label", `Colours: ${theme}`);
    toggle.title = `Colours: ${theme}`;
  };
  toggle.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remember("theme", theme);
    show();
    announce(`Colours: ${theme}`);
  });
  show();
}
