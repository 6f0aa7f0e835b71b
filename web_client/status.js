/** The server's health and models, polled over HTTP while the page is visible. */

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
 * @typedef {"ready" | "not ready" | "draining" | "unreachable"} Health
 *
 * @typedef {object} ServerStatus
 * @property {Health} health
 * @property {Model[]} models  As of the last response.
 * @property {Map<string, ModelStats>} stats  By model; empty unless requested.
 *
 * @typedef {object} ModelStats  The server's counters of a model; ages cover the last 30 to 60 seconds.
 * @property {number} open_streams
 * @property {number} waiting
 * @property {number} running
 * @property {number} results
 * @property {number} errors
 * @property {number} superseded
 * @property {number} expired
 * @property {{count: number, p50: number, p99: number}} age_ms
 */

/** Short enough to see a model become ready, long enough that the load does not matter. */
const PERIOD_MS = 2_000;

/** Longest wait for a response, which usually takes milliseconds. */
const TIMEOUT_MS = 5_000;

/**
 * @param {(status: ServerStatus) => void} onStatus  Called after each poll.
 * @param {() => boolean} wantsStats  Whether to request the models' stats too.
 */
export async function watchStatus(onStatus, wantsStats) {
  /** @type {Model[]} */
  let models = [];
  for (;;) {
    if (document.visibilityState === "visible") {
      const [ready, list] = await Promise.all([getJson("v2/health/ready"), getJson("v2/models")]);
      models = list?.models ?? models;
      const stats = await statsOf(wantsStats() ? models : []);
      onStatus({ health: healthOf(ready), models, stats });
    }
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
}

/** @param {Model[]} models @returns {Promise<Map<string, ModelStats>>} */
async function statsOf(models) {
  const loaded = models.filter(({ version }) => version !== null); // others have no stats
  const answers = await Promise.all(loaded.map(({ name }) => getJson(`v2/models/${name}/stats`)));
  return new Map(answers.filter((answer) => answer?.age_ms).map((answer) => [answer.model, answer]));
}

/**
 * The names of the models that a tab can use.
 *
 * @param {Model[]} models
 * @param {import("./client/protocol.js").InputKind[]} kinds
 * @param {string} selected  Kept while its input kind is unknown because it has not loaded: the stream reports why.
 */
export function modelNames(models, kinds, selected) {
  const fits = (/** @type {Model} */ { name, input }) => (input === null ? name === selected : kinds.includes(input));
  return models.filter(fits).map(({ name }) => name);
}

/** @param {string} path @returns {Promise<any>} Null if the request failed. */
async function getJson(path) {
  try {
    const options = /** @type {const} */ ({ cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    const response = await fetch(new URL(path, SERVER_URL), options);
    return await response.json();
  } catch {
    return null;
  }
}

/** @param {{ready: boolean, draining?: boolean} | null} ready @returns {Health} */
function healthOf(ready) {
  if (ready === null) return "unreachable";
  if (ready.draining) return "draining";
  return ready.ready ? "ready" : "not ready";
}
