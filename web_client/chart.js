/** A small chart of the last minute: answers a second and the round trip, each on its own scale. */

/** @typedef {{answers: number, trip: number | null}} Point  One second. */

const SECONDS = 60;

export class Chart {
  #canvas;
  /** @type {Point[]} */ #points = [];

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.#points = [];
    this.draw();
  }

  /** @param {Point} point */
  add(point) {
    this.#points.push(point);
    if (this.#points.length > SECONDS) this.#points.shift();
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    if (!context || width === 0) return;
    const ratio = devicePixelRatio;
    this.#canvas.width = Math.round(width * ratio);
    this.#canvas.height = Math.round(height * ratio);
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.#canvas);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name);
    const answers = this.#points.map((point) => point.answers);
    const trips = this.#points.map((point) => point.trip);
    const most = ceiling(answers, 10);
    const longest = ceiling(
      trips.map((trip) => trip ?? 0),
      10,
    );
    const plot = { left: 26, right: width - 30, top: 8, bottom: height - 6 };

    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.lineWidth = 1;
    for (const part of [0, 0.5, 1]) {
      const y = plot.bottom - part * (plot.bottom - plot.top);
      context.strokeStyle = colour("--line");
      context.beginPath();
      context.moveTo(plot.left, Math.round(y) + 0.5);
      context.lineTo(plot.right, Math.round(y) + 0.5);
      context.stroke();
      context.textAlign = "right";
      context.fillStyle = colour("--accent");
      context.fillText(String(most * part), plot.left - 6, y);
      context.textAlign = "left";
      context.fillStyle = colour("--second");
      context.fillText(String(longest * part), plot.right + 6, y);
    }
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    trace(context, answers, most, plot);
    context.strokeStyle = colour("--accent");
    context.stroke();
    trace(context, trips, longest, plot);
    context.strokeStyle = colour("--second");
    context.stroke();
  }
}

/**
 * The next round number above all values; its half is whole too.
 *
 * @param {number[]} values @param {number} least
 */
function ceiling(values, least) {
  const most = Math.max(least, ...values);
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 6, 8, 10].map((n) => n * unit).find((n) => n >= most) ?? most;
}

/**
 * Put a series on the path, the newest value at the right edge; a gap where there is none.
 *
 * @param {CanvasRenderingContext2D} context @param {(number | null)[]} values @param {number} most
 * @param {{left: number, right: number, top: number, bottom: number}} plot
 */
function trace(context, values, most, { left, right, top, bottom }) {
  context.beginPath();
  let pen = false;
  values.forEach((value, n) => {
    const x = right - ((values.length - 1 - n) / (SECONDS - 1)) * (right - left);
    if (value !== null) {
      const y = bottom - (value / most) * (bottom - top);
      if (pen) context.lineTo(x, y);
      else context.moveTo(x, y);
    }
    pen = value !== null;
  });
}
