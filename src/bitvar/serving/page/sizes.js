/**
 * The sizes that a model offers, grouped by shape, and the larger files that can be made of each.
 *
 * @typedef {{width: number, height: number, grids: [number, number][]}} NativeSize
 * @typedef {{name: string, value: number, sizes: NativeSize[]}} Shape
 * @typedef {[width: number, height: number]} Size
 */

const LARGEST_TERM = 8;
const LARGEST_ENLARGED = 1024;

/**
 * Name a ratio by small whole numbers, such as 3:2.
 * @param {number} width
 * @param {number} height
 */
export function ratioName(width, height) {
  let best = { name: `${width}:${height}`, cost: Infinity };
  for (let across = 1; across <= LARGEST_TERM; across++) {
    for (let down = 1; down <= LARGEST_TERM; down++) {
      const error = Math.abs(Math.log(((width / height) * down) / across));
      // A slightly worse match with smaller numbers is the better name.
      const cost = error + 0.001 * (across + down);
      if (cost < best.cost - 1e-9) best = { name: `${across}:${down}`, cost };
    }
  }
  return best.name;
}

/**
 * Group native sizes by shape, from wide to tall.
 * @param {NativeSize[]} sizes
 * @returns {Shape[]}
 */
export function shapesOf(sizes) {
  /** @type {Map<string, Shape>} */
  const shapes = new Map();
  for (const size of sizes) {
    const name = ratioName(size.width, size.height);
    const shape = shapes.get(name) ?? { name, value: size.width / size.height, sizes: [] };
    shape.sizes.push(size);
    shapes.set(name, shape);
  }
  for (const shape of shapes.values()) shape.sizes.sort((a, b) => a.width - b.width);
  return [...shapes.values()].sort((a, b) => b.value - a.value);
}

/**
 * List the files that a shape offers: its native sizes, or enlargements where the model has a single small one.
 * @param {Shape} shape
 * @returns {{size: Size, factor: number}[]}
 */
export function outputsOf(shape) {
  /** @type {{size: Size, factor: number}[]} */
  const outputs = shape.sizes.map(({ width, height }) => ({ size: [width, height], factor: 1 }));
  if (shape.sizes.length > 1) return outputs;
  const [{ width, height }] = shape.sizes;
  for (let factor = 2; Math.max(width, height) * factor <= LARGEST_ENLARGED; factor *= 2) {
    if ((width * factor) % 16 === 0 && (height * factor) % 16 === 0) {
      outputs.push({ size: [width * factor, height * factor], factor });
    }
  }
  return outputs;
}

/**
 * Find the native size that a file of some size is made from, as the server does: nearest ratio, then nearest area.
 * @param {NativeSize[]} sizes
 * @param {Size} size
 * @returns {NativeSize}
 */
export function nativeFor(sizes, [width, height]) {
  const distance = (/** @type {NativeSize} */ native) => [
    Math.abs(Math.log((native.width / native.height) * (height / width))),
    Math.abs(Math.log((native.width * native.height) / (width * height))),
  ];
  return sizes.reduce((best, native) => {
    const [ratio, area] = distance(native);
    const [bestRatio, bestArea] = distance(best);
    return ratio < bestRatio - 1e-6 || (ratio < bestRatio + 1e-6 && area < bestArea) ? native : best;
  });
}

/**
 * Count the tokens of every scale.
 * @param {[number, number][]} grids
 */
export function tokensOf(grids) {
  const counts = grids.map(([rows, columns]) => rows * columns);
  return { counts, total: counts.reduce((sum, count) => sum + count, 0) };
}

/** @param {Size} size */
export function sizeText([width, height]) {
  return `${width}x${height}`;
}

/** @param {string} text @returns {Size | null} */
export function parseSize(text) {
  const match = /^(\d{1,5})x(\d{1,5})$/.exec(text);
  return match ? [Number(match[1]), Number(match[2])] : null;
}
