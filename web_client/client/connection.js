/**
 * The connection of a stream: connects, detects a silent server, reconnects with backoff. Knows nothing of items.
 *
 * @typedef {import("./protocol.js").ServerMessage} ServerMessage
 *
 * @typedef {object} State
 * @property {"connecting" | "ready" | "draining" | "waiting" | "idle" | "lost" | "refused" | "ended" | "closed"} name
 *   `waiting`: for the next attempt. `idle`: the server closed a silent stream; the next item reconnects. The last four
 *   are final.
 * @property {{code: string, message: string} | null} reason  From the server, or from this client.
 * @property {number | null} retryAt  While waiting: the time of the next attempt, by the client's clock.
 *
 * @typedef {object} Environment  What a test replaces.
 * @property {typeof WebSocket} WebSocket
 * @property {() => number} now  Milliseconds of a monotonic clock.
 * @property {(f: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} random  In [0, 1).
 *
 * @typedef {object} Owner  The stream that uses the connection.
 * @property {(message: ServerMessage) => void} onMessage  A `ProtocolError` thrown here ends the connection.
 * @property {(message: string) => void} onDisconnect  Unanswered items will get no answer.
 * @property {(state: State) => void} onState
 * @property {() => number | null} oldestSent  When the oldest unanswered item was sent.
 */

import { ProtocolError, SUBPROTOCOL, readServerMessage } from "./protocol.js";

/** Longest wait for `ready`: without it, a browser waits minutes for a host that discards packets. */
const READY_MS = 10_000;

/** Default for the longest silence while an answer is due: three times the server's default timeout of a model. */
const SILENCE_MS = 30_000;

/** How often we look meanwhile. A look counts twice its due time at most: a page that was blocked has mail to read. */
const LOOKS = 10;

/** A timer that is later than this shows that the page was blocked, and the server's message may be waiting. */
const LATE_MS = 1_000;

/** Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): a random part of a ceiling that doubles. */
const RETRY_BASE_MS = 500;
const RETRY_CAP_MS = 30_000;

/** Closes after which a retry cannot succeed: wrong kind, too big, bad option, unauthorized, forbidden, not found. */
const FINAL_CLOSES = new Set([1003, 1009, 4400, 4401, 4403, 4404]);
const IDLE_CLOSE = 4408;

const FINAL_STATES = new Set(["lost", "refused", "ended", "closed"]);

export class Connection {
  #url;
  #reconnect;
  #silenceMs;
  #env;
  #owner;
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {any} */ #timer = null;
  /** @type {any} */ #silenceTimer = null;
  #attempts = 0;
  // reset for each socket
  #silentMs = 0;
  #lookedAt = 0;
  #unsentBytes = 0;
  #retryAfter = 0;
  #endSent = false;
  #endReceived = false;
  /** @type {Pick<import("./protocol.js").ServerError, "code" | "message" | "retryable" | "retry_after_ms"> | null} */
  #error = null;
  /** @type {State} */ state = { name: "connecting", reason: null, retryAt: null };

  /**
   * @param {string} url
   * @param {{reconnect?: boolean, silenceMs?: number}} options
   * @param {Environment} env
   * @param {Owner} owner
   */
  constructor(url, { reconnect = true, silenceMs = SILENCE_MS }, env, owner) {
    this.#url = url;
    this.#reconnect = reconnect;
    this.#silenceMs = silenceMs;
    this.#env = env;
    this.#owner = owner;
  }

  get isFinal() {
    return FINAL_STATES.has(this.state.name);
  }

  /** Whether items may be sent. */
  get isOpen() {
    return this.state.name === "ready" && !this.#endSent;
  }

