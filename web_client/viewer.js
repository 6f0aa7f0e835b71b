/** The picture and what is drawn over it: the live source or the answered frame, and the faces found in it. */

import { fit, mapper } from "./layout.js";

/**
 * @typedef {{box: [number, number, number, number], score: number, landmarks: [number, number][]}} Face
 * @typedef {{faces: Face[], width: number, height: number}} Faces  In pixels of the sent frame.
 */

/** Drawn on pictures of any brightness, so it is the same in light and dark. */
const ACCENT = "#2dd4bf";
const SHADE = "rgb(0 0 0 / 55%)";

export class Stage {
  #root;
  #overlay;
  #answered;
  /** @type {HTMLElement | null} */ #element = null;
  /** @type {Faces | null} */ #faces = null;
  #mirrored = false;
  #exact = false;
  #shown = 0;

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
    this.forget();
  }

  /** Left and right exchanged, picture and boxes together. @param {boolean} mirrored */
  mirror(mirrored) {
    this.#mirrored = mirrored;
    this.#root.classList.toggle("mirrored", mirrored);
    this.#draw();
  }

  /** Show each answered frame instead of the live picture. @param {boolean} exact */
  showAnswered(exact) {
    this.#exact = exact;
    if (!exact) this.#uncover();
  }

  /** Forget what was found: it is no longer true. */
  forget() {
    this.#shown++;
    this.#faces = null;
    this.#uncover();
    this.#draw();
  }

  /** Show what was found in a frame. @param {Faces} faces @param {Blob} frame */
  async find(faces, frame) {
    const turn = ++this.#shown;
    const bitmap = this.#exact ? await createImageBitmap(frame) : null;
    // decoding takes its time, and a newer answer may have overtaken this one
    if (turn === this.#shown) {
      this.#faces = faces;
      if (bitmap) this.#cover(bitmap);
      this.#draw();
    }
    bitmap?.close();
  }

  /** @param {ImageBitmap} bitmap */
  #cover(bitmap) {
    this.#answered.width = bitmap.width;
    this.#answered.height = bitmap.height;
    this.#answered.getContext("2d")?.drawImage(bitmap, 0, 0);
    this.#answered.hidden = false;
    this.#root.classList.add("covered");
  }

  #uncover() {
    this.#answered.hidden = true;
    this.#root.classList.remove("covered");
  }

  #draw() {
    const { clientWidth, clientHeight } = this.#root;
    const ratio = devicePixelRatio;
    this.#overlay.width = Math.round(clientWidth * ratio);
    this.#overlay.height = Math.round(clientHeight * ratio);
    const context = this.#overlay.getContext("2d");
    if (!context || !this.#faces) return;
    context.scale(ratio, ratio);
    const { faces, width, height } = this.#faces;
    const map = mapper(fit(clientWidth, clientHeight, width, height), width, this.#mirrored);
    for (const face of faces) drawFace(context, face, map);
  }
}

/**
 * @param {CanvasRenderingContext2D} context @param {Face} face
 * @param {(x: number, y: number) => [number, number]} map  From `mapper`.
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
  drawScore(context, `${Math.round(score * 100)} %`, left, y1);
}

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} x @param {number} y */
function drawScore(context, text, x, y) {
  context.font = "600 12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const width = context.measureText(text).width + 10;
  // above the box, or inside where there is no room above
  const top = y >= 26 ? y - 24 : y + 5;
  context.fillStyle = SHADE;
  context.beginPath();
  context.roundRect(x, top, width, 19, 4);
  context.fill();
  context.fillStyle = "#fff";
  context.fillText(text, x + 5, top + 10);
}
