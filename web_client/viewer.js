/** Shows the live source or the answered frame, and draws the detected faces over it. */

import { fit, pointMapper } from "./layout.js";

/**
 * @typedef {import("./outputs.js").Face} Face
 * @typedef {import("./outputs.js").Detections} Detections
 */

/** Drawn on pictures of any brightness, so it does not depend on the colour scheme. */
const ACCENT = "#2dd4bf";
const SHADE = "rgb(0 0 0 / 55%)";

export class Viewer {
  #root;
  #overlay;
  #answered;
  /** @type {HTMLElement | null} */ #element = null;
  /** @type {Detections | null} */ #detections = null;
  #mirrored = false;
  #showsAnswered = false;
  #updates = 0;

  /** @param {HTMLElement} root @param {HTMLCanvasElement} overlay @param {HTMLCanvasElement} answered */
  constructor(root, overlay, answered) {
    this.#root = root;
    this.#overlay = overlay;
    this.#answered = answered;
    new ResizeObserver(() => this.#draw()).observe(root);
  }

  /** @param {import("./sources.js").Source | null} source */
  show(source) {
    this.#element?.remove();
    this.#element = source?.element ?? null;
    if (this.#element) this.#root.prepend(this.#element);
    this.#root.classList.toggle("empty", source === null);
    this.clear();
  }

  /** Mirror picture and boxes. @param {boolean} mirrored */
  setMirrored(mirrored) {
    this.#mirrored = mirrored;
    this.#root.classList.toggle("mirrored", mirrored);
    this.#draw();
  }

  /** Show each answered frame instead of the live picture. @param {boolean} enabled */
  showAnsweredFrames(enabled) {
    this.#showsAnswered = enabled;
    if (!enabled) this.#hideFrame();
  }

  /** Remove detections that are out of date. */
  clear() {
    this.#updates++;
    this.#detections = null;
    this.#hideFrame();
    this.#draw();
  }

  /** Show the detections in a frame. @param {Detections} detections @param {Blob} frame */
  async showDetections(detections, frame) {
    const update = ++this.#updates;
    const bitmap = this.#showsAnswered ? await createImageBitmap(frame) : null;
    // a newer answer may have been shown during decoding
    if (update === this.#updates) {
      this.#detections = detections;
      if (bitmap) this.#showFrame(bitmap);
      this.#draw();
    }
    bitmap?.close();
  }

  /** @param {ImageBitmap} bitmap */
  #showFrame(bitmap) {
    this.#answered.width = bitmap.width;
    this.#answered.height = bitmap.height;
    this.#answered.getContext("2d")?.drawImage(bitmap, 0, 0);
    this.#answered.hidden = false;
    this.#root.classList.add("shows-answered");
  }

  #hideFrame() {
    this.#answered.hidden = true;
    this.#root.classList.remove("shows-answered");
  }

  #draw() {
    const { clientWidth, clientHeight } = this.#root;
    const ratio = devicePixelRatio;
    this.#overlay.width = Math.round(clientWidth * ratio);
    this.#overlay.height = Math.round(clientHeight * ratio);
    const context = this.#overlay.getContext("2d");
    if (!context || !this.#detections) return;
    context.scale(ratio, ratio);
    const { faces, width, height } = this.#detections;
    const map = pointMapper(fit(clientWidth, clientHeight, width, height), width, this.#mirrored);
    for (const face of faces) drawFace(context, face, map);
  }
}

/**
 * @param {CanvasRenderingContext2D} context @param {Face} face
 * @param {(x: number, y: number) => [number, number]} map  From `pointMapper`.
 */
function drawFace(context, { box, score, landmarks }, map) {
  const [x, y, w, h] = box;
  const [x1, y1] = map(x, y);
  const [x2, y2] = map(x + w, y + h);
  const left = Math.min(x1, x2);
  const size = /** @type {const} */ ([Math.abs(x2 - x1), y2 - y1]);
  context.lineJoin = "round";
  for (const [colour, line] of /** @type {[string, number][]} */ ([
    [SHADE, 5],
    [ACCENT, 2.5],
  ])) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(left, y1, ...size);
  }
  for (const point of landmarks) {
    context.beginPath();
    context.arc(...map(...point), 2.5, 0, 2 * Math.PI);
    context.fillStyle = "#fff";
    context.strokeStyle = SHADE;
    context.lineWidth = 1;
    context.fill();
    context.stroke();
  }
  if (score !== null) drawScore(context, `${Math.round(score * 100)} %`, left, y1);
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} x @param {number} y */
function drawScore(context, text, x, y) {
  context.font = "600 12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const width = context.measureText(text).width + 10;
  // above the box, or inside it at the top edge of the picture
  const top = y >= 26 ? y - 24 : y + 5;
  context.fillStyle = SHADE;
  context.beginPath();
  context.roundRect(x, top, width, 19, 4);
  context.fill();
  context.fillStyle = "#fff";
  context.fillText(text, x + 5, top + 10);
}
