/** One place of the page that says in plain words what is wrong, and when the next try is. */

import { find } from "./dom.js";
import { retryWords, streamWords } from "./messages.js";

export class Notice {
  #root;
  #words;
  #countdown;
  #retry;

  /** @param {string} name  Its elements' ids begin with this. @param {() => void} onRetry */
  constructor(name, onRetry) {
    this.#root = find(`${name}-notice`, HTMLElement);
    this.#words = find(`${name}-words`, HTMLElement);
    this.#countdown = find(`${name}-countdown`, HTMLElement);
    this.#retry = find(`${name}-retry`, HTMLElement);
    this.#retry.onclick = onRetry;
  }

  /** @param {string} words @param {string} [countdown] */
  say(words, countdown = "") {
    // what is read aloud at each change must not be set again unchanged
    if (this.#words.textContent !== words) this.#words.textContent = words;
    this.#countdown.textContent = countdown;
    this.#retry.hidden = countdown === "";
    this.#root.hidden = words === "";
  }

  /** @param {import("./client/connection.js").State} state @param {number} now */
  tell(state, now) {
    this.say(streamWords(state), retryWords(state, now));
  }
}
