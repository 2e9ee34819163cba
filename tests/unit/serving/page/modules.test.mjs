// Tests of the page's modules that need no browser; test_modules.py runs them with `node --test`.

import assert from "node:assert/strict";
import test from "node:test";

import { canBeExact, editFields, keptText, scalesKept, sizesOf } from "../../../../src/bitvar/serving/page/edit.js";
import { EventStreamParser, queuePosition } from "../../../../src/bitvar/serving/page/event_stream.js";
import { parseExact, stringifyWithSeed } from "../../../../src/bitvar/serving/page/exact_json.js";
import { MetadataError, hasAlpha, mediaTypeOf, readRecord } from "../../../../src/bitvar/serving/page/metadata.js";
import { PatternError, countPrompts, escapePattern, expandPattern } from "../../../../src/bitvar/serving/page/patterns.js";
import { LARGEST_RUN, expandRun, planOf } from "../../../../src/bitvar/serving/page/plan.js";
import { isGuided, parsePerScale, parseSeed, requestFields, seedsFrom, settingsOfRecord } from "../../../../src/bitvar/serving/page/settings.js";
import { nativeFor, outputsOf, ratioName, shapesOf, tokensOf } from "../../../../src/bitvar/serving/page/sizes.js";
import { Store } from "../../../../src/bitvar/serving/page/store.js";
import { spread } from "../../../../src/bitvar/serving/page/welcome.js";
import { zip } from "../../../../src/bitvar/serving/page/zip.js";

const SETTINGS = {
  prompt: "a cat", negative_prompt: "", seed: "7", guidance_scale: 1, temperature: 0.25, top_p: 0, top_k: 0, size: [64, 64], adapters: [], background: "auto", model: "icons",
};
const RECORD = { prompt: "a cat", seed: 7, width: 64, height: 64, guidance_scale: 1, temperature: 0.25, top_k: 0, top_p: 0, model: "icons@4e5261f93e2f", format: 2 };

test("a pattern makes every combination, the last group fastest", () => {
  assert.deepEqual(expandPattern("a {red|blue} {car|bus}", 10), ["a red car", "a red bus", "a blue car", "a blue bus"]);
});

test("groups nest, may be empty, and are counted without being expanded", () => {
  assert.deepEqual(expandPattern("{a {big|small} cat|a dog}", 10), ["a big cat", "a small cat", "a dog"]);
  assert.deepEqual(expandPattern("{very |}red", 10), ["very red", "red"]);
  assert.equal(countPrompts("{1|2|3|4|5|6|7|8|9|10}".repeat(9)), 1e9);
});

test("escaped signs, single braces and bars outside a group are plain text", () => {
  assert.deepEqual(expandPattern("\\{a\\|b\\} \\\\ c|d {e} f}", 10), ["{a|b} \\ c|d {e} f}"]);
  assert.deepEqual(expandPattern("{a {b}|c}", 10), ["a {b}", "c"]);
});

test("a pattern that is too large or not closed is refused", () => {
  assert.throws(() => expandPattern("{a|b}{a|b}", 3), PatternError);
  assert.throws(() => countPrompts("a {b|c"), PatternError);
});

test("a text becomes the pattern of itself", () => {
  for (const text of ["a {red|blue} cat", "{", "a|b", "{{|}}", "plain"]) assert.deepEqual(expandPattern(escapePattern(text), 1), [text]);
});

test("a form says what is kept, and a size only where that is free", () => {
  const settings = { ...SETTINGS, temperature: [1, 2], adapters: [{ name: "ink", scale: 0.5 }], seed: "9223372036854775807" };
  const common = { prompt: "a cat", model: "icons", guidance_scale: "1", temperature: "[1,2]", lora: '{"name":"ink","scale":0.5}', seed: "9223372036854775807" };
  const edit = { source: new Blob([]), mask: null, size: [64, 64], exact: false };
  assert.deepEqual(editFields(settings, { ...edit, strength: 0.5 }), { ...common, size: "64x64", strength: "0.5" });
  assert.deepEqual(editFields(settings, { ...edit, exact: true, strength: 1 }), { ...common, exact: "true", strength: "1" });
  const { strength, ...localized } = { ...common, exact: "true", method: "localized", source_prompt: "a dog" };
  assert.deepEqual(editFields(settings, { ...edit, exact: true, source_prompt: "a dog" }), localized);
  assert.deepEqual(editFields({ ...settings, prompt: " " }, { ...edit, keep_scales: 1 }), { ...withoutPrompt(common), size: "64x64", keep_scales: "1" });
});

function withoutPrompt({ prompt, ...rest }) {
  return rest;
}

