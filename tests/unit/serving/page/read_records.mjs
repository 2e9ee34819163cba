// Prints what the page reads from image files, as a JSON list of records and refusals.

import { readFile } from "node:fs/promises";

import { readRecord } from "../../../../src/bitvar/serving/page/metadata.js";

const results = [];
for (const path of process.argv.slice(2)) {
  try {
    results.push({ record: await readRecord(new Uint8Array(await readFile(path))) });
  } catch (error) {
    results.push({ refused: error.message });
  }
}
console.log(JSON.stringify(results));
