/** JSON whose seeds keep all their digits: a seed has up to 63 bits, and a number of JavaScript keeps 53. */

/**
 * Parse JSON; whole numbers of 16 digits and more become strings of digits.
 * @param {string} text
 * @returns {unknown}
 */
export function parseExact(text) {
  const token = /"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g;
  const quoted = text.replace(token, (match) => (match.startsWith('"') ? match : `"${match}"`));
  return JSON.parse(quoted);
}

/**
 * Write an object as JSON, with a seed given by its digits.
 * @param {Record<string, unknown>} fields
 * @param {string} seed
 * @param {number} [indent]
 * @returns {string}
 */
export function stringifyWithSeed(fields, seed, indent = 0) {
  if (!/^\d+$/.test(seed)) throw new RangeError(`a seed has digits only, got ${seed}`);
  // In JSON, quotes inside a string are escaped, so the pattern matches the field alone.
  return JSON.stringify({ ...fields, seed: "" }, null, indent).replace(/"seed":( ?)""/, (_, space) => `"seed":${space}${BigInt(seed)}`);
}
