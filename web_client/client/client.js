/**
 * The reusable client: one stream of items to a server, exactly one answer to each. Touches no document.
 *
 * `connect` gives a {@link Stream}. Its `offer` is for cameras: it keeps a window of frames unanswered and one waiting,
 * which a newer one replaces. Its `send` is for texts and data: it keeps order and loses nothing.
 *
 *     const stream = connect(location.origin, { model: "faces", onAnswer: (answer) => console.log(answer) });
 *     stream.offer(() => canvas.convertToBlob({ type: "image/jpeg" }));
 *
 * @typedef {import("./pending_items.js").Answer} Answer
 * @typedef {import("./pending_items.js").Counters} Counters
 * @typedef {import("./connection.js").State} State
 * @typedef {import("./protocol.js").Meta} Meta
 * @typedef {import("./protocol.js").Ready} Ready
 * @typedef {import("./protocol.js").End} End
 *
 * @typedef {object} ConnectOptions
 * @property {string} model
 * @property {string} [version]
 * @property {import("./protocol.js").Policy} [policy]  The model's own by default.
 * @property {number} [window]  Unanswered items, 1 to 64; the policy's own by default.
 * @property {number} [maxAgeMs]  Items older than this are dropped as expired.
 * @property {number} [weight]  Share of the workers relative to other streams, from 0.01 to what the server allows; 1 by
 *   default.
 * @property {number} [ahead]  Unanswered items that this client keeps, where it is to differ from the server's window: more
 *   of them make a server with policy `latest` supersede frames.
 * @property {boolean} [reconnect]  Try again when the connection is lost; true by default.
 * @property {number} [silenceMs]  Longest silence while an answer is due, 30,000 by default; a model whose answer may take
 *   longer needs more.
 * @property {(ready: Readonly<Ready>) => void} [onReady]
 * @property {(answer: Readonly<Answer>) => void} [onAnswer]
 * @property {(state: Readonly<State>) => void} [onState]
 * @property {Partial<import("./connection.js").Surroundings>} [surroundings]
 *
 * @typedef {Blob | ArrayBuffer | ArrayBufferView | string | object | number | boolean | null} Item
 */

import { Ledger, Turn } from "./pending_items.js";
import { Link } from "./connection.js";
import { END, MAX_WINDOW, ProtocolError, streamUrl, writeMessages } from "./protocol.js";

/** The stream has ended, was refused or closed, so this item was not sent. */
export class StreamClosed extends Error {}

/** More items were given to `send` than wait there: await some answers first. */
export class TooManyWaiting extends Error {}

/** Above this a socket is left alone: about one large frame, and what lies in it cannot be replaced by a newer one. */
export const HIGH_WATER_BYTES = 65_536;

/** How often it is looked at then, since it tells nobody when it has drained: a fraction of a frame's time. */
const DRAIN_POLL_MS = 8;

/** Items that `send` keeps: some windows full, so that a loop without await fails before the memory is gone. */
const MAX_WAITING = 16 * MAX_WINDOW;

/**
 * Open a stream. It connects at once and says in `onState` how that goes.
 *
 * @param {string} url  Where the server is, such as `location.origin` or "ws://127.0.0.1:8080".
 * @param {ConnectOptions} options
 */
export function connect(url, options) {
  return new Stream(streamUrl(url, options), options);
}

/** One client's flow of items. Callbacks run in order, after the stream's own state is settled. */
export class Stream {
  #options;
  #around;
  #link;
  #ledger = new Ledger();
  /** @type {Readonly<Ready> | null} */ #ready = null;
  /** @type {PromiseWithResolvers<End> | null} */ #ending = null;
  /** @type {End | null} */ #end = null;
  /** @type {any} */ #drainTimer = null;
  #seq = 0;