test("an edit keeps the size of the image, or takes the model's", () => {
  const native = (width, height) => ({ width, height, grids: [[1, 1]] });
  const sizes = [native(64, 64), native(96, 48)];
  assert.deepEqual(sizesOf({ size: [300, 260], exact: true }, sizes, []), { native: sizes[0], size: [300, 260] });
  assert.deepEqual(sizesOf({ size: [300, 140], exact: false }, sizes, []), { native: sizes[1], size: [96, 48] });
  assert.deepEqual(sizesOf({ size: [256, 256], exact: false }, sizes, [[256, 256]]), { native: sizes[0], size: [256, 256] });
  assert.deepEqual([canBeExact([4096, 4096]), canBeExact([4097, 4096])], [true, false]);
});

test("variations keep half of the scales, or the first", () => {
  assert.deepEqual([4, 13, 2].map((scales) => [scalesKept("layout", scales), scalesKept("colours", scales)]), [[2, 1], [7, 1], [1, 1]]);
  assert.equal(keptText({ strength: 0.35, mask: null }, 4), "35 % drawn anew");
  assert.equal(keptText({ source_prompt: "a dog", mask: null, exact: true }, 4), "what differs between the prompts, the rest exactly as it was");
  assert.equal(keptText({ keep_scales: 2, mask: {}, exact: true }, 4), "2 of 4 scales kept, the rest exactly as it was");
});

test("the record of an edit may have no prompt, and says that the image is missing", () => {
  const { settings, notes } = settingsOfRecord({ ...RECORD, prompt: "", edit: { method: "redraw" } });
  assert.equal(settings.prompt, "");
  assert.match(notes[0], /another image, which is not in the file/);
  assert.throws(() => settingsOfRecord({ ...RECORD, prompt: "" }), TypeError);
});

test("a stream cut anywhere gives the same events", () => {
  const text = "\uFEFF: queue=3\r\n\r\nevent: one\r\ndata: {\"a\": 1}\r\n\r\ndata:x\ndata: y\n\nevent: lost\n\ndata: last\r\r";
  const expected = [
    { kind: "comment", text: "queue=3" },
    { kind: "event", type: "one", data: '{"a": 1}' },
    { kind: "event", type: "message", data: "x\ny" },
    { kind: "event", type: "message", data: "last" },
  ];
  for (let size = 1; size <= text.length; size++) {
    const parser = new EventStreamParser();
    const parts = [];
    for (let at = 0; at < text.length; at += size) parts.push(...parser.push(text.slice(at, at + size)));
    parts.push(...parser.push("\n"));
    assert.deepEqual(parts, expected, `pieces of ${size}`);
  }
});

test("an unfinished event waits", () => {
  const parser = new EventStreamParser();
  assert.deepEqual(parser.push("data: half"), []);
  assert.deepEqual(parser.push("\n"), []);
  assert.deepEqual(parser.push("\n"), [{ kind: "event", type: "message", data: "half" }]);
});

test("the place in the queue is read from comments", () => {
  assert.equal(queuePosition("queue=12"), 12);
  assert.equal(queuePosition("keep-alive queue=0"), 0);
  assert.equal(queuePosition("keep-alive"), null);
});

test("seeds keep all their digits", () => {
  const parsed = parseExact('{"seed": 9223372036854775807, "text": "12345678901234567890 \\" 9223372036854775807", "x": 1.5}');
  assert.deepEqual(parsed, { seed: "9223372036854775807", text: '12345678901234567890 " 9223372036854775807', x: 1.5 });
  const text = stringifyWithSeed({ prompt: 'say "seed":"" and $& $1', n: 1 }, "9223372036854775807");
  assert.ok(text.includes('"seed":9223372036854775807'));
  assert.deepEqual(parseExact(text), { prompt: 'say "seed":"" and $& $1', n: 1, seed: "9223372036854775807" });
  assert.throws(() => stringifyWithSeed({}, '1,"model":"x"'), RangeError);
});

test("seeds are checked and count up past the end", () => {
  assert.equal(parseSeed(" 0042 "), "42");
  for (const bad of ["", "-1", "1.5", "1e3", "9223372036854775808", "12345678901234567890"]) assert.equal(parseSeed(bad), null, bad);
  assert.deepEqual(seedsFrom("9223372036854775806", 3), ["9223372036854775806", "9223372036854775807", "0"]);
});

