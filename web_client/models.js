/** The Models tab: what the server serves, and how it fares. */

import { find, make } from "./dom.js";

/** @typedef {import("./status.js").Model} Model */

/** @param {import("./status.js").Catalogue} catalogue */
export function showModels({ health, models, statistics }) {
  const rows = models.map((model) => row(model, statistics.get(model.name)));
  find("model-rows", HTMLTableSectionElement).replaceChildren(...rows);
  find("models-words", HTMLElement).textContent =
    health === "gone" ? "The server does not answer; this is what it said last." : "";
}

/** @param {Model} model @param {import("./status.js").Statistics | undefined} known */
function row(model, known) {
  const name = make("th", { scope: "row" }, make("span", { class: "name" }, model.name));
  if (model.description) name.append(make("small", {}, model.description));
  const state = make("span", { class: "state", "data-state": model.state }, model.state);
  /** @type {unknown[][]} */
  const cells = [
    ["State", state, model.reason ?? ""],
    ["Version", model.version],
    ["Input", model.input, model.policy && `${model.policy}, window ${model.window}`],
    ["Batch", model.max_batch && `up to ${model.max_batch}`, model.timeout_ms && `${model.timeout_ms / 1_000} s at most`],
    ["Streams", known?.open_streams, known && `${known.running} run, ${known.waiting} wait`],
    ["Answered", known?.results.toLocaleString("en"), known && lost(known)],
    ["Age", ...(known?.age_ms.count ? [ms(known.age_ms.p50), `p99 ${ms(known.age_ms.p99)}`] : [])],
  ];
  return make("tr", { "data-model": model.name }, name, ...cells.map(cell));
}

/** @param {import("./status.js").Statistics} known */
function lost({ superseded, expired, errors }) {
  const dropped = superseded + expired;
  return `${dropped.toLocaleString("en")} dropped, ${errors.toLocaleString("en")} errors`;
}

/** @param {number} milliseconds */
function ms(milliseconds) {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

/** @param {unknown[]} cell */
function cell([label, value, more]) {
  const content = value instanceof Node ? value : String(value ?? "–");
  const element = make("td", { "data-label": String(label) }, content);
  if (more) element.append(make("small", {}, String(more)));
  return element;
}
