/** Shows the camera's live statistics: counters, rates, times, the bottleneck and the chart. */

import { Chart } from "./chart.js";
import { find, make } from "./dom.js";
import { Rates, Recent, STAGE_NAMES, findBottleneck, meanStages, quantile } from "./stats.js";

/**
 * @typedef {import("./client/pending_items.js").Answer} Answer
 * @typedef {import("./stats.js").Times} Times
 * @typedef {import("./stats.js").Stage} Stage
 */

/** Long enough that some values are above the p99, short enough to follow changes. */
const TIMES_MS = 10_000;

const COUNTERS = {
  captured: "Captured",
  sent: "Sent",
  results: "Answered",
  superseded: "Dropped, superseded",
  expired: "Dropped, expired",
  draining: "Dropped, draining",
  replaced: "Replaced, unsent",
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
    for (const [name, label] of Object.entries(COUNTERS)) {
      const rate = make("td", {}, "–");
      const total = make("td", { "data-count": name }, "–");
      const row = make("tr", {}, make("th", { scope: "row" }, label), rate, total);
      this.#rows.set(name, { row, rate, total });
      find("frame-rows", HTMLTableSectionElement).append(row);
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

  /** Start over for a new stream, whose counters start at 0. */
  reset() {
    this.#rates = new Rates();
    this.#times = new Recent(TIMES_MS);
    this.#second = { at: 0, results: 0 };
    this.#chart.clear();
  }

  /** Clear the rates; the totals stay. */
  stop() {
    for (const { rate } of this.#rows.values()) rate.textContent = "–";
    find("answers", HTMLElement).textContent = "–";
    find("bottleneck-text", HTMLElement).textContent = "No active stream.";
  }

  /** @param {number} now @param {Answer} answer */
  answer(now, answer) {
    if (answer.type !== "result") return;
    // keep the times only: an answer references its frame
    const { wait_ms, encode_ms, round_trip_ms, freshness_ms, age_ms, infer_ms } = answer;
    this.#times.add(now, { wait_ms, encode_ms, round_trip_ms, freshness_ms, age_ms, infer_ms });
  }

  /**
   * Show the current values.
   *
   * @param {number} now @param {Record<string, number>} counts @param {boolean} socketIsFull
   */
  update(now, counts, socketIsFull) {
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
      "round-trip",
      times.map((each) => each.round_trip_ms),
    );
    showTimes(
      "age",
      times.map((each) => each.age_ms),
    );
    showTimes(
      "freshness",
      times.map((each) => each.freshness_ms),
    );
    this.#showBottleneck(times, socketIsFull);
    this.#addSecond(now, counts.results ?? 0);
  }

  /** @param {Times[]} times @param {boolean} socketIsFull */
  #showBottleneck(times, socketIsFull) {
    const stages = meanStages(times);
    const text = find("bottleneck-text", HTMLElement);
    if (stages === null) {
      text.textContent = `No answers in the last ${TIMES_MS / 1_000} seconds.`;
      return;
    }
    const captured = this.#rates.perSecond("captured");
    const results = this.#rates.perSecond("results");
    const { bottleneck, sentence } = findBottleneck(stages, captured, results, socketIsFull);
    text.textContent = sentence;
    const total = Object.values(stages).reduce((sum, ms) => sum + ms, 0);
    for (const [name, { segment, entry, value }] of this.#stages) {
      segment.style.flexGrow = String(total > 0 ? stages[name] / total : 0);
      value.textContent = `${stages[name].toFixed(1)} ms`;
      entry.classList.toggle("bottleneck", name === bottleneck);
    }
  }

  /** @param {number} now @param {number} results  Total. */
  #addSecond(now, results) {
    const { at, results: before } = this.#second;
    if (now - at < 1_000) return;
    if (at > 0) {
      const answered = results - before;
      const times = this.#times
        .values(now)
        .slice(-answered)
        .map((each) => each.round_trip_ms);
      const perSecond = (answered * 1_000) / (now - at);
      this.#chart.add({ answers: perSecond, roundTrip: answered > 0 ? quantile(times, 0.5) : null });
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
