/** The Models tab: what the server serves, and how it fares. */

import { find, make } from "./document.js";

/** @typedef {import("./catalogue.js").Model} Model */

/** @param {import("./catalogue.js").Catalogue} catalogue */
export function showModels({ health, models }) {
  find("model-rows", HTMLTableSectionElement).replaceChildren(...models.map(row));
  find("models-words", HTMLElement).textContent =
    health === "gone" ? "The server does not answer; this is what it said last." : "";
}

/** @param {Model} model */
function row(model) {
  const name = make("th", { scope: "row" }, make("span", { class: "name" }, model.name));
  if (model.description) name.append(make("small", {}, model.description));
  const state = make("span", { class: "state", "data-state": model.state }, model.state);
  /** @type {unknown[][]} */
  const cells = [
    ["State", state, model.reason ?? ""],
    ["Version", model.version],
    ["Input", model.input],
  ];
  cells.push(
    ["Policy", model.policy],
    ["Window", model.window],
    ["Batch", model.max_batch && `up to ${model.max_batch}`],
  );
  cells.push(["Timeout", model.timeout_ms && `${model.timeout_ms / 1_000} s`]);
  return make("tr", { "data-model": model.name }, name, ...cells.map(cell));
}

/** @param {unknown[]} cell */
function cell([label, value, more]) {
  const content = value instanceof Node ? value : String(value ?? "–");
  const element = make("td", { "data-label": String(label) }, content);
  if (more) element.append(make("small", {}, String(more)));
  return element;
}
