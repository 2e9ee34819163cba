/**
 * Patterns in prompts: `a {red|blue} car` stands for two prompts. Groups may be nested; `\{`, `\|` and `\}` are plain
 * characters, and so are braces without a bar between them.
 *
 * @typedef {string | Sequence[]} Part  a literal, or the alternatives of a group
 * @typedef {Part[]} Sequence
 */

/** A pattern that can't be read, with a sentence for the user. */
export class PatternError extends Error {}

/**
 * Count the prompts of a pattern without expanding it.
 * @param {string} text
 * @returns {number}
 */
export function countPrompts(text) {
  return countSequence(parse(text));
}

/**
 * Expand a pattern to every combination; the last group varies fastest.
 * @param {string} text
 * @param {number} limit  largest number of prompts
 * @returns {string[]}
 */
export function expandPattern(text, limit) {
  const sequence = parse(text);
  const count = countSequence(sequence);
  if (count > limit) throw new PatternError(`The pattern makes ${count} prompts; at most ${limit} are drawn.`);
  return expandSequence(sequence).map((prompt) => prompt.trim());
}

/** Write a text as the pattern that stands for it alone. @param {string} text */
export function escapePattern(text) {
  return text.replace(/[{|}]/g, "\\$&");
}

/** @param {Sequence} sequence @returns {number} */
function countSequence(sequence) {
  return sequence.reduce((count, part) => count * (typeof part === "string" ? 1 : countGroup(part)), 1);
}

/** @param {Sequence[]} alternatives */
function countGroup(alternatives) {
  return alternatives.reduce((count, alternative) => count + countSequence(alternative), 0);
}

/** @param {Sequence} sequence @returns {string[]} */
function expandSequence(sequence) {
  let prompts = [""];
  for (const part of sequence) {
    const endings = typeof part === "string" ? [part] : part.flatMap(expandSequence);
    prompts = prompts.flatMap((prompt) => endings.map((ending) => prompt + ending));
  }
  return prompts;
}

/** @param {string} text @returns {Sequence} */
function parse(text) {
  const reader = { text, at: 0 };
  const [sequence] = readAlternatives(reader, false);
  return sequence;
}

/**
 * Read up to the end of the text, or of the group.
 * @param {{text: string, at: number}} reader
 * @param {boolean} inGroup
 * @returns {Sequence[]}
 */
function readAlternatives(reader, inGroup) {
  /** @type {Sequence[]} */
  const alternatives = [[]];
  while (reader.at < reader.text.length) {
    const character = reader.text[reader.at++];
    const sequence = alternatives[alternatives.length - 1];
    if (character === "\\" && "{|}\\".includes(reader.text[reader.at] ?? " ")) sequence.push(reader.text[reader.at++]);
    else if (character === "{") sequence.push(...readGroup(reader));
    else if (character === "}" && inGroup) return alternatives;
    else if (character === "|" && inGroup) alternatives.push([]);
    else sequence.push(character);
  }
  if (inGroup) throw new PatternError("A “{” in the prompt has no “}”.");
  return alternatives;
}

/** @param {{text: string, at: number}} reader @returns {Sequence} */
function readGroup(reader) {
  const alternatives = readAlternatives(reader, true);
  return alternatives.length > 1 ? [alternatives] : ["{", ...alternatives[0], "}"];
}
