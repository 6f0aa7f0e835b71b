/**
 * The reusable client: sends a stream of items to a server and gets exactly one answer for each. Uses no DOM.
 *
 * `connect` returns a {@link Stream}. Use `offer` for cameras: while the window is full, one frame waits, and a newer
 * one replaces it. Use `send` for texts and data: every item is sent, in order.
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
 * @property {import("./protocol.js").Policy} [policy]  Default: the model's.
 * @property {number} [window]  Unanswered items, 1 to 64; default: the policy's.
 * @property {number} [maxAgeMs]  Items older than this are dropped as expired.
 * @property {number} [weight]  Share of the workers relative to other streams, 0.01 to the server's limit; default: 1.
 * @property {number} [maxUnanswered]  Overrides the window that the server announces: with more items in flight, a
 *   server with policy `latest` supersedes frames.
 * @property {boolean} [reconnect]  Reconnect when the connection is lost; default: true.
 * @property {number} [silenceMs]  Longest silence while an answer is due; default: 30,000. Raise it for slower models.
 * @property {(ready: Readonly<Ready>) => void} [onReady]
 * @property {(answer: Readonly<Answer>) => void} [onAnswer]
 * @property {(state: Readonly<State>) => void} [onState]
 * @property {Partial<import("./connection.js").Environment>} [environment]  Replaced by tests.
 *
 * @typedef {Blob | ArrayBuffer | ArrayBufferView | string | object | number | boolean | null} Item
 */

import { Connection } from "./connection.js";
import { PendingItem, PendingItems } from "./pending_items.js";
import { END, MAX_WINDOW, ProtocolError, streamUrl, writeMessages } from "./protocol.js";

/** The item was not sent, because the stream ended, was refused or was closed. */
export class StreamClosed extends Error {}

/** The queue of `send` is full: await some answers first. */
export class TooManyWaiting extends Error {}

/** Above this, frames wait here, where a newer one can replace them, and not in the socket: about one large frame. */
export const HIGH_WATER_BYTES = 65_536;

/** How often `bufferedAmount` is polled then, since no event reports a drain: a fraction of a frame's time. */
const DRAIN_POLL_MS = 8;

/** Most items waiting in `send`: some windows' worth, so that a loop without `await` fails before memory runs out. */
const MAX_WAITING = 16 * MAX_WINDOW;

/**
 * Open a stream. It connects immediately and reports its state in `onState`.
 *
 * @param {string} url  The server's address, such as `location.origin` or "ws://127.0.0.1:8080".
 * @param {ConnectOptions} options
 */
export function connect(url, options) {
  return new Stream(streamUrl(url, options), options);
}

/** One client's flow of items. Callbacks run in order, as microtasks, when the stream's state is consistent. */
export class Stream {
  #options;
  #env;
  #connection;
  #items = new PendingItems();
  /** @type {Readonly<Ready> | null} */ #ready = null;
  /** @type {PromiseWithResolvers<End> | null} */ #endPromise = null;
  /** @type {End | null} */ #endMessage = null;
  /** @type {any} */ #drainTimer = null;
  #seq = 0;

