/** Live statistics: rates, quantiles and the bottleneck. Pure: `now`, in milliseconds, is an argument. */

/** Rates of counters over the last seconds: long enough to be steady, short enough to follow changes. */
export class Rates {
  /** @type {{at: number, counts: Record<string, number>}[]} */ #samples = [];

  /** @param {number} spanMs */
  constructor(spanMs = 3_000) {
    this.spanMs = spanMs;
  }

  /** @param {number} now @param {Record<string, number>} counts  Monotonic counters. */
  add(now, counts) {
    this.#samples.push({ at: now, counts });
    // keep the newest of the samples older than the span, so that the rate covers all of it
    while ((this.#samples[1]?.at ?? Infinity) <= now - this.spanMs) this.#samples.shift();
  }

  /** A counter's increase per second. @param {string} name */
  perSecond(name) {
    const first = this.#samples[0];
    const last = this.#samples[this.#samples.length - 1];
    if (!first || !last || last.at === first.at) return 0;
    return (((last.counts[name] ?? 0) - (first.counts[name] ?? 0)) * 1_000) / (last.at - first.at);
  }
}

/** The values of the last seconds. @template T */
export class Recent {
  /** @type {{at: number, value: T}[]} */ #values = [];

  /** @param {number} spanMs @param {number} maxCount  Bounds the memory at high rates. */
  constructor(spanMs, maxCount = 1_000) {
    this.spanMs = spanMs;
    this.maxCount = maxCount;
  }

  /** @param {number} now @param {T} value */
  add(now, value) {
    this.#values.push({ at: now, value });
    if (this.#values.length > this.maxCount) this.#values.shift();
  }

  /** @param {number} now @returns {T[]} */
  values(now) {
    while ((this.#values[0]?.at ?? Infinity) < now - this.spanMs) this.#values.shift();
    return this.#values.map(({ value }) => value);
  }
}

/**
 * The nearest-rank quantile; null if there are no values.
 *
 * @param {number[]} values @param {number} q  From 0 to 1.
 */
export function quantile(values, q) {
  if (values.length === 0) return null;
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null;
}

/**
 * @typedef {"wait" | "encode" | "network" | "queue" | "inference"} Stage
 * @typedef {Pick<import("./client/pending_items.js").Result,
 *   "wait_ms" | "encode_ms" | "round_trip_ms" | "freshness_ms" | "age_ms" | "infer_ms">} Times  Of one answer.
 * @typedef {Record<Stage, number>} Stages  Mean milliseconds, from capture to answer.
 */

/** @type {Record<Stage, string>} */
export const STAGE_NAMES = {
  wait: "window",
  encode: "browser",
  network: "network",
  queue: "server queue",
  inference: "inference",
};

/**
 * Split the freshness of answered frames into stages, which add up to it.
 *
 * @param {Times[]} times
 * @returns {Stages | null} Null if there are no times.
 */
export function meanStages(times) {
  if (times.length === 0) return null;
  const mean = (/** @type {(each: Times) => number} */ of) =>
    times.reduce((sum, each) => sum + of(each), 0) / times.length;
  return {
    wait: mean((t) => t.wait_ms),
    encode: mean((t) => t.encode_ms),
    network: mean((t) => Math.max(0, t.round_trip_ms - t.age_ms)),
    // all server time outside the worker is waiting: for a worker, or for the answer of an earlier frame
    queue: mean((t) => Math.max(0, t.age_ms - t.infer_ms)),
    inference: mean((t) => t.infer_ms),
  };
}

/** Fraction of frames answered that counts as keeping up: jitter of cameras and screens replaces a few. */
const KEEPING_UP = 0.95;

/**
 * Find the stage that limits the rate of answers.
 *
 * @param {Stages} stages
 * @param {number} capturedPerSecond @param {number} resultsPerSecond
 * @param {boolean} socketIsFull  Whether the client waits for the socket to drain.
 * @returns {{bottleneck: Stage | null, sentence: string}} Null if frames are answered as fast as they are captured.
 */
export function findBottleneck(stages, capturedPerSecond, resultsPerSecond, socketIsFull) {
  const total = Object.values(stages).reduce((sum, ms) => sum + ms, 0);
  const ms = (/** @type {number} */ value) => `${Math.round(value)} ms`;
  // waiting for the window is an effect of the other stages, never the cause
  const causes = /** @type {Stage[]} */ (["encode", "network", "queue", "inference"]);
  const slowest = causes.reduce((a, b) => (stages[b] > stages[a] ? b : a));
  if (resultsPerSecond >= KEEPING_UP * capturedPerSecond) {
    return {
      bottleneck: null,
      sentence: `None. Frames are answered as they arrive, ${ms(total)} after capture.`,
    };
  }
  // the round trip shows unsent bytes in the socket too late, as it is known only after the answer
  const bottleneck = socketIsFull ? "network" : slowest;
  const share = `${ms(stages[bottleneck])} of the ${ms(total)} from capture to answer`;
  return { bottleneck, sentence: `${DESCRIPTIONS[bottleneck]}: ${share}.` };
}

/** @type {Record<Stage, string>} */
const DESCRIPTIONS = {
  wait: "The window",
  encode: "Encoding in this browser",
  network: "The network",
  queue: "The server's queue",
  inference: "Inference",
};
