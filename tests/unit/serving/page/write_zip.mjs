// Writes an archive of the files named as arguments to standard output.

import { readFile } from "node:fs/promises";
import { basename } from "node:path";

import { zip } from "../../../../src/bitvar/serving/page/zip.js";

const files = await Promise.all(process.argv.slice(2).map(async (path) => ({ name: basename(path), data: new Uint8Array(await readFile(path)) })));
process.stdout.write(zip(files, new Date(2026, 10, 29, 12, 34, 56)));
