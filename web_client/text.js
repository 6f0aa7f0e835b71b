/** The Text tab: sends the text to a model as it is typed and shows the answer to the newest text. */

import { Banner } from "./banner.js";
import { connect } from "./client/client.js";
import { fillSelect, find, make } from "./dom.js";
import { readClassification } from "./outputs.js";
import { SERVER_URL } from "./server_url.js";
import { modelNames } from "./status.js";

/** Long enough to combine the keystrokes of a fast typist, short enough to feel immediate. */
const DEBOUNCE_MS = 80;

/** How often the banner's countdown is updated. */
const UPDATE_MS = 250;

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
  #input = find("text-input", HTMLTextAreaElement);
  #model = find("text-model", HTMLSelectElement);
  /** @type {import("./client/client.js").Stream | null} */ #stream = null;
  #timer = 0;
  #banner = new Banner("text", () => this.#stream?.retry());

  constructor() {
    this.#input.oninput = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#submit(), DEBOUNCE_MS);
    };
    this.#model.onchange = () => {
      this.#connect();
      this.#submit();
    };
    find("example-spam", HTMLElement).onclick = () => this.#set(EXAMPLES.spam);
    find("example-ham", HTMLElement).onclick = () => this.#set(EXAMPLES.ham);
    find("clear", HTMLElement).onclick = () => this.#set("");
    addEventListener("online", () => this.#stream?.retry());
    setInterval(() => this.#update(), UPDATE_MS);
  }

  /** Connect, on the first call. */
  open() {
    if (this.#stream === null) this.#connect();
  }

  /** @param {import("./status.js").Model[]} models */
  setModels(models) {
    const names = modelNames(models, ["text"], this.#model.value);
    const before = this.#model.value;
    fillSelect(this.#model, names);
    if (this.#model.value !== before && this.#stream) this.#connect();
  }

  /** @param {string} text */
  #set(text) {
    this.#input.value = text;
    this.#submit();
  }

  #connect() {
    this.#stream?.close();
    // with a window of 1 a newer text replaces the waiting one: answers to older texts are not needed
    this.#stream = connect(SERVER_URL, { model: this.#model.value, window: 1, onState: () => this.#update() });
  }

  async #submit() {
    const text = this.#input.value;
    if (text.trim() === "") {
      this.#show("–", {});
      return;
    }
    try {
      const answer = await this.#stream?.offer(text);
      // the answer to an older text is out of date
      if (answer && text === this.#input.value) this.#answer(answer);
    } catch (error) {
      this.#show(`Not sent: ${/** @type {Error} */ (error).message}`, {});
    }
  }

  /** @param {import("./client/client.js").Answer} answer */
  #answer(answer) {
    if (answer.type === "result") {
      const { outputs } = answer;
      const classification = readClassification(outputs);
      if (classification) this.#show(classification.label, classification.scores);
      else this.#show("", {}, JSON.stringify(outputs, null, 2));
      find("text-timing", HTMLElement).textContent =
        `${answer.model}@${answer.version} answered in ${answer.round_trip_ms.toFixed(1)} ms, ` +
        `of which inference took ${answer.infer_ms.toFixed(1)} ms.`;
    } else if (answer.type === "error" && answer.code === "connection_lost") {
      // sent when the client has reconnected
      this.#submit();
    } else {
      this.#show(answer.type === "error" ? answer.message : `Dropped: ${answer.reason}`, {});
    }
  }

  /** @param {string} label @param {Record<string, number>} scores @param {string} [rawOutputs] */
  #show(label, scores, rawOutputs = "") {
    find("label", HTMLElement).textContent = label;
    const sorted = Object.entries(scores).sort(([, a], [, b]) => b - a);
    const rows = sorted.map(([name, score]) => {
      const bar = make("meter", { min: "0", max: "1", value: String(score), "aria-label": name });
      return make("div", {}, make("dt", {}, name), make("dd", {}, percent.format(score), bar));
    });
    find("scores", HTMLElement).replaceChildren(...rows);
    find("text-outputs", HTMLElement).textContent = rawOutputs;
    find("text-outputs", HTMLElement).hidden = rawOutputs === "";
    find("text-timing", HTMLElement).textContent = "";
  }

  #update() {
    if (this.#stream) this.#banner.showState(this.#stream.state, performance.now());
  }
}
