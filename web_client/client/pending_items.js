/**
 * The accounts of one stream: what waits, what is sent and unanswered, how each item ended. No I/O, no clock.
 *
 * At every moment:
 *     sent == results + dropped + errors + unanswered
 *     offered == sent + replaced + unsent + waiting
 *
 * @typedef {import("./protocol.js").Meta} Meta
 * @typedef {import("./protocol.js").ServerError} ServerError
 *
 * @typedef {object} Timing  What the client adds to each answer, in milliseconds of its own clock.
 * @property {unknown} item  What was sent.
 * @property {number} captured  When it was captured.
 * @property {number} turn_ms  From capture until its turn: a free window, a draining socket.
 * @property {number} encode_ms  From its turn until it was handed to the socket.
 * @property {number} round_trip_ms  From there to the answer.
 * @property {number} freshness_ms  From capture to the answer.
 *
 * @typedef {import("./protocol.js").Result & Timing} Result
 * @typedef {import("./protocol.js").Dropped & Timing} Dropped
 * @typedef {ServerError & {seq: number} & Timing} Failed  Code `connection_lost` is the client's own.
 * @typedef {Result | Dropped | Failed} Answer
 * @typedef {import("./protocol.js").Result | import("./protocol.js").Dropped | (ServerError & {seq: number})} Outcome
 *
 * @typedef {object} Counters
 * @property {number} offered  Given to `offer` and `send`.
 * @property {number} replaced  Frames never sent, because a newer one came.
 * @property {number} unsent  Items never sent for another reason: bad ones, frames that came to nothing, a final state.
 * @property {number} waiting  Items that wait for their turn.
 * @property {number} sent
 * @property {number} answered  `results + dropped + errors`.
 * @property {number} results
 * @property {number} dropped
 * @property {Readonly<DroppedBy>} droppedBy
 * @property {number} errors
 * @property {number} unanswered
 *
 * @typedef {{superseded: number, expired: number, draining: number, other: number}} DroppedBy
 */

/** One item on its way: from being given to the client, through its turn, to its answer. */
export class Turn {
  taken = 0;
  sent = 0;

  /**
   * @param {any} item  What to send, or a function that makes it.
   * @param {Meta} meta
   * @param {number} captured
   * @param {boolean} replaceable  Whether a newer one takes its place while it waits.
   */
  constructor(item, meta, captured, replaceable) {
    this.item = item;
    this.meta = meta;
    this.captured = captured;
    this.replaceable = replaceable;
    /** @type {PromiseWithResolvers<Answer | null>} */
    this.answer = Promise.withResolvers();
  }
}

export class Ledger {
  #counts = { offered: 0, replaced: 0, unsent: 0, sent: 0, results: 0, errors: 0 };
  /** @type {DroppedBy} */ #droppedBy = { superseded: 0, expired: 0, draining: 0, other: 0 };
  /** @type {Turn[]} */ #queue = [];
  /** @type {Turn | null} */ #pending = null;
  /** @type {Turn | null} */ #taken = null;
  /** @type {Map<number, Turn>} */ #unanswered = new Map();

