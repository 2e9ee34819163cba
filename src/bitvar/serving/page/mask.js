/**
 * A mask as a list of steps, so that each can be undone: strokes of a brush, inversions, clearings. It has no pixels of
 * its own; `draw` makes them on a canvas of any size, opaque where the image may change.
 *
 * @typedef {string | CanvasPattern} Ink  that leaves no gaps
 * @typedef {[x: number, y: number]} Point  as shares of the image's longer side
 * @typedef {{kind: "stroke", points: Point[], radius: number, erase: boolean} | {kind: "invert"} | {kind: "clear"}} Step
 */

const COVERAGE_SIDE = 96;

/** A mask of an image. */
export class Mask {
  /** @type {Step[]} */
  steps = [];

  /** Begin a stroke. @param {Point} point @param {{radius: number, erase: boolean}} brush  its radius as a share, too */
  begin(point, { radius, erase }) {
    this.steps.push({ kind: "stroke", points: [point], radius, erase });
  }

  /** Draw the stroke on. @param {Point} point */
  extend(point) {
    const stroke = this.steps.at(-1);
    if (stroke?.kind === "stroke") stroke.points.push(point);
  }

  /** Swap what may change and what stays. */
  invert() {
    if (this.steps.at(-1)?.kind === "invert") this.steps.pop();
    else this.steps.push({ kind: "invert" });
  }

  /** Select nothing. */
  clear() {
    if (this.steps.length && this.steps.at(-1)?.kind !== "clear") this.steps.push({ kind: "clear" });
  }

  /** Take the last step back. */
  undo() {
    this.steps.pop();
  }

  /** Draw the mask over the whole of a canvas. @param {HTMLCanvasElement} canvas @param {Ink} [ink] */
  draw(canvas, ink = "#000") {
    const context = contextOf(canvas);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = context.strokeStyle = ink;
    for (const step of this.steps) drawStep(context, step, canvas);
    context.globalCompositeOperation = "source-over";
  }

  /** Draw what the last stroke has gained onto a canvas that shows the rest. @param {HTMLCanvasElement} canvas @param {Ink} [ink] */
  drawEnd(canvas, ink = "#000") {
    const stroke = this.steps.at(-1);
    if (stroke?.kind !== "stroke") return;
    const context = contextOf(canvas);
    context.strokeStyle = ink;
    drawStep(context, { ...stroke, points: stroke.points.slice(-2) }, canvas);
    context.globalCompositeOperation = "source-over";
  }

  /** Share of the image that may change. @param {import("./sizes.js").Size} size */
  coverage(size) {
    if (!this.steps.length) return 0;
    const scale = COVERAGE_SIDE / Math.max(...size);
    const canvas = canvasOf([Math.max(1, Math.round(size[0] * scale)), Math.max(1, Math.round(size[1] * scale))]);
    this.draw(canvas);
    const { data } = contextOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
    let sum = 0;
    for (let at = 3; at < data.length; at += 4) sum += data[at];
    return sum / 255 / (data.length / 4);
  }

  /** Make the file that the server reads: opaque, and transparent where the image may change. @param {import("./sizes.js").Size} size @returns {Promise<Blob>} */
  async file(size) {
    const [marked, whole] = [canvasOf(size), canvasOf(size)];
    this.draw(marked);
    const context = contextOf(whole);
    context.fillRect(0, 0, ...size);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(marked, 0, 0);
    return new Promise((resolve, reject) => whole.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the mask is too large for this browser"))), "image/png"));
  }
}

/** @param {CanvasRenderingContext2D} context @param {Step} step @param {HTMLCanvasElement} canvas */
function drawStep(context, step, { width, height }) {
  if (step.kind === "clear") return context.clearRect(0, 0, width, height);
  if (step.kind === "invert") {
    context.globalCompositeOperation = "xor";
    return context.fillRect(0, 0, width, height);
  }
  const longer = Math.max(width, height);
  context.globalCompositeOperation = step.erase ? "destination-out" : "source-over";
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = 2 * step.radius * longer;
  context.beginPath();
  const [[x, y], ...rest] = step.points;
  context.moveTo(x * longer, y * longer);
  context.lineTo(x * longer + 0.01, y * longer); // a line without length would draw nothing
  for (const point of rest) context.lineTo(point[0] * longer, point[1] * longer);
  context.stroke();
}

/** @param {import("./sizes.js").Size} size */
function canvasOf([width, height]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
function contextOf(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
}
