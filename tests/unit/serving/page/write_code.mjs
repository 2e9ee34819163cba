// Reads settings from standard input, and prints the code that the page offers for each of them.

import { asCommand, asCurl, asPython, editAsCurl, editAsPython, fileName } from "../../../../src/bitvar/serving/page/code.js";

const EDIT = { source: new Blob([]), mask: new Blob([]), size: [64, 64], exact: true, strength: 0.75 };
let text = "";
for await (const piece of process.stdin) text += piece;
const codes = JSON.parse(text).map((settings) => ({
  curl: asCurl(settings, "http://127.0.0.1:8000", true),
  python: asPython(settings, "http://127.0.0.1:8000", true),
  editCurl: editAsCurl(settings, EDIT, "http://127.0.0.1:8000", true),
  editPython: editAsPython(settings, EDIT, "http://127.0.0.1:8000", true),
  command: asCommand(settings, [64, 64]),
  file: fileName(settings),
}));
console.log(JSON.stringify(codes));
