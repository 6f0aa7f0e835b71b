/**
 * The connection under a stream: it connects, notices silence, and tries again with backoff. Knows nothing of items.
 *
 * @typedef {import("./protocol.js").ServerMessage} ServerMessage
 *
 * @typedef {object} State
 * @property {"connecting" | "ready" | "draining" | "waiting" | "idle" | "lost" | "refused" | "ended" | "closed"} name
 *   `waiting` for the next try; `idle` until the next item, since a server may close a silent stream; the last four are
 *   final.
 * @property {{code: string, message: string} | null} reason  Why, in the server's words or the client's.
 * @property {number | null} retryAt  While waiting: when the next try is, by the client's clock.
 *
 * @typedef {object} Surroundings  What a test replaces.
 * @property {typeof WebSocket} WebSocket
 * @property {() => number} now  Milliseconds of a clock that never goes back.
 * @property {(f: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} random  From 0 up to 1.
 *
 * @typedef {object} Owner  Whose connection it is.
 * @property {(message: ServerMessage) => void} receive  May throw a `ProtocolError`, which ends the connection.
 * @property {(message: string) => void} lose  The connection is gone: what it owed will not come.
 * @property {(state: State) => void} enter
 * @property {() => number | null} owedSince  When the oldest item was sent that has no answer.
 */

import { ProtocolError, SUBPROTOCOL, readServerMessage } from "./protocol.js";

/** Longest from connecting to `ready`: a browser alone waits minutes for a host that swallows packets. */
const READY_MS = 10_000;

/** Longest silence while an answer is due, by default: three times what a server gives a model by default. */
const SILENCE_MS = 30_000;

/** Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): a random part of a ceiling that doubles. */
const RETRY_BASE_MS = 500;
const RETRY_CAP_MS = 30_000;

/** Closes after which trying again cannot help: wrong kind, too big, bad option, no leave, no such model. */
const FINAL_CLOSES = new Set([1003, 1009, 4400, 4401, 4403, 4404]);
const IDLE_CLOSE = 4408;

const FINAL_STATES = new Set(["lost", "refused", "ended", "closed"]);

export class Link {
  #url;
  #reconnect;
  #silenceMs;
  #around;
  #owner;
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {any} */ #timer = null;
  /** @type {any} */ #silenceTimer = null;
  #tries = 0;
  // of this connection alone
  #heard = 0;
  #retryAfter = 0;
  #endAsked = false;
  #endHeard = false;
  /** @type {Pick<import("./protocol.js").ServerError, "code" | "message" | "retryable" | "retry_after_ms"> | null} */
  #fault = null;
  /** @type {State} */ state = { name: "connecting", reason: null, retryAt: null };

  /**
   * @param {string} url
   * @param {{reconnect?: boolean, silenceMs?: number}} options
   * @param {Surroundings} around
   * @param {Owner} owner
   */
  constructor(url, { reconnect = true, silenceMs = SILENCE_MS }, around, owner) {
    this.#url = url;
    this.#reconnect = reconnect;
    this.#silenceMs = silenceMs;
    this.#around = around;
    this.#owner = owner;
  }

  get isFinal() {
    return FINAL_STATES.has(this.state.name);
  }

  /** Whether items may be sent. */
  get isOpen() {
    return this.state.name === "ready" && !this.#endAsked;
  }