  /** @returns {Readonly<Counters>} */
  get counters() {
    const { superseded, expired, draining, other } = this.#droppedBy;
    const dropped = superseded + expired + draining + other;
    return Object.freeze({
      ...this.#counts,
      waiting: this.waiting,
      answered: this.#counts.results + dropped + this.#counts.errors,
      dropped,
      droppedBy: Object.freeze({ ...this.#droppedBy }),
      unanswered: this.unanswered,
    });
  }

  get waiting() {
    return this.#queue.length + (this.#pending ? 1 : 0) + (this.#taken ? 1 : 0);
  }

  get unanswered() {
    return this.#unanswered.size;
  }

  /** The item being made ready to send. */
  get taken() {
    return this.#taken;
  }

  /** When the oldest unanswered item was sent; null when there is none. */
  get oldestSent() {
    for (const turn of this.#unanswered.values()) return turn.sent;
    return null;
  }

  /** @param {Turn} turn */
  offer(turn) {
    this.#counts.offered++;
    if (!turn.replaceable) {
      this.#queue.push(turn);
      return;
    }
    if (this.#pending) this.#replaced(this.#pending);
    this.#pending = turn;
  }

  /** Refuse an item instead of letting it wait. @param {Turn} turn @param {Error | null} error */
  refuse(turn, error) {
    this.#counts.offered++;
    this.#unsent(turn, error);
  }

  /** Take the next item that waits: at most one at a time is being made ready. @param {number} now */
  take(now) {
    const turn = this.#queue.shift() ?? this.#pending;
    if (turn === null) return null;
    if (turn === this.#pending) this.#pending = null;
    turn.taken = now;
    this.#taken = turn;
    return turn;
  }

  /** The taken item is handed to the socket. @param {number} seq @param {unknown} item @param {number} now */
  send(seq, item, now) {
    const turn = /** @type {Turn} */ (this.#taken);
    this.#taken = null;
    this.#counts.sent++;
    turn.item = item;
    turn.sent = now;
    this.#unanswered.set(seq, turn);
  }

  /** The taken item comes to nothing. @param {Error | null} error */
  discard(error) {
    const turn = /** @type {Turn} */ (this.#taken);
    this.#taken = null;
    this.#unsent(turn, error);
  }

  /** The taken item waits again, or is replaced where a newer one has come. */
  putBack() {
    const turn = this.#taken;
    this.#taken = null;
    if (turn === null) return;
    if (!turn.replaceable) this.#queue.unshift(turn);
    else if (this.#pending) this.#replaced(turn);
    else this.#pending = turn;
  }

  /**
   * Book an answer.
   *
   * @param {Outcome} outcome
   * @param {number} now
   * @returns {Readonly<Answer> | null} Null when no item of that number waits for one.
   */
  answer(outcome, now) {
    const turn = this.#unanswered.get(outcome.seq);
    if (turn === undefined) return null;
    this.#unanswered.delete(outcome.seq);
    if (outcome.type === "result") this.#counts.results++;
    else if (outcome.type === "error") this.#counts.errors++;
    else this.#droppedBy[dropReason(outcome.reason)]++;
    const answer = Object.freeze({
      ...outcome,
      item: turn.item,
      captured: turn.captured,
      turn_ms: turn.taken - turn.captured,
      encode_ms: turn.sent - turn.taken,
      round_trip_ms: now - turn.sent,
      freshness_ms: now - turn.captured,
    });
    turn.answer.resolve(answer);
    return answer;
  }

  /** Answer everything that is unanswered with `connection_lost`. @param {string} message @param {number} now */
  lose(message, now) {
    const lost = { type: /** @type {const} */ ("error"), code: "connection_lost", message, retryable: true };
    return [...this.#unanswered].map(
      ([seq, turn]) => /** @type {Answer} */ (this.answer({ ...lost, seq, id: turn.meta.id ?? null }, now)),
    );
  }

  /** Give up everything that waits. @param {Error} error  What rejects the promises of `send`. */
  clear(error) {
    this.putBack();
    const left = this.#pending ? [...this.#queue, this.#pending] : this.#queue;
    this.#queue = [];
    this.#pending = null;
    for (const turn of left) this.#unsent(turn, turn.replaceable ? null : error);
  }

  /** @param {Turn} turn */
  #replaced(turn) {
    this.#counts.replaced++;
    turn.answer.resolve(null);
  }

  /** @param {Turn} turn @param {Error | null} error */
  #unsent(turn, error) {
    this.#counts.unsent++;
    if (error) turn.answer.reject(error);
    else turn.answer.resolve(null);
  }
}

/** @param {string} reason @returns {keyof DroppedBy} */
function dropReason(reason) {
  // a later server may know more reasons, and its words must not become our counters' names
  return reason === "superseded" || reason === "expired" || reason === "draining" ? reason : "other";
}
