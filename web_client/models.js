/** The Models tab: the server's models with their state and stats. */

import { find, make } from "./dom.js";

/** @typedef {import("./status.js").Model} Model */

/** @param {import("./status.js").ServerStatus} status */
export function showModels({ health, models, stats }) {
  const rows = models.map((model) => row(model, stats.get(model.name)));
  find("model-rows", HTMLTableSectionElement).replaceChildren(...rows);
  find("models-message", HTMLElement).textContent =
    health === "unreachable" ? "The server cannot be reached. This is its last known state." : "";
}

/** @param {Model} model @param {import("./status.js").ModelStats | undefined} stats */
function row(model, stats) {
  const name = make("th", { scope: "row" }, make("span", { class: "name" }, model.name));
  if (model.description) name.append(make("small", {}, model.description));
  const state = make("span", { class: "state", "data-state": model.state }, model.state);
  /** @type {unknown[][]} */
  const cells = [
    ["State", state, model.reason ?? ""],
    ["Version", model.version],
    ["Input", model.input, model.policy && `${model.policy}, window ${model.window}`],
    ["Batch", model.max_batch && `up to ${model.max_batch}`, model.timeout_ms && `timeout ${model.timeout_ms / 1_000} s`],
    ["Streams", stats?.open_streams, stats && `${stats.running} running, ${stats.waiting} waiting`],
    ["Answered", stats?.results.toLocaleString("en"), stats && failures(stats)],
    ["Age", ...(stats?.age_ms.count ? [ms(stats.age_ms.p50), `p99 ${ms(stats.age_ms.p99)}`] : [])],
  ];
  return make("tr", { "data-model": model.name }, name, ...cells.map(cell));
}

/** @param {import("./status.js").ModelStats} stats */
function failures({ superseded, expired, errors }) {
  const dropped = superseded + expired;
  return `${dropped.toLocaleString("en")} dropped, ${errors.toLocaleString("en")} errors`;
}

/** @param {number} milliseconds */
function ms(milliseconds) {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

/** @param {unknown[]} cell  Label, value and an optional second line. */
function cell([label, value, details]) {
  const content = value instanceof Node ? value : String(value ?? "–");
  const element = make("td", { "data-label": String(label) }, content);
  if (details) element.append(make("small", {}, String(details)));
  return element;
}
