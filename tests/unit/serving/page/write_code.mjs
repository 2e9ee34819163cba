// Reads settings from standard input, and prints the code that the page offers for each of them.

import { asCommand, asCurl, asPython, fileName } from "../../../../src/bitvar/serving/page/code.js";

let text = "";
for await (const piece of process.stdin) text += piece;
const codes = JSON.parse(text).map((settings) => ({
  curl: asCurl(settings, "http://127.0.0.1:8000", true),
  python: asPython(settings, "http://127.0.0.1:8000", true),
  command: asCommand(settings, [64, 64]),
  file: fileName(settings),
}));
console.log(JSON.stringify(codes));
