/** Images that are dropped, pasted or chosen, to read their settings. */

import { byId } from "./dom.js";

/** @param {(files: Iterable<File>) => void} onFiles */
export function acceptFiles(onFiles) {
  const target = byId("drop");
  const input = byId("file", HTMLInputElement);
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    target.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) target.hidden = true;
  });
  addEventListener("drop", (event) => {
    target.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    onFiles(event.dataTransfer?.files ?? []);
  });
  addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? new DataTransfer().files;
    if (files.length) onFiles(files);
  });
  byId("open-file").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    onFiles([...(input.files ?? [])]);
    input.value = "";
  });
}