test("numbers per scale are read, and others refused", () => {
  assert.equal(parsePerScale("2.5"), 2.5);
  assert.deepEqual(parsePerScale("1, 2,3"), [1, 2, 3]);
  for (const bad of ["", "x", "-1", "101", "1,,2", "NaN", "Infinity"]) assert.equal(parsePerScale(bad), null, bad);
  assert.equal(isGuided([1, 1]), false);
  assert.equal(isGuided([1, 2]), true);
});

test("a run has every prompt, seed and guidance", () => {
  const run = expandRun({ ...SETTINGS, prompt: "{a|b}" }, { images: 2, guidances: [1, 3] });
  assert.deepEqual(run.map(({ prompt, seed, guidance_scale }) => [prompt, seed, guidance_scale]), [
    ["a", "7", 1], ["a", "7", 3], ["a", "8", 1], ["a", "8", 3], ["b", "7", 1], ["b", "7", 3], ["b", "8", 1], ["b", "8", 3],
  ]);
});

test("the plan counts, and says what is too much", () => {
  assert.deepEqual(planOf({ prompt: "{a|b} c", images: 3, guidances: 2 }), { count: 12, prompts: 2, problem: null });
  assert.equal(planOf({ prompt: "a", images: LARGEST_RUN, guidances: 1 }).problem, null);
  assert.match(planOf({ prompt: "{a|b}", images: LARGEST_RUN, guidances: 1 }).problem ?? "", /128 images; at most 64/);
  assert.match(planOf({ prompt: "{a", images: 1, guidances: 1 }).problem ?? "", /has no/);
});

test("a request leaves out what does nothing", () => {
  assert.deepEqual(requestFields(SETTINGS), { model: "icons", prompt: "a cat", size: "64x64", guidance_scale: 1, temperature: 0.25 });
  const full = { ...SETTINGS, negative_prompt: "dogs", guidance_scale: 2, top_p: 0.9, top_k: 1, adapters: [{ name: "ink", scale: 0.5 }] };
  assert.deepEqual(requestFields(full), {
    model: "icons", prompt: "a cat", negative_prompt: "dogs", size: "64x64", guidance_scale: 2, temperature: 0.25, top_p: 0.9, top_k: 1, lora: { name: "ink", scale: 0.5 },
  });
  const two = [{ name: "ink", scale: 0.5 }, { name: "clay", scale: 1 }];
  assert.deepEqual(requestFields({ ...full, adapters: two }).lora, two);
  assert.ok(!("negative_prompt" in requestFields({ ...full, guidance_scale: 1 })));
});

test("a background and a format are sent if they are not the usual ones", () => {
  const { background, ...old } = SETTINGS;
  assert.deepEqual(requestFields(old), requestFields(SETTINGS));
  for (const value of ["transparent", "opaque"]) {
    assert.equal(requestFields({ ...SETTINGS, background: value }).background, value);
    assert.equal(settingsOfRecord({ ...RECORD, background: value }).settings.background, value);
  }
  assert.equal(requestFields({ ...SETTINGS, format: "webp" }).output_format, "webp");
  assert.ok(!("output_format" in requestFields({ ...SETTINGS, format: "png" })));
});

test("a record becomes settings", () => {
  const { settings, native, count, notes } = settingsOfRecord(RECORD);
  assert.deepEqual(settings, SETTINGS);
  assert.deepEqual([native, count, notes], [[64, 64], 1, []]);
});

test("a record's size, sheet, adapters and age are told", () => {
  const exact = settingsOfRecord({ ...RECORD, requested_width: 96, requested_height: 80, exact_size: true, enlarge: 2 });
  assert.deepEqual(exact.settings.size, [192, 160]);
  const near = settingsOfRecord({ ...RECORD, requested_width: 96, requested_height: 80 });
  assert.deepEqual(near.settings.size, [64, 64]);
  assert.equal(settingsOfRecord({ ...RECORD, grid: true, seeds: [7, 8, 9] }).count, 3);
  const lora = [{ name: "ink", weight: 0.5 }, { name: "clay", weight: 1 }];
  const adapted = settingsOfRecord({ ...RECORD, lora });
  assert.deepEqual(adapted.settings.adapters, [{ name: "ink", scale: 0.5 }, { name: "clay", scale: 1 }]);
  assert.deepEqual(adapted.notes, []);
  assert.equal(settingsOfRecord({ ...RECORD, top_k: 1 }).settings.top_k, 1);
  const { format, ...old } = RECORD;
  const first = settingsOfRecord({ ...old, batch_size: 4, batch_index: 2 });
  assert.equal(first.settings.seed, "9");
  assert.match(first.notes.join(), /earlier version/);
  assert.match(settingsOfRecord({ ...RECORD, format: format + 1 }).notes.join(), /newer version/);
});

