/**
 * The client's end of the wire protocol, version 1: what it writes and the typed messages it reads. No I/O, no clock.
 *
 * @typedef {"image" | "bytes" | "text" | "data"} InputKind
 * @typedef {"latest" | "queue"} Policy
 *
 * @typedef {object} Ready  The server serves this stream; the first message.
 * @property {"ready"} type
 * @property {string} stream
 * @property {string} model
 * @property {string} version
 * @property {Policy} policy
 * @property {number} window  How many unanswered items to keep in flight.
 * @property {number} max_item_bytes
 * @property {InputKind} input
 *
 * @typedef {object} Result  An item's answer.
 * @property {"result"} type
 * @property {number} seq  The item's place in the stream, from 1.
 * @property {string | null} id
 * @property {any} outputs
 * @property {string} model
 * @property {string} version
 * @property {number} age_ms  From receipt to answer, by the server's clock.
 * @property {number} queue_ms  Of these, waiting for a worker.
 * @property {number} infer_ms  Of these, in the worker.
 * @property {number} batch  How many items were answered together.
 *
 * @typedef {object} Dropped  An item that nobody started on.
 * @property {"dropped"} type
 * @property {number} seq
 * @property {string | null} id
 * @property {string} reason  "superseded", "expired" or "draining".
 *
 * @typedef {object} ServerError  Of the item `seq`, and the stream lives on; or, without one, of the stream itself.
 * @property {"error"} type
 * @property {number | null} seq
 * @property {string | null} id
 * @property {string} code
 * @property {string} message
 * @property {boolean} retryable
 * @property {number | null} [retry_after_ms]  Of the stream: how long the server asks to be left alone first.
 *
 * @typedef {object} Goaway  The server drains: answers still come for `grace_ms`.
 * @property {"goaway"} type
 * @property {number} grace_ms
 * @property {number} retry_after_ms
 *
 * @typedef {object} End  The last message: the server's own count of the stream.
 * @property {"end"} type
 * @property {number} received
 * @property {number} results
 * @property {number} dropped
 * @property {number} errors
 *
 * @typedef {Ready | Result | Dropped | ServerError | Goaway | End} ServerMessage
 *
 * @typedef {object} Meta  Describes an item.
 * @property {string} [id]  The client's own name for it, 1 to 128 characters.
 * @property {number} [maxAgeMs]  Drop it when it has become older than this, a whole number.
 */

export const SUBPROTOCOL = "stream-inference.v1";

/** Most unanswered items of one stream, as the server bounds it. */
export const MAX_WINDOW = 64;

/** What says that no more items come. */
export const END = '{"type":"end"}';

/** Someone who is no such server answered. */
export class ProtocolError extends Error {}

/** Per type: the fields that must be there, and those that may be missing. @type {Map<string, [string[], string[]]>} */
const SERVER_MESSAGES = new Map([
  ["ready", [["stream", "model", "version", "policy", "window", "max_item_bytes", "input"], []]],
  ["result", [["seq", "outputs", "model", "version", "age_ms", "queue_ms", "infer_ms", "batch"], ["id"]]],
  ["dropped", [["seq", "reason"], ["id"]]],
  [
    "error",
    [
      ["code", "message", "retryable"],
      ["seq", "id", "retry_after_ms"],
    ],
  ],
  ["goaway", [["grace_ms", "retry_after_ms"], []]],
  ["end", [["received", "results", "dropped", "errors"], []]],
]);

/**
 * Read what a server says; null for a type of a later version. Unknown fields are ignored.
 *
 * @param {string} text
 * @returns {ServerMessage | null}
 * @throws {ProtocolError} It is no message of the protocol.
 */
export function readServerMessage(text) {
  const message = parseObject(text);
  const known = SERVER_MESSAGES.get(message.type);
  if (known === undefined) return null;
  const [required, optional] = known;
  /** @type {Record<string, unknown>} */
  const fields = { type: message.type };
  for (const name of required) {
    if (!(name in message)) throw new ProtocolError(`the server sent a ${message.type} without ${name}`);
    fields[name] = message[name];
  }
  for (const name of optional) fields[name] = message[name] ?? null;
  return /** @type {ServerMessage} */ (/** @type {unknown} */ (fields));
}