  /** @param {string} url  The stream's own address. @param {ConnectOptions} options */
  constructor(url, options) {
    this.#options = options;
    this.#around = {
      WebSocket: globalThis.WebSocket,
      now: () => performance.now(),
      setTimeout: globalThis.setTimeout.bind(globalThis),
      clearTimeout: globalThis.clearTimeout.bind(globalThis),
      random: Math.random,
      ...options.surroundings,
    };
    this.#link = new Link(url, options, this.#around, {
      receive: (message) => this.#receive(message),
      lose: (message) => this.#lose(message),
      enter: (state) => this.#enter(state),
      owedSince: () => this.#ledger.oldestSent,
    });
    this.#link.open();
  }

  get state() {
    return this.#link.state;
  }

  /** What the server said of the stream; null unless connected. */
  get ready() {
    return this.#ready;
  }

  get counters() {
    return this.#ledger.counters;
  }

  /** Bytes given to the socket that it has not passed on. */
  get bufferedBytes() {
    return this.#link.bufferedBytes;
  }

  /**
   * Give the newest frame; it replaces one that still waits.
   *
   * @param {Item | (() => Item | Promise<Item>)} frame  A function is called when it is the frame's turn, so that nothing
   *   is encoded in vain; what it gives is sent, and null is not.
   * @param {Meta & {captured?: number}} [about]  `captured` by the client's clock, now by default.
   * @returns {Promise<Answer | null>} Its answer, or null when it was never sent. Rejects on an item of the wrong kind.
   */
  offer(frame, about = {}) {
    const turn = this.#turn(frame, about, true);
    if (this.#isClosed()) {
      this.#ledger.refuse(turn, null);
    } else {
      this.#ledger.offer(turn);
      this.#wake();
    }
    return turn.answer.promise;
  }

  /**
   * Send an item after those given before it.
   *
   * @param {Item | (() => Item | Promise<Item>)} item  Bytes, a string or JSON data, as the model takes.
   * @param {Meta & {captured?: number}} [about]
   * @returns {Promise<Answer>} Dropped and failed items are answers too. Rejects with `StreamClosed`, `TooManyWaiting`, or
   *   a TypeError or RangeError on an item that this model cannot take.
   */
  send(item, about = {}) {
    const turn = this.#turn(item, about, false);
    if (this.#isClosed()) {
      this.#ledger.refuse(turn, new StreamClosed("the stream takes no more items"));
    } else if (this.#ledger.waiting >= MAX_WAITING) {
      this.#ledger.refuse(turn, new TooManyWaiting(`${MAX_WAITING} items wait already; await some answers`));
    } else {
      this.#ledger.offer(turn);
      this.#wake();
    }
    return /** @type {Promise<Answer>} */ (turn.answer.promise);
  }

  /**
   * Say that no more items come, once those that wait are sent.
   *
   * @returns {Promise<End>} The server's count, after every answer. Rejects with `StreamClosed`.
   */
  end() {
    if (this.#ending === null) {
      this.#ending = Promise.withResolvers();
      // who does not look at the promise has not forgotten to handle its error
      this.#ending.promise.catch(() => {});
      if (this.#link.isFinal) this.#ending.reject(new StreamClosed(`the stream is ${this.state.name}`));
      this.#wake();
    }
    return this.#ending.promise;
  }

  /** Leave at once; what is unanswered gets an error `connection_lost`. */
  close() {
    this.#link.close();
  }

  /** Do not wait for the next try. */
  retry() {
    this.#link.retry();
  }

  #isClosed() {
    return this.#ending !== null || this.#link.isFinal;
  }

  /** @param {any} item @param {Meta & {captured?: number}} about @param {boolean} replaceable */
  #turn(item, { id, maxAgeMs, captured = this.#around.now() }, replaceable) {
    return new Turn(item, { id, maxAgeMs }, captured, replaceable);
  }

  /** @param {import("./protocol.js").ServerMessage} message */
  #receive(message) {
    if (message.type === "ready") {
      this.#ready = Object.freeze(message);
      this.#seq = 0;
      this.#call(this.#options.onReady, this.#ready);
    } else if (message.type === "end") {
      this.#end = message;
    } else if (message.type !== "goaway") {
      const outcome = /** @type {import("./pending_items.js").Outcome} */ (message);
      const answer = this.#ledger.answer(outcome, this.#around.now());
      if (answer === null)
        throw new ProtocolError(`the server answered item ${outcome.seq}, which waits for no answer`);
      this.#link.recovered();
      this.#call(this.#options.onAnswer, answer);
    }
    this.#pump();
  }

  /**
   * What the connection leaves unanswered is answered here; what was not sent waits for the next one.
   *
   * @param {string} message
   */
  #lose(message) {
    this.#around.clearTimeout(this.#drainTimer);
    this.#drainTimer = this.#ready = null;
    this.#ledger.putBack();
    for (const answer of this.#ledger.lose(message, this.#around.now())) this.#call(this.#options.onAnswer, answer);
  }

  /** @param {State} state */
  #enter(state) {
    if (this.#link.isFinal) {
      const error = new StreamClosed(state.reason?.message ?? `the stream is ${state.name}`);
      this.#ledger.clear(error);
      if (state.name === "ended") this.#ending?.resolve(/** @type {End} */ (this.#end));
      else this.#ending?.reject(error);
    }
    this.#call(this.#options.onState, state);
    if (state.name === "idle") this.#wake();
  }

  #wake() {
    if (this.state.name !== "idle") this.#pump();
    else if (this.#ledger.waiting > 0 || this.#ending) this.#link.open();
  }

  /** Send what may be sent now. The one place that decides so. */
  #pump() {
    while (this.#ready && this.#link.isOpen && !this.#ledger.taken) {
      if (this.#ledger.unanswered >= (this.#options.ahead ?? this.#ready.window)) return;
      if (this.#link.bufferedBytes > HIGH_WATER_BYTES) {
        this.#pumpLater();
        return;
      }
      const turn = this.#ledger.take(this.#around.now());
      if (turn) {
        this.#make(turn, this.#ready);
      } else {
        if (!this.#ending) return;
        this.#link.sendEnd(END);
      }
    }
  }

  #pumpLater() {
    this.#drainTimer ??= this.#around.setTimeout(() => {
      this.#drainTimer = null;
      this.#pump();
    }, DRAIN_POLL_MS);
  }

  /** @param {Turn} turn @param {Readonly<Ready>} ready */
  #make(turn, ready) {
    if (typeof turn.item !== "function") {
      this.#transmit(turn, turn.item, ready);
      return;
    }
    const settle = (/** @type {() => void} */ book) => {
      // a connection lost meanwhile has put it back, perhaps to be made anew on the next one
      if (this.#ledger.taken !== turn || this.#ready !== ready) return;
      book();
      this.#pump();
    };
    new Promise((resolve) => resolve(turn.item())).then(
      (item) => settle(() => this.#transmit(turn, item, ready)),
      (error) => settle(() => this.#ledger.discard(error)),
    );
  }

  /** @param {Turn} turn @param {unknown} item @param {Readonly<Ready>} ready */
  #transmit(turn, item, ready) {
    if (item === null && turn.replaceable) {
      this.#ledger.discard(null);
      return;
    }
    let messages;
    try {
      messages = writeMessages(item, turn.meta, ready);
    } catch (error) {
      this.#ledger.discard(/** @type {Error} */ (error));
      return;
    }
    this.#ledger.send(++this.#seq, item, this.#around.now());
    this.#link.send(messages);
  }

  /** @template T @param {((value: T) => void) | undefined} callback @param {T} value */
  #call(callback, value) {
    // one that throws must not leave the stream half-way, and one that calls back must find it settled
    if (callback) queueMicrotask(() => callback(value));
  }
}