  get bufferedBytes() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  open() {
    const { WebSocket, now, setTimeout, clearTimeout } = this.#env;
    clearTimeout(this.#timer);
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    this.#retryAfter = 0;
    this.#endSent = this.#endReceived = false;
    this.#error = null;
    const due = now() + READY_MS;
    const giveUp = () => this.#abandon("the server did not respond");
    this.#timer = setTimeout(() => {
      if (now() - due > LATE_MS) this.#timer = setTimeout(giveUp, LATE_MS);
      else giveUp();
    }, READY_MS);
    // an abandoned socket may still fire events
    socket.addEventListener("message", (event) => socket === this.#socket && this.#receive(event.data));
    socket.addEventListener("close", (event) => socket === this.#socket && this.#onClose(event.code));
    this.#enter("connecting");
  }

  /** Connect now instead of at the next scheduled attempt. */
  retry() {
    if (this.state.name === "waiting" || this.state.name === "idle") this.open();
  }

  close() {
    if (!this.isFinal) this.#leave("closed", null, "the stream was closed by the client");
  }

  /** Send the messages of an item. @param {(string | Blob | ArrayBuffer)[]} messages */
  send(messages) {
    for (const message of messages) this.#socket?.send(message);
    this.#watchSilence();
  }

  /** Send the last message, after which the server ends the stream. @param {string} message */
  sendEnd(message) {
    this.#endSent = true;
    this.#socket?.send(message);
  }

  /** Reset the backoff. Only an answer does: a server that accepts and then crashes must not be retried ever faster. */
  resetBackoff() {
    this.#attempts = 0;
  }

  /** @param {string} text */
  #receive(text) {
    this.#silentMs = 0;
    this.#lookedAt = this.#env.now();
    try {
      const message = readServerMessage(text);
      // an error without `seq` explains a close only if it is the last message before it
      this.#error = message?.type === "error" && message.seq === null ? message : null;
      this.#retryAfter = this.#error?.retry_after_ms ?? this.#retryAfter;
      if (message && !this.#error) this.#handle(message);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#leave("refused", { code: "protocol", message: error.message }, error.message);
    }
  }

  /** @param {ServerMessage} message */
  #handle(message) {
    if (message.type === "ready") {
      this.#env.clearTimeout(this.#timer);
      this.#enter("ready");
    } else if (message.type === "goaway") {
      this.#retryAfter = message.retry_after_ms;
      this.#enter("draining", { code: "draining", message: "the server is shutting down" });
    } else if (message.type === "end") {
      this.#endReceived = true;
    }
    this.#owner.onMessage(message);
  }

  /** @param {number} code */
  #onClose(code) {
    const lost = { code: "connection_lost", message: `the connection was lost (${code})`, retryable: true };
    const error = this.#error ?? lost;
    this.#disconnect("the connection was lost before the answer arrived");
    if (this.#endSent && this.#endReceived) this.#enter("ended");
    else if (FINAL_CLOSES.has(code) || !error.retryable) this.#enter("refused", error);
    else if (!this.#reconnect) this.#enter("lost", error);
    else if (code === IDLE_CLOSE) this.#enter("idle", error);
    else this.#scheduleRetry(error);
  }

  /** @param {{code: string, message: string}} error */
  #scheduleRetry(error) {
    const { now, random, setTimeout } = this.#env;
    const ceiling = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** this.#attempts++);
    const delay = this.#retryAfter + random() * ceiling;
    this.#timer = setTimeout(() => this.open(), delay);
    this.#enter("waiting", error, now() + delay);
  }

  /** Treat a silent socket as lost. @param {string} message */
  #abandon(message) {
    const socket = this.#socket;
    this.#error ??= { code: "connection_lost", message, retryable: true };
    this.#onClose(1006);
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
    this.#env.clearTimeout(this.#timer);
    this.#env.clearTimeout(this.#silenceTimer);
    this.#silenceTimer = this.#socket = null;
    this.#owner.onDisconnect(message);
  }

  /** @param {State["name"]} name @param {State["reason"]} [reason] @param {number | null} [retryAt] */
  #enter(name, reason = null, retryAt = null) {
    this.state = Object.freeze({ name, reason: reason && { code: reason.code, message: reason.message }, retryAt });
    this.#owner.onState(this.state);
  }

  /**
   * Abandon the socket after a long silence: a network failure fires no event. Silence is what neither brings a message
   * nor takes bytes: a large item on a slow line is no silence. (Of a large answer a page sees nothing until it is whole.)
   */
  #watchSilence() {
    if (this.#silenceTimer !== null) return;
    this.#silentMs = 0;
    this.#lookedAt = this.#env.now();
    this.#unsentBytes = this.bufferedBytes;
    this.#lookLater();
  }

  #lookLater() {
    const wait = Math.min(this.#silenceMs / LOOKS, this.#silenceMs - this.#silentMs);
    this.#silenceTimer = this.#env.setTimeout(() => this.#look(), wait);
  }

  #look() {
    const now = this.#env.now();
    const oldestSent = this.#owner.oldestSent();
    this.#silenceTimer = null;
    if (oldestSent === null) return;
    const elapsed = now - Math.max(this.#lookedAt, oldestSent);
    const moved = this.bufferedBytes < this.#unsentBytes;
    this.#silentMs = moved ? 0 : this.#silentMs + Math.min(elapsed, (2 * this.#silenceMs) / LOOKS);
    this.#lookedAt = now;
    this.#unsentBytes = this.bufferedBytes;
    if (this.#silentMs >= this.#silenceMs) this.#abandon("the server stopped responding");
    else this.#lookLater();
  }
}
