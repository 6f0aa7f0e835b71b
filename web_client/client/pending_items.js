/**
 * The items of one stream, from submission to answer, and their counters. No I/O, no clock.
 *
 * Invariants:
 *     sent == results + dropped + errors + unanswered
 *     offered == sent + replaced + unsent + waiting
 *
 * @typedef {import("./protocol.js").Meta} Meta
 * @typedef {import("./protocol.js").ServerError} ServerError
 *
 * @typedef {object} Timing  What the client adds to each answer, in milliseconds of its own clock.
 * @property {unknown} item  What was sent.
 * @property {number} captured  When it was captured.
 * @property {number} wait_ms  From capture until the window and the socket had room.
 * @property {number} encode_ms  From then until it was handed to the socket.
 * @property {number} round_trip_ms  From then until the answer.
 * @property {number} freshness_ms  From capture until the answer.
 *
 * @typedef {import("./protocol.js").Result & Timing} Result
 * @typedef {import("./protocol.js").Dropped & Timing} Dropped
 * @typedef {ServerError & {seq: number} & Timing} Failed  The code `connection_lost` is the client's own.
 * @typedef {Result | Dropped | Failed} Answer
 * @typedef {import("./protocol.js").Result | import("./protocol.js").Dropped | (ServerError & {seq: number})} Outcome
 *
 * @typedef {object} Counters
 * @property {number} offered  Given to `offer` and `send`.
 * @property {number} replaced  Frames not sent because a newer one arrived.
 * @property {number} unsent  Items not sent for another reason: invalid, null, failed to encode, stream closed.
 * @property {number} waiting
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

/** One item that was submitted and has no answer yet. */
export class PendingItem {
  taken = 0;
  sent = 0;

  /**
   * @param {any} item  What to send, or a function that returns it.
   * @param {Meta} meta
   * @param {number} captured
   * @param {boolean} replaceable  Whether a newer item replaces it while it waits.
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

export class PendingItems {
  #counts = { offered: 0, replaced: 0, unsent: 0, sent: 0, results: 0, errors: 0 };
  /** @type {DroppedBy} */ #droppedBy = { superseded: 0, expired: 0, draining: 0, other: 0 };
  /** @type {PendingItem[]} */ #queue = [];
  /** @type {PendingItem | null} */ #latest = null;
  /** @type {PendingItem | null} */ #preparing = null;
  /** @type {Map<number, PendingItem>} */ #unanswered = new Map();

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
    return this.#queue.length + (this.#latest ? 1 : 0) + (this.#preparing ? 1 : 0);
  }

  get unanswered() {
    return this.#unanswered.size;
  }

  /** The item being prepared for sending. */
  get preparing() {
    return this.#preparing;
  }

  /** When the oldest unanswered item was sent; null if there is none. */
  get oldestSent() {
    for (const pending of this.#unanswered.values()) return pending.sent;
    return null;
  }

  /** @param {PendingItem} pending */
  add(pending) {
    this.#counts.offered++;
    if (!pending.replaceable) {
      this.#queue.push(pending);
      return;
    }
    if (this.#latest) this.#replaced(this.#latest);
    this.#latest = pending;
  }

  /** Count an item and end it unsent. @param {PendingItem} pending @param {Error | null} error */
  reject(pending, error) {
    this.#counts.offered++;
    this.#unsent(pending, error);
  }

  /** Take the next waiting item to prepare it: at most one at a time, to keep the order. @param {number} now */
  take(now) {
    const pending = this.#queue.shift() ?? this.#latest;
    if (pending === null) return null;
    if (pending === this.#latest) this.#latest = null;
    pending.taken = now;
    this.#preparing = pending;
    return pending;
  }

  /** The prepared item was handed to the socket. @param {number} seq @param {unknown} item @param {number} now */
  markSent(seq, item, now) {
    const pending = /** @type {PendingItem} */ (this.#preparing);
    this.#preparing = null;
    this.#counts.sent++;
    pending.item = item;
    pending.sent = now;
    this.#unanswered.set(seq, pending);
  }

  /** End the item being prepared unsent. @param {Error | null} error */
  discard(error) {
    const pending = /** @type {PendingItem} */ (this.#preparing);
    this.#preparing = null;
    this.#unsent(pending, error);
  }

  /** Return the item being prepared to waiting, unless a newer one has replaced it. */
  putBack() {
    const pending = this.#preparing;
    this.#preparing = null;
    if (pending === null) return;
    if (!pending.replaceable) this.#queue.unshift(pending);
    else if (this.#latest) this.#replaced(pending);
    else this.#latest = pending;
  }

  /**
   * Count an answer and resolve the item's promise with it.
   *
   * @param {Outcome} outcome
   * @param {number} now
   * @returns {Readonly<Answer> | null} Null if no item with this `seq` is unanswered.
   */
  answer(outcome, now) {
    const pending = this.#unanswered.get(outcome.seq);
    if (pending === undefined) return null;
    this.#unanswered.delete(outcome.seq);
    if (outcome.type === "result") this.#counts.results++;
    else if (outcome.type === "error") this.#counts.errors++;
    else this.#droppedBy[dropReason(outcome.reason)]++;
    const answer = Object.freeze({
      ...outcome,
      item: pending.item,
      captured: pending.captured,
      wait_ms: pending.taken - pending.captured,
      encode_ms: pending.sent - pending.taken,
      round_trip_ms: now - pending.sent,
      freshness_ms: now - pending.captured,
    });
    pending.answer.resolve(answer);
    return answer;
  }

  /** Answer all unanswered items with the error `connection_lost`. @param {string} message @param {number} now */
  failUnanswered(message, now) {
    const lost = { type: /** @type {const} */ ("error"), code: "connection_lost", message, retryable: true };
    return [...this.#unanswered].map(
      ([seq, pending]) => /** @type {Answer} */ (this.answer({ ...lost, seq, id: pending.meta.id ?? null }, now)),
    );
  }

  /** End all waiting items unsent. @param {Error} error  Rejects the promises of `send`. */
  clearWaiting(error) {
    this.putBack();
    const waiting = this.#latest ? [...this.#queue, this.#latest] : this.#queue;
    this.#queue = [];
    this.#latest = null;
    for (const pending of waiting) this.#unsent(pending, pending.replaceable ? null : error);
  }

  /** @param {PendingItem} pending */
  #replaced(pending) {
    this.#counts.replaced++;
    pending.answer.resolve(null);
  }

  /** @param {PendingItem} pending @param {Error | null} error */
  #unsent(pending, error) {
    this.#counts.unsent++;
    if (error) pending.answer.reject(error);
    else pending.answer.resolve(null);
  }
}

/** @param {string} reason @returns {keyof DroppedBy} */
function dropReason(reason) {
  // a newer server may send other reasons, which must not become counter names
  return reason === "superseded" || reason === "expired" || reason === "draining" ? reason : "other";
}
