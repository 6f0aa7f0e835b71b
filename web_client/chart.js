/** A chart of the last minute: answers per second and the round trip, each on its own axis. */

/** @typedef {{answers: number, roundTrip: number | null}} Point  One second. */

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
    const roundTrips = this.#points.map((point) => point.roundTrip);
    const maxAnswers = axisMaximum(answers, 10);
    const maxRoundTrip = axisMaximum(
      roundTrips.map((roundTrip) => roundTrip ?? 0),
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
      context.fillText(String(maxAnswers * part), plot.left - 6, y);
      context.textAlign = "left";
      context.fillStyle = colour("--second");
      context.fillText(String(maxRoundTrip * part), plot.right + 6, y);
    }
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    tracePath(context, answers, maxAnswers, plot);
    context.strokeStyle = colour("--accent");
    context.stroke();
    tracePath(context, roundTrips, maxRoundTrip, plot);
    context.strokeStyle = colour("--second");
    context.stroke();
  }
}

/**
 * The smallest round number not below any value; half of it is an integer too, for the label in the middle.
 *
 * @param {number[]} values @param {number} minimum
 */
function axisMaximum(values, minimum) {
  const highest = Math.max(minimum, ...values);
  const unit = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 6, 8, 10].map((n) => n * unit).find((n) => n >= highest) ?? highest;
}

/**
 * Trace a series, with the newest value at the right edge and gaps for null.
 *
 * @param {CanvasRenderingContext2D} context @param {(number | null)[]} values @param {number} maximum
 * @param {{left: number, right: number, top: number, bottom: number}} plot
 */
function tracePath(context, values, maximum, { left, right, top, bottom }) {
  context.beginPath();
  let isDrawing = false;
  values.forEach((value, n) => {
    const x = right - ((values.length - 1 - n) / (SECONDS - 1)) * (right - left);
    if (value !== null) {
      const y = bottom - (value / maximum) * (bottom - top);
      if (isDrawing) context.lineTo(x, y);
      else context.moveTo(x, y);
    }
    isDrawing = value !== null;
  });
}