  /** @param {string} url  The stream's websocket address. @param {ConnectOptions} options */
  constructor(url, options) {
    this.#options = options;
    this.#env = {
      WebSocket: globalThis.WebSocket,
      now: () => performance.now(),
      setTimeout: globalThis.setTimeout.bind(globalThis),
      clearTimeout: globalThis.clearTimeout.bind(globalThis),
      random: Math.random,
      ...options.environment,
    };
    this.#connection = new Connection(url, options, this.#env, {
      onMessage: (message) => this.#onMessage(message),
      onDisconnect: (message) => this.#onDisconnect(message),
      onState: (state) => this.#onState(state),
      oldestSent: () => this.#items.oldestSent,
    });
    this.#connection.open();
  }

  get state() {
    return this.#connection.state;
  }

  /** The server's first message; null unless connected. */
  get ready() {
    return this.#ready;
  }

  get counters() {
    return this.#items.counters;
  }

  /** Bytes that the socket has not sent yet. */
  get bufferedBytes() {
    return this.#connection.bufferedBytes;
  }

  /**
   * Submit the newest frame; it replaces one that is still waiting.
   *
   * @param {Item | (() => Item | Promise<Item>)} frame  A function is called when the frame can be sent, so that
   *   replaced frames are never encoded; if it returns null, nothing is sent.
   * @param {Meta & {captured?: number}} [meta]  `captured` by the client's clock; default: now.
   * @returns {Promise<Answer | null>} Null if the frame was not sent. Rejects if the model does not accept it.
   */
  offer(frame, meta = {}) {
    const pending = this.#newItem(frame, meta, true);
    if (this.#isClosed()) {
      this.#items.reject(pending, null);
    } else {
      this.#items.add(pending);
      this.#wake();
    }
    return pending.answer.promise;
  }

  /**
   * Send an item after all earlier ones.
   *
   * @param {Item | (() => Item | Promise<Item>)} item  Bytes, a string or JSON data, as the model expects.
   * @param {Meta & {captured?: number}} [meta]
   * @returns {Promise<Answer>} A result, a drop or an error. Rejects with `StreamClosed` or `TooManyWaiting`, and with
   *   a TypeError or RangeError if the model does not accept the item.
   */
  send(item, meta = {}) {
    const pending = this.#newItem(item, meta, false);
    if (this.#isClosed()) {
      this.#items.reject(pending, new StreamClosed("the stream accepts no more items"));
    } else if (this.#items.waiting >= MAX_WAITING) {
      this.#items.reject(pending, new TooManyWaiting(`${MAX_WAITING} items are waiting; await some answers first`));
    } else {
      this.#items.add(pending);
      this.#wake();
    }
    return /** @type {Promise<Answer>} */ (pending.answer.promise);
  }

  /**
   * End the stream after the waiting items are sent.
   *
   * @returns {Promise<End>} The server's counts, after the last answer. Rejects with `StreamClosed`.
   */
  end() {
    if (this.#endPromise === null) {
      this.#endPromise = Promise.withResolvers();
      // a caller that ignores the promise must not cause an unhandled rejection
      this.#endPromise.promise.catch(() => {});
      if (this.#connection.isFinal) this.#endPromise.reject(new StreamClosed(`the stream is ${this.state.name}`));
      this.#wake();
    }
    return this.#endPromise.promise;
  }

  /** Close immediately; unanswered items get the error `connection_lost`. */
  close() {
    this.#connection.close();
  }

  /** Reconnect now instead of at the next scheduled attempt. */
  retry() {
    this.#connection.retry();
  }

  #isClosed() {
    return this.#endPromise !== null || this.#connection.isFinal;
  }

  /** @param {any} item @param {Meta & {captured?: number}} meta @param {boolean} replaceable */
  #newItem(item, { id, maxAgeMs, captured = this.#env.now() }, replaceable) {
    return new PendingItem(item, { id, maxAgeMs }, captured, replaceable);
  }

  /** @param {import("./protocol.js").ServerMessage} message */
  #onMessage(message) {
    if (message.type === "ready") {
      this.#ready = Object.freeze(message);
      this.#seq = 0;
      this.#notify(this.#options.onReady, this.#ready);
    } else if (message.type === "end") {
      this.#endMessage = message;
    } else if (message.type !== "goaway") {
      const outcome = /** @type {import("./pending_items.js").Outcome} */ (message);
      const answer = this.#items.answer(outcome, this.#env.now());
      if (answer === null) throw new ProtocolError(`the server answered item ${outcome.seq}, which is not pending`);
      this.#connection.resetBackoff();
      this.#notify(this.#options.onAnswer, answer);
    }
    this.#pump();
  }

  /**
   * Answer what was sent with an error; items not sent yet wait for the next connection.
   *
   * @param {string} message
   */
  #onDisconnect(message) {
    this.#env.clearTimeout(this.#drainTimer);
    this.#drainTimer = this.#ready = null;
    this.#items.putBack();
    const failed = this.#items.failUnanswered(message, this.#env.now());
    for (const answer of failed) this.#notify(this.#options.onAnswer, answer);
  }

  /** @param {State} state */
  #onState(state) {
    if (this.#connection.isFinal) {
      const error = new StreamClosed(state.reason?.message ?? `the stream is ${state.name}`);
      this.#items.clearWaiting(error);
      if (state.name === "ended") this.#endPromise?.resolve(/** @type {End} */ (this.#endMessage));
      else this.#endPromise?.reject(error);
    }
    this.#notify(this.#options.onState, state);
    if (state.name === "idle") this.#wake();
  }

  #wake() {
    if (this.state.name !== "idle") this.#pump();
    else if (this.#items.waiting > 0 || this.#endPromise) this.#connection.open();
  }

  /** Send what may be sent now. Only this method decides that. */
  #pump() {
    while (this.#ready && this.#connection.isOpen && !this.#items.preparing) {
      if (this.#items.unanswered >= (this.#options.maxUnanswered ?? this.#ready.window)) return;
      if (this.#connection.bufferedBytes > HIGH_WATER_BYTES) {
        this.#pumpLater();
        return;
      }
      const pending = this.#items.take(this.#env.now());
      if (pending) {
        this.#prepare(pending, this.#ready);
      } else {
        if (!this.#endPromise) return;
        this.#connection.sendEnd(END);
      }
    }
  }

  #pumpLater() {
    this.#drainTimer ??= this.#env.setTimeout(() => {
      this.#drainTimer = null;
      this.#pump();
    }, DRAIN_POLL_MS);
  }

  /** @param {PendingItem} pending @param {Readonly<Ready>} ready */
  #prepare(pending, ready) {
    if (typeof pending.item !== "function") {
      this.#transmit(pending, pending.item, ready);
      return;
    }
    const finish = (/** @type {() => void} */ action) => {
      // if the connection was lost meanwhile, the item was put back and may already be prepared again
      if (this.#items.preparing !== pending || this.#ready !== ready) return;
      action();
      this.#pump();
    };
    new Promise((resolve) => resolve(pending.item())).then(
      (item) => finish(() => this.#transmit(pending, item, ready)),
      (error) => finish(() => this.#items.discard(error)),
    );
  }

  /** @param {PendingItem} pending @param {unknown} item @param {Readonly<Ready>} ready */
  #transmit(pending, item, ready) {
    if (item === null && pending.replaceable) {
      this.#items.discard(null);
      return;
    }
    let messages;
    try {
      messages = writeMessages(item, pending.meta, ready);
    } catch (error) {
      this.#items.discard(/** @type {Error} */ (error));
      return;
    }
    this.#items.markSent(++this.#seq, item, this.#env.now());
    this.#connection.send(messages);
  }

  /** @template T @param {((value: T) => void) | undefined} callback @param {T} value */
  #notify(callback, value) {
    // as a microtask: a callback may throw or call the stream without finding it in an inconsistent state
    if (callback) queueMicrotask(() => callback(value));
  }
}