test("a damaged record is refused in words", () => {
  for (const damage of [{ prompt: 3 }, { seed: -1 }, { seed: "x" }, { width: 0 }, { guidance_scale: [] }, { temperature: "1" }]) {
    assert.throws(() => settingsOfRecord({ ...RECORD, ...damage }), /damaged/, JSON.stringify(damage));
  }
});

test("sizes are grouped by shape and named by small numbers", () => {
  const sizes = [[1024, 1024], [1248, 832], [512, 512], [832, 1248]].map(([width, height]) => ({ width, height, grids: [[1, 1]] }));
  assert.deepEqual(shapesOf(sizes).map(({ name, sizes: own }) => [name, own.map((size) => size.width)]), [["3:2", [1248]], ["1:1", [512, 1024]], ["2:3", [832]]]);
  assert.deepEqual([ratioName(768, 1344), ratioName(576, 1728), ratioName(1280, 720)], ["4:7", "1:3", "7:4"]);
});

test("a single small size can be enlarged; several are taken as they are", () => {
  const small = { name: "1:1", value: 1, sizes: [{ width: 64, height: 64, grids: [] }] };
  assert.deepEqual(outputsOf(small).map(({ size, factor }) => [size[0], factor]), [[64, 1], [128, 2], [256, 4], [512, 8], [1024, 16]]);
  const large = { ...small, sizes: [...small.sizes, { width: 128, height: 128, grids: [] }] };
  assert.deepEqual(outputsOf(large).map(({ size }) => size[0]), [64, 128]);
  const sizes = [{ width: 64, height: 64, grids: [] }, { width: 96, height: 48, grids: [] }, { width: 128, height: 128, grids: [] }];
  assert.equal(nativeFor(sizes, [120, 120]).width, 128);
  assert.equal(nativeFor(sizes, [960, 480]).width, 96);
});

test("tokens of a scale are its grid's cells", () => {
  assert.deepEqual(tokensOf([[1, 1], [2, 2], [4, 8]]), { counts: [1, 4, 32], total: 37 });
});

test("the store tells views of what they watch, once a task", async () => {
  const store = new Store({ a: 1, b: 1 });
  const seen = [];
  store.watch((state) => [state.a], (a) => seen.push(a));
  store.set({ a: 2 });
  store.set({ a: 3 });
  await null;
  store.set({ b: 2 });
  await null;
  assert.deepEqual(seen, [1, 3]);
});

test("files that are no image, or have no settings, are told apart", async () => {
  await assert.rejects(readRecord(new Uint8Array([1, 2, 3])), MetadataError);
  const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10, 0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0, 0, 0, 0]);
  assert.equal(mediaTypeOf(png), "image/png");
  assert.equal(await readRecord(png), null);
  assert.equal(await readRecord(png.subarray(0, 9)), null);
  assert.equal(await readRecord(new Uint8Array([0xff, 0xd8, 0xff, 0xe1, 0, 9, 69])), null);
});

test("an alpha channel is found in the header", () => {
  const png = (/** @type {number} */ kind) => new Uint8Array([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 8, 0, 0, 0, 8, 8, kind]);
  assert.deepEqual([0, 2, 3, 4, 6].map((kind) => hasAlpha(png(kind))), [false, false, false, true, true]);
  const webp = (/** @type {string} */ chunk, /** @type {number[]} */ rest) => new Uint8Array([..."RIFF....WEBP", ...chunk].map((sign) => sign.charCodeAt(0)).concat([0, 0, 0, 0], rest));
  assert.deepEqual([webp("VP8X", [0x10]), webp("VP8X", [0x08]), webp("VP8L", [0x2f, 7, 0, 0, 0x10]), webp("VP8L", [0x2f, 7, 0, 0, 0]), webp("VP8 ", [0x10])].map(hasAlpha), [true, false, true, false, false]);
  assert.equal(hasAlpha(new Uint8Array([0xff, 0xd8, 0xff])), false);
});

test("examples come from all over the list, whatever its kinds in turn", () => {
  const styles = ["noto", "twemoji", "flat", "3d"];
  const all = Array.from({ length: 24 }, (_, index) => (index < 8 ? `layout ${index}` : styles[index % 4]));
  const chosen = spread(all, 6);
  assert.equal(chosen.length, 6);
  assert.ok(chosen.includes("3d") && new Set(chosen).size >= 5, chosen.join());
  assert.deepEqual(spread(["a", "b"], 6), ["a", "b"]);
});

test("an archive refuses what it can't hold", () => {
  const file = { name: "a", data: new Uint8Array() };
  assert.throws(() => zip(Array.from({ length: 65_536 }, () => file)), RangeError);
});
