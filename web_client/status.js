/** What the server says of itself over plain HTTP: its models and its health, asked for while the page is visible. */

import { SERVER_URL } from "./server_url.js";

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {string | null} version
 * @property {import("./client/protocol.js").InputKind | null} input
 * @property {import("./client/protocol.js").Policy | null} policy
 * @property {number | null} window
 * @property {number | null} max_batch
 * @property {number | null} timeout_ms
 * @property {string} description
 * @property {"ready" | "loading" | "unavailable"} state
 * @property {string | null} reason
 *
 * @typedef {"ready" | "not ready" | "draining" | "gone"} Health
 *
 * @typedef {object} Catalogue
 * @property {Health} health
 * @property {Model[]} models  As last heard of.
 * @property {Map<string, Statistics>} statistics  By model, where they were asked for.
 *
 * @typedef {object} Statistics  What the server counts of a model; ages are of the last half minute to a minute.
 * @property {number} open_streams
 * @property {number} waiting
 * @property {number} running
 * @property {number} results
 * @property {number} errors
 * @property {number} superseded
 * @property {number} expired
 * @property {{count: number, p50: number, p99: number}} age_ms
 */

/** Often enough to see a model come up, seldom enough to cost nothing. */
const PERIOD_MS = 2_000;

/** Longest wait for either answer; a server that is there answers in milliseconds. */
const TIMEOUT_MS = 5_000;

/**
 * @param {(catalogue: Catalogue) => void} onChange  Told each time the server was asked.
 * @param {() => boolean} wantsStatistics  Whether anybody looks at them.
 */
export async function watchCatalogue(onChange, wantsStatistics) {
  /** @type {Model[]} */
  let models = [];
  for (;;) {
    if (document.visibilityState === "visible") {
      const [ready, list] = await Promise.all([ask("v2/health/ready"), ask("v2/models")]);
      models = list?.models ?? models;
      const statistics = await statisticsOf(wantsStatistics() ? models : []);
      onChange({ health: healthOf(ready), models, statistics });
    }
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
}

/** @param {Model[]} models @returns {Promise<Map<string, Statistics>>} */
async function statisticsOf(models) {
  const known = models.filter(({ version }) => version !== null); // what never loaded has counted nothing
  const answers = await Promise.all(known.map(({ name }) => ask(`v2/models/${name}/stats`)));
  return new Map(answers.filter((answer) => answer?.age_ms).map((answer) => [answer.model, answer]));
}

/**
 * The models that a tab offers.
 *
 * @param {Model[]} models
 * @param {import("./client/protocol.js").InputKind[]} kinds
 * @param {string} chosen  Stays on offer while its kind is unknown, because it has not loaded: trying it tells why.
 */
export function namesFor(models, kinds, chosen) {
  const fits = (/** @type {Model} */ { name, input }) => (input === null ? name === chosen : kinds.includes(input));
  return models.filter(fits).map(({ name }) => name);
}

/** @param {string} path @returns {Promise<any>} Null when nobody answers. */
async function ask(path) {
  try {
    const response = await fetch(new URL(path, SERVER_URL), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    return await response.json();
  } catch {
    return null;
  }
}

/** @param {{ready: boolean, draining?: boolean} | null} ready @returns {Health} */
function healthOf(ready) {
  if (ready === null) return "gone";
  if (ready.draining) return "draining";
  return ready.ready ? "ready" : "not ready";
}