  get bufferedBytes() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  open() {
    const { WebSocket, setTimeout, clearTimeout } = this.#around;
    clearTimeout(this.#timer);
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    this.#heard = this.#retryAfter = 0;
    this.#endAsked = this.#endHeard = false;
    this.#fault = null;
    this.#timer = setTimeout(() => this.#abandon("the server does not answer"), READY_MS);
    // a socket given up for lost may still speak
    socket.addEventListener("message", (event) => socket === this.#socket && this.#receive(event.data));
    socket.addEventListener("close", (event) => socket === this.#socket && this.#closed(event.code));
    this.#enter("connecting");
  }

  /** Do not wait for the next try. */
  retry() {
    if (this.state.name === "waiting" || this.state.name === "idle") this.open();
  }

  close() {
    if (!this.isFinal) this.#leave("closed", null, "the stream was closed here");
  }

  /** Send the messages of an item, and expect to hear something. @param {(string | Blob | ArrayBuffer)[]} messages */
  send(messages) {
    for (const message of messages) this.#socket?.send(message);
    this.#listen();
  }

  /** Send that no more items come; the connection that ends after it has not been lost. @param {string} message */
  sendEnd(message) {
    this.#endAsked = true;
    this.#socket?.send(message);
  }

  /** A server that accepts and then falls over must not be asked ever faster: only one that answers has recovered. */
  recovered() {
    this.#tries = 0;
  }

  /** @param {string} text */
  #receive(text) {
    this.#heard = this.#around.now();
    try {
      const message = readServerMessage(text);
      // an error without a `seq` is the reason for a close only when nothing comes between them
      this.#fault = message?.type === "error" && message.seq === null ? message : null;
      this.#retryAfter = this.#fault?.retry_after_ms ?? this.#retryAfter;
      if (message && !this.#fault) this.#handle(message);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#leave("refused", { code: "protocol", message: error.message }, error.message);
    }
  }

  /** @param {ServerMessage} message */
  #handle(message) {
    if (message.type === "ready") {
      this.#around.clearTimeout(this.#timer);
      this.#enter("ready");
    } else if (message.type === "goaway") {
      this.#retryAfter = message.retry_after_ms;
      this.#enter("draining", { code: "draining", message: "the server is shutting down" });
    } else if (message.type === "end") {
      this.#endHeard = true;
    }
    this.#owner.receive(message);
  }

  /** @param {number} code */
  #closed(code) {
    const lost = { code: "connection_lost", message: `the connection was lost (${code})`, retryable: true };
    const fault = this.#fault ?? lost;
    this.#disconnect("the connection was lost before the answer came");
    if (this.#endAsked && this.#endHeard) this.#enter("ended");
    else if (FINAL_CLOSES.has(code) || !fault.retryable) this.#enter("refused", fault);
    else if (!this.#reconnect) this.#enter("lost", fault);
    else if (code === IDLE_CLOSE) this.#enter("idle", fault);
    else this.#retryLater(fault);
  }

  /** @param {{code: string, message: string}} fault */
  #retryLater(fault) {
    const { now, random, setTimeout } = this.#around;
    const ceiling = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** this.#tries++);
    const delay = this.#retryAfter + random() * ceiling;
    this.#timer = setTimeout(() => this.open(), delay);
    this.#enter("waiting", fault, now() + delay);
  }

  /** Let go of a socket that says nothing any more. @param {string} message */
  #abandon(message) {
    const socket = this.#socket;
    this.#fault ??= { code: "connection_lost", message, retryable: true };
    this.#closed(1006);
    socket?.close();
  }

  /** @param {"refused" | "closed"} name @param {State["reason"]} reason @param {string} message */
  #leave(name, reason, message) {
    const socket = this.#socket;
    this.#disconnect(message);
    this.#enter(name, reason);
    socket?.close(1000);
  }

  /** @param {string} message */
  #disconnect(message) {
    this.#around.clearTimeout(this.#timer);
    this.#around.clearTimeout(this.#silenceTimer);
    this.#silenceTimer = this.#socket = null;
    this.#owner.lose(message);
  }

  /** @param {State["name"]} name @param {State["reason"]} [reason] @param {number | null} [retryAt] */
  #enter(name, reason = null, retryAt = null) {
    this.state = Object.freeze({ name, reason: reason && { code: reason.code, message: reason.message }, retryAt });
    this.#owner.enter(this.state);
  }

  /** A network that went away closes no socket, so silence is the only sign of it. */
  #listen() {
    const { now, setTimeout } = this.#around;
    const silentFor = () => now() - Math.max(this.#heard, this.#owner.owedSince() ?? now());
    this.#silenceTimer ??= setTimeout(() => {
      this.#silenceTimer = null;
      if (this.#owner.owedSince() === null) return;
      if (silentFor() >= this.#silenceMs) this.#abandon("the server has fallen silent");
      else this.#listen();
    }, this.#silenceMs - silentFor());
  }
}
