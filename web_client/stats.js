/** The page's live numbers: rates, quantiles, and who holds things up. Pure: `now` in milliseconds is an argument. */

/** Rates of counters over the last seconds: long enough to read, short enough to follow. */
export class Rates {
  /** @type {{at: number, counts: Record<string, number>}[]} */ #samples = [];

  /** @param {number} spanMs */
  constructor(spanMs = 3_000) {
    this.spanMs = spanMs;
  }

  /** @param {number} now @param {Record<string, number>} counts  Counters, which never fall. */
  add(now, counts) {
    this.#samples.push({ at: now, counts });
    // the newest sample that is old enough stays, so that the rate spans the whole time
    while ((this.#samples[1]?.at ?? Infinity) <= now - this.spanMs) this.#samples.shift();
  }

  /** How often a counter rises each second. @param {string} name */
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

  /** @param {number} spanMs @param {number} most  Values that are kept at any rate of arrival. */
  constructor(spanMs, most = 1_000) {
    this.spanMs = spanMs;
    this.most = most;
  }

  /** @param {number} now @param {T} value */
  add(now, value) {
    this.#values.push({ at: now, value });
    if (this.#values.length > this.most) this.#values.shift();
  }

  /** @param {number} now @returns {T[]} */
  values(now) {
    while ((this.#values[0]?.at ?? Infinity) < now - this.spanMs) this.#values.shift();
    return this.#values.map(({ value }) => value);
  }
}

/**
 * The nearest-rank quantile; null of nothing.
 *
 * @param {number[]} values @param {number} q  From 0 to 1.
 */
export function quantile(values, q) {
  if (values.length === 0) return null;
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null;
}

/**
 * @typedef {"turn" | "encode" | "network" | "queue" | "inference"} Stage
 * @typedef {Pick<import("./client/pending_items.js").Result,
 *   "turn_ms" | "encode_ms" | "round_trip_ms" | "freshness_ms" | "age_ms" | "infer_ms">} Times  Of one answer.
 * @typedef {Record<Stage, number>} Stages  Mean milliseconds of a frame's way, from capture to answer.
 */

/** @type {Record<Stage, string>} */
export const STAGE_NAMES = {
  turn: "window",
  encode: "browser",
  network: "network",
  queue: "server queue",
  inference: "inference",
};

/**
 * Split the way of answered frames into its stages; they add up to the freshness.
 *
 * @param {Times[]} times
 * @returns {Stages | null} Null where there is none.
 */
export function stagesOf(times) {
  if (times.length === 0) return null;
  const mean = (/** @type {(each: Times) => number} */ of) =>
    times.reduce((sum, each) => sum + of(each), 0) / times.length;
  return {
    turn: mean((t) => t.turn_ms),
    encode: mean((t) => t.encode_ms),
    network: mean((t) => Math.max(0, t.round_trip_ms - t.age_ms)),
    // whatever the server does besides inferring is waiting, be it for a worker or for the answer before
    queue: mean((t) => Math.max(0, t.age_ms - t.infer_ms)),
    inference: mean((t) => t.infer_ms),
  };
}

/** The part of all frames that counts as all of them: cameras and screens jitter, and replace one now and then. */
const KEEPING_UP = 0.95;

/**
 * Say who holds things up.
 *
 * @param {Stages} stages
 * @param {number} capturedPerSecond @param {number} answeredPerSecond  Frames that got a result.
 * @param {boolean} isHeldBack  Whether the socket holds so much unsent that the client waits for it.
 * @returns {{culprit: Stage | null, sentence: string}} No culprit where frames are answered as they come.
 */
export function holdUp(stages, capturedPerSecond, answeredPerSecond, isHeldBack) {
  const total = Object.values(stages).reduce((sum, ms) => sum + ms, 0);
  const ms = (/** @type {number} */ value) => `${Math.round(value)} ms`;
  // waiting for the window is what the other stages cause, so it is none of them
  const causes = /** @type {Stage[]} */ (["encode", "network", "queue", "inference"]);
  const slowest = causes.reduce((a, b) => (stages[b] > stages[a] ? b : a));
  if (answeredPerSecond >= KEEPING_UP * capturedPerSecond) {
    return {
      culprit: null,
      sentence: `Nothing holds things up: frames are answered as they come, ${ms(total)} after capture.`,
    };
  }
  // what lies in the socket has not left this machine, so the round trip alone tells of it too late
  const culprit = isHeldBack ? "network" : slowest;
  const share = `${ms(stages[culprit])} of the ${ms(total)} from capture to answer`;
  return { culprit, sentence: `${SUBJECTS[culprit]} holds things up: ${share}.` };
}

/** @type {Record<Stage, string>} */
const SUBJECTS = {
  turn: "The window",
  encode: "This browser, encoding frames,",
  network: "The network",
  queue: "The server's queue",
  inference: "Inference",
};
