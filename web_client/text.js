/** The Text tab: what is typed goes to a text model as it changes, and the newest text wins. */

import { namesFor } from "./status.js";
import { connect } from "./client/client.js";
import { fillSelect, find, make } from "./dom.js";
import { Notice } from "./banner.js";
import { SERVER_URL } from "./server_url.js";

/** Long enough that a fast typist's keys come as one, short enough to feel immediate. */
const DEBOUNCE_MS = 80;

const TICK_MS = 250;

const EXAMPLES = {
  spam:
    "CONGRATULATIONS! You have been selected for our exclusive offer. Earn $5,000 a week from home, no experience " +
    "needed, 100% risk free! Click here NOW to claim your FREE money before midnight. Order today, limited time only! " +
    "To be removed from this mailing list, send an email with REMOVE in the subject line.",
  ham:
    "Hi Ruth,\n\nthe patch you sent on Tuesday applies cleanly, but one of the tests hangs on my old laptop. I think the " +
    "timeout in the socket code is too short there. I'll try a longer one tonight and write to the list what I find.\n\n" +
    "Are you still coming to lunch on Friday? Tom has booked the table for noon.\n\nCheers\nPeter",
};

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

export class Text {
  #words = find("words", HTMLTextAreaElement);
  #model = find("text-model", HTMLSelectElement);
  /** @type {import("./client/client.js").Stream | null} */ #stream = null;
  #timer = 0;
  #notice = new Notice("text", () => this.#stream?.retry());

  constructor() {
    this.#words.oninput = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#ask(), DEBOUNCE_MS);
    };
    this.#model.onchange = () => {
      this.#connect();
      this.#ask();
    };
    find("example-spam", HTMLElement).onclick = () => this.#set(EXAMPLES.spam);
    find("example-ham", HTMLElement).onclick = () => this.#set(EXAMPLES.ham);
    find("clear", HTMLElement).onclick = () => this.#set("");
    addEventListener("online", () => this.#stream?.retry());
    setInterval(() => this.#tick(), TICK_MS);
  }

  /** Connect when the tab is first opened. */
  open() {
    if (this.#stream === null) this.#connect();
  }

  /** @param {import("./status.js").Model[]} models */
  offerModels(models) {
    const names = namesFor(models, ["text"], this.#model.value);
    const before = this.#model.value;
    fillSelect(this.#model, names);
    if (this.#model.value !== before && this.#stream) this.#connect();
  }

  /** @param {string} text */
  #set(text) {
    this.#words.value = text;
    this.#ask();
  }

  #connect() {
    this.#stream?.close();
    // one unanswered, and the newest text waits: what was typed before it is of no use
    this.#stream = connect(SERVER_URL, { model: this.#model.value, window: 1, onState: () => this.#tick() });
  }

  async #ask() {
    const text = this.#words.value;
    if (text.trim() === "") {
      this.#show("–", {});
      return;
    }
    try {
      const answer = await this.#stream?.offer(text);
      // where a newer text is on its way, its answer is the one to show
      if (answer && text === this.#words.value) this.#answer(answer);
    } catch (error) {
      this.#show(`Not sent: ${/** @type {Error} */ (error).message}`, {});
    }
  }

  /** @param {import("./client/client.js").Answer} answer */
  #answer(answer) {
    if (answer.type === "result") {
      const { outputs } = answer;
      const labelled = typeof outputs?.label === "string" && typeof outputs?.scores === "object";
      if (labelled) this.#show(outputs.label, outputs.scores ?? {});
      else this.#show("", {}, JSON.stringify(outputs, null, 2));
      find("text-trip", HTMLElement).textContent =
        `${answer.model}@${answer.version} answered in ${answer.round_trip_ms.toFixed(1)} ms, ` +
        `${answer.infer_ms.toFixed(1)} ms of it inference.`;
    } else if (answer.type === "error" && answer.code === "connection_lost") {
      // asked again when the connection is back
      this.#ask();
    } else {
      this.#show(answer.type === "error" ? answer.message : `Dropped: ${answer.reason}`, {});
    }
  }

  /** @param {string} label @param {Record<string, number>} scores @param {string} [other] */
  #show(label, scores, other = "") {
    find("label", HTMLElement).textContent = label;
    const sorted = Object.entries(scores).sort(([, a], [, b]) => b - a);
    const rows = sorted.map(([name, score]) => {
      const bar = make("meter", { min: "0", max: "1", value: String(score), "aria-label": name });
      return make("div", {}, make("dt", {}, name), make("dd", {}, percent.format(score), bar));
    });
    find("scores", HTMLElement).replaceChildren(...rows);
    find("text-outputs", HTMLElement).textContent = other;
    find("text-outputs", HTMLElement).hidden = other === "";
    find("text-trip", HTMLElement).textContent = "";
  }

  #tick() {
    if (this.#stream) this.#notice.tell(this.#stream.state, performance.now());
  }
}
