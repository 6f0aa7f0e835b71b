/** The camera's live numbers: counts, rates, times, who holds things up, and the chart. Shows what it is told. */

import { Chart } from "./chart.js";
import { find, make } from "./dom.js";
import { Rates, Recent, STAGE_NAMES, holdUp, quantile, stagesOf } from "./stats.js";

/**
 * @typedef {import("./client/pending_items.js").Answer} Answer
 * @typedef {import("./stats.js").Times} Times
 * @typedef {import("./stats.js").Stage} Stage
 */

/** Long enough that a p99 has some values above it, short enough to follow a change. */
const TIMES_MS = 10_000;

const COUNTS = {
  captured: "Captured",
  sent: "Sent",
  results: "Answered",
  superseded: "Dropped, superseded",
  expired: "Dropped, expired",
  draining: "Dropped, draining",
  replaced: "Replaced in this page",
  errors: "Errors",
};

export class Dashboard {
  #rates = new Rates();
  /** @type {Recent<Times>} */ #times = new Recent(TIMES_MS);
  #second = { at: 0, results: 0 };
  #chart = new Chart(find("chart", HTMLCanvasElement));
  /** @type {Map<string, {row: HTMLElement, rate: HTMLElement, total: HTMLElement}>} */ #rows = new Map();
  /** @type {Map<Stage, {segment: HTMLElement, entry: HTMLElement, value: HTMLElement}>} */ #stages = new Map();

  constructor() {
    for (const [name, label] of Object.entries(COUNTS)) {
      const rate = make("td", {}, "–");
      const total = make("td", { "data-count": name }, "–");
      const row = make("tr", {}, make("th", { scope: "row" }, label), rate, total);
      this.#rows.set(name, { row, rate, total });
      find("frames", HTMLTableSectionElement).append(row);
    }
    for (const [name, label] of /** @type {[Stage, string][]} */ (Object.entries(STAGE_NAMES))) {
      const segment = make("span", { "data-stage": name });
      const value = make("dd", {}, "–");
      const entry = make("div", { "data-stage": name }, make("dt", {}, label), value);
      this.#stages.set(name, { segment, entry, value });
      find("stack", HTMLElement).append(segment);
      find("legend", HTMLElement).append(entry);
    }
  }

  /** Begin anew with a new stream, whose counters begin at 0. */
  reset() {
    this.#rates = new Rates();
    this.#times = new Recent(TIMES_MS);
    this.#second = { at: 0, results: 0 };
    this.#chart.clear();
  }

  /** What was counted stays; what is per second is no more. */
  stop() {
    for (const { rate } of this.#rows.values()) rate.textContent = "–";
    find("answers", HTMLElement).textContent = "–";
    find("hold-words", HTMLElement).textContent = "Nothing is streaming.";
  }

  /** @param {number} now @param {Answer} answer */
  answer(now, answer) {
    if (answer.type !== "result") return;
    // the times alone: an answer holds its frame, and these are kept for seconds
    const { turn_ms, encode_ms, round_trip_ms, freshness_ms, age_ms, infer_ms } = answer;
    this.#times.add(now, { turn_ms, encode_ms, round_trip_ms, freshness_ms, age_ms, infer_ms });
  }

  /**
   * Show where things stand; called some times a second.
   *
   * @param {number} now @param {Record<string, number>} counts @param {boolean} isHeldBack
   */
  tick(now, counts, isHeldBack) {
    this.#rates.add(now, counts);
    const times = this.#times.values(now);
    for (const [name, { row, rate, total }] of this.#rows) {
      const count = counts[name] ?? 0;
      total.textContent = count.toLocaleString("en");
      rate.textContent = this.#rates.perSecond(name).toFixed(1);
      row.classList.toggle("zero", count === 0);
    }
    find("answers", HTMLElement).textContent = this.#rates.perSecond("results").toFixed(1);
    showTimes(
      "trip",
      times.map((each) => each.round_trip_ms),
    );
    showTimes(
      "age",
      times.map((each) => each.age_ms),
    );
    showTimes(
      "fresh",
      times.map((each) => each.freshness_ms),
    );
    this.#showHoldUp(times, isHeldBack);
    this.#addSecond(now, counts.results ?? 0);
  }

  /** @param {Times[]} times @param {boolean} isHeldBack */
  #showHoldUp(times, isHeldBack) {
    const stages = stagesOf(times);
    const words = find("hold-words", HTMLElement);
    if (stages === null) {
      words.textContent = "No answers at the moment.";
      return;
    }
    const captured = this.#rates.perSecond("captured");
    const { culprit, sentence } = holdUp(stages, captured, this.#rates.perSecond("results"), isHeldBack);
    words.textContent = sentence;
    const total = Object.values(stages).reduce((sum, ms) => sum + ms, 0);
    for (const [name, { segment, entry, value }] of this.#stages) {
      segment.style.flexGrow = String(total > 0 ? stages[name] / total : 0);
      value.textContent = `${stages[name].toFixed(1)} ms`;
      entry.classList.toggle("culprit", name === culprit);
    }
  }

  /** @param {number} now @param {number} results  In all. */
  #addSecond(now, results) {
    const { at, results: before } = this.#second;
    if (now - at < 1_000) return;
    if (at > 0) {
      const answered = results - before;
      const times = this.#times
        .values(now)
        .slice(-answered)
        .map((each) => each.round_trip_ms);
      this.#chart.add({ answers: (answered * 1_000) / (now - at), trip: answered > 0 ? quantile(times, 0.5) : null });
    }
    this.#second = { at: now, results };
  }
}

/** @param {string} name @param {number[]} values */
function showTimes(name, values) {
  for (const percent of [50, 99]) {
    const value = quantile(values, percent / 100);
    find(`${name}-${percent}`, HTMLElement).textContent = value === null ? "–" : value.toFixed(1);
  }
}
