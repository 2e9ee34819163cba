/** The same image from elsewhere: as a curl command, a Python program, or a command of bitvar. */

import { editFields } from "./edit.js";
import { stringifyWithSeed } from "./exact_json.js";
import { formatOf, perScaleText, requestFields, sentBackground, sentNegative } from "./settings.js";
import { sizeText } from "./sizes.js";

/** @typedef {import("./settings.js").Settings} Settings */

/** Names that the code of an edit gives to the image and its mask. */
export const [SOURCE_FILE, MASK_FILE] = ["source.png", "mask.png"];

/**
 * Quote a text for a POSIX shell.
 * @param {string} text
 */
export function shellQuoted(text) {
  return /^[\w.,:/=@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * Make a file name of a prompt and a seed.
 * @param {Settings} settings
 * @param {string} [suffix]  that of the settings' format if it is missing
 */
export function fileName(settings, suffix = formatOf(settings)) {
  const words = settings.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+/, "");
  const short = [...words].slice(0, 48).join("").replace(/-+$/, "");
  return `${short || "image"}-${settings.seed}.${suffix}`;
}

/**
 * @param {Settings} settings
 * @param {string} origin  of the server
 * @param {boolean} withKey  whether the server asks for a key
 */
export function asCurl(settings, origin, withKey) {
  const key = withKey ? ['  -H "Authorization: Bearer $BITVAR_API_KEY"'] : [];
  return [
    `curl ${shellQuoted(`${origin}/v1/images/generations`)}`,
    "  -H 'Content-Type: application/json'",
    ...key,
    `  -d ${shellQuoted(stringifyWithSeed(requestFields(settings), settings.seed))}`,
  ].join(" \\\n") + ` \\\n  | jq -r '.data[0].b64_json' | base64 -d > ${shellQuoted(fileName(settings))}\n`;
}

/**
 * @param {Settings} settings
 * @param {import("./edit.js").Edit} edit
 * @param {string} origin  of the server
 * @param {boolean} withKey  whether the server asks for a key
 */
export function editAsCurl(settings, edit, origin, withKey) {
  const fields = Object.entries(editFields(settings, edit)).map(([name, value]) => `  --form-string ${shellQuoted(`${name}=${value}`)}`);
  return [
    `curl ${shellQuoted(`${origin}/v1/images/edits`)}`,
    ...(withKey ? ['  -H "Authorization: Bearer $BITVAR_API_KEY"'] : []),
    `  -F image=@${SOURCE_FILE}`,
    ...(edit.mask ? [`  -F mask=@${MASK_FILE}`] : []),
    ...fields,
  ].join(" \\\n") + ` \\\n  | jq -r '.data[0].b64_json' | base64 -d > ${shellQuoted(fileName(settings))}\n`;
}

/**
 * @param {Settings} settings
 * @param {import("./edit.js").Edit} edit
 * @param {string} origin
 * @param {boolean} withKey
 */
export function editAsPython(settings, edit, origin, withKey) {
  const { prompt, model, size, background, output_format, seed, ...extensions } = editFields(settings, edit);
  const named = Object.entries({ model, prompt: prompt ?? "", size, background, output_format }).filter(([name, value]) => value || name === "prompt");
  const texts = JSON.stringify({ ...extensions, seed }, null, 4).replaceAll("\n", "\n    ");
  return [
    "import base64",
    ...(withKey ? ["import os", ""] : [""]),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${withKey ? 'os.environ["BITVAR_API_KEY"]' : '"none"'})`,
    "answer = client.images.edit(",
    `    image=open(${JSON.stringify(SOURCE_FILE)}, "rb"),`,
    ...(edit.mask ? [`    mask=open(${JSON.stringify(MASK_FILE)}, "rb"),`] : []),
    ...named.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`),
    `    extra_body=${texts},`,
    ")",
    `with open(${JSON.stringify(fileName(settings))}, "wb") as file:`,
    "    file.write(base64.b64decode(answer.data[0].b64_json))",
    "",
  ].join("\n");
}

/**
 * @param {Settings} settings
 * @param {string} origin
 * @param {boolean} withKey
 */
export function asPython(settings, origin, withKey) {
  const { prompt, model, size, background, output_format, ...extensions } = requestFields(settings);
  const named = Object.entries({ model, prompt, size, background, output_format }).filter(([, value]) => value);
  const extra = stringifyWithSeed(extensions, settings.seed, 4).replaceAll("\n", "\n    ");
  return [
    "import base64",
    ...(withKey ? ["import os", ""] : [""]),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${withKey ? 'os.environ["BITVAR_API_KEY"]' : '"none"'})`,
    "answer = client.images.generate(",
    ...named.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`),
    `    extra_body=${extra},`,
    ")",
    `with open(${JSON.stringify(fileName(settings))}, "wb") as file:`,
    "    file.write(base64.b64decode(answer.data[0].b64_json))",
    "",
  ].join("\n");
}

/**
 * @param {Settings} settings
 * @param {import("./sizes.js").Size} native  the size that the model draws
 */
export function asCommand(settings, native) {
  const sizeOptions = ["--size", sizeText(settings.size)];
  if (sizeText(native) !== sizeText(settings.size)) sizeOptions.push("--exact-size");
  const options = [
    ["--seed", settings.seed],
    sizeOptions,
    ["--guidance", perScaleText(settings.guidance_scale).replaceAll(" ", "")],
    ["--temperature", perScaleText(settings.temperature).replaceAll(" ", "")],
    settings.top_p ? ["--top-p", String(settings.top_p)] : [],
    sentNegative(settings) ? ["--negative", settings.negative_prompt] : [],
    settings.top_k ? ["--top-k", String(settings.top_k)] : [],
    ...(settings.adapters ?? []).map(({ name, scale }) => ["--lora", `${name}:${scale}`]),
    sentBackground(settings) ? ["--background", String(settings.background)] : [],
    settings.model ? ["--model", settings.model] : [],
    ["-o", fileName(settings)],
  ];
  const lines = options.filter((option) => option.length).map((option) => option.map(shellQuoted).join(" "));
  const first = settings.prompt.startsWith("-") ? [] : [shellQuoted(settings.prompt)];
  const last = settings.prompt.startsWith("-") ? [`-- ${shellQuoted(settings.prompt)}`] : [];
  return `bitvar generate ${[...first, ...lines, ...last].join(" \\\n  ")}\n`;
}
