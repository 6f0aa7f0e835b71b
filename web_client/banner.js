/** A banner that shows what is wrong with a source or a stream, and when the client reconnects. */

import { find } from "./dom.js";
import { retryMessage, streamMessage } from "./messages.js";

export class Banner {
  #root;
  #message;
  #countdown;
  #retry;

  /** @param {string} name  Prefix of its elements' ids. @param {() => void} onRetry */
  constructor(name, onRetry) {
    this.#root = find(`${name}-banner`, HTMLElement);
    this.#message = find(`${name}-message`, HTMLElement);
    this.#countdown = find(`${name}-countdown`, HTMLElement);
    this.#retry = find(`${name}-retry`, HTMLElement);
    this.#retry.onclick = onRetry;
  }

  /** @param {string} message @param {string} [countdown] */
  show(message, countdown = "") {
    // screen readers announce each assignment, even of the same text
    if (this.#message.textContent !== message) this.#message.textContent = message;
    this.#countdown.textContent = countdown;
    this.#retry.hidden = countdown === "";
    this.#root.hidden = message === "";
  }

  /** @param {import("./client/connection.js").State} state @param {number} now */
  showState(state, now) {
    this.show(streamMessage(state), retryMessage(state, now));
  }
}