/** @param {string} text @returns {Record<string, any> & {type: string}} */
function parseObject(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    message = null;
  }
  if (typeof message?.type !== "string") {
    throw new ProtocolError(`the server sent what is no message of ${SUBPROTOCOL}: ${text.slice(0, 80)}`);
  }
  return message;
}

/**
 * Write an item for a text or data model.
 *
 * @param {unknown} value  A string for a text model, anything JSON can hold for a data model.
 * @param {"text" | "data"} kind
 * @param {Meta} meta
 */
export function writeItem(value, kind, meta) {
  return JSON.stringify({ type: "item", [kind]: value, ...metaFields(meta) });
}

/** Write what describes the next binary message. @param {Meta} meta */
export function writeMeta(meta) {
  return JSON.stringify({ type: "meta", ...metaFields(meta) });
}

/** @param {Meta} meta */
function metaFields({ id, maxAgeMs }) {
  // the server answers a bad one without a `seq`, after which the two ends would count items differently
  if (id !== undefined && !(typeof id === "string" && id.length >= 1 && id.length <= 128)) {
    throw new TypeError("`id` must be a string of 1 to 128 characters");
  }
  if (maxAgeMs !== undefined && !(Number.isInteger(maxAgeMs) && maxAgeMs >= 1 && maxAgeMs <= 3_600_000)) {
    throw new TypeError("`maxAgeMs` must be a whole number from 1 to 3,600,000");
  }
  return { id, max_age_ms: maxAgeMs };
}

/**
 * Write the messages that carry an item.
 *
 * @param {any} item  As `ready.input` says: a string, JSON data, or the encoded bytes.
 * @param {Meta} meta
 * @param {Pick<Ready, "input" | "max_item_bytes">} ready
 * @returns {(string | Blob | ArrayBuffer)[]}
 * @throws {TypeError | RangeError} This stream takes no such item, or none so large.
 */
export function writeMessages(item, meta, { input, max_item_bytes }) {
  const binary = item instanceof Blob || item instanceof ArrayBuffer || ArrayBuffer.isView(item);
  let message = item;
  if (input === "text" || input === "data") {
    if (input === "text" ? typeof item !== "string" : binary || item === undefined) {
      throw new TypeError(`this model takes ${input}`);
    }
    message = writeItem(item, input, meta);
  } else if (!binary) {
    throw new TypeError(`this model takes ${input} as a Blob, an ArrayBuffer or a view of one`);
  }
  const bytes = byteSize(message);
  // the server would close the connection, and the other items would be lost with it
  if (bytes > max_item_bytes)
    throw new RangeError(`the item has ${bytes} bytes, and this server takes ${max_item_bytes}`);
  const described = meta.id !== undefined || meta.maxAgeMs !== undefined;
  return binary && described ? [writeMeta(meta), message] : [message];
}

/** @param {string | Blob | ArrayBuffer | ArrayBufferView} message */
function byteSize(message) {
  if (typeof message === "string") return new TextEncoder().encode(message).length;
  return message instanceof Blob ? message.size : message.byteLength;
}

/**
 * The websocket address of a stream.
 *
 * @param {string} base  Where the server is: `http:`, `https:`, `ws:` or `wss:`.
 * @param {{model: string, version?: string, policy?: Policy, window?: number, maxAgeMs?: number, weight?: number}} asked
 */
export function streamUrl(base, { model, version, policy, window, maxAgeMs, weight }) {
  const url = new URL(base);
  url.protocol = url.protocol.replace("http", "ws");
  const name = encodeURIComponent(model) + (version === undefined ? "" : `/versions/${encodeURIComponent(version)}`);
  url.pathname = `${url.pathname.replace(/\/$/, "")}/v2/models/${name}/stream`;
  url.search = "";
  url.hash = "";
  // the server reads no more digits of a weight
  const options = { policy, window, max_age_ms: maxAgeMs, weight: weight && Number(weight.toFixed(6)) };
  for (const [key, value] of Object.entries(options)) {
    if (value !== undefined) url.searchParams.set(key, String(value));
  }
  return url.href;
}
