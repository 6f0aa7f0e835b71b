/**
 * The client's side of the wire protocol, version 1: writes client messages, reads server messages. No I/O, no clock.
 *
 * @typedef {"image" | "bytes" | "text" | "data"} InputKind
 * @typedef {"latest" | "queue"} Policy
 *
 * @typedef {object} Ready  The first message: the server accepts the stream.
 * @property {"ready"} type
 * @property {string} stream
 * @property {string} model
 * @property {string} version
 * @property {Policy} policy
 * @property {number} window  How many unanswered items to keep in flight.
 * @property {number} max_item_bytes
 * @property {InputKind} input
 *
 * @typedef {object} Result
 * @property {"result"} type
 * @property {number} seq  The item's number in the stream, from 1.
 * @property {string | null} id
 * @property {any} outputs
 * @property {string} model
 * @property {string} version
 * @property {number} age_ms  From receipt to answer, by the server's clock.
 * @property {number} queue_ms  Part of `age_ms`: waiting for a worker.
 * @property {number} infer_ms  Part of `age_ms`: in the worker.
 * @property {number} batch  Number of items in the batch.
 *
 * @typedef {object} Dropped  The item was not processed.
 * @property {"dropped"} type
 * @property {number} seq
 * @property {string | null} id
 * @property {string} reason  "superseded", "expired" or "draining".
 *
 * @typedef {object} ServerError  With `seq`, an item failed and the stream continues; without it, the stream failed.
 * @property {"error"} type
 * @property {number | null} seq
 * @property {string | null} id
 * @property {string} code
 * @property {string} message
 * @property {boolean} retryable
 * @property {number | null} [retry_after_ms]  If the stream failed: the least time before a retry.
 *
 * @typedef {object} Goaway  The server is draining: it still answers for `grace_ms`.
 * @property {"goaway"} type
 * @property {number} grace_ms
 * @property {number} retry_after_ms
 *
 * @typedef {object} End  The last message: the server's counts of the stream.
 * @property {"end"} type
 * @property {number} received
 * @property {number} results
 * @property {number} dropped
 * @property {number} errors
 *
 * @typedef {Ready | Result | Dropped | ServerError | Goaway | End} ServerMessage
 *
 * @typedef {object} Meta  Optional fields of an item.
 * @property {string} [id]  Chosen by the client, 1 to 128 characters.
 * @property {number} [maxAgeMs]  Drop the item when older than this; an integer.
 */

export const SUBPROTOCOL = "stream-inference.v1";

/** Largest window that the server allows. */
export const MAX_WINDOW = 64;

/** The last client message: no more items follow. */
export const END = '{"type":"end"}';

/** The server sent something that violates the protocol. */
export class ProtocolError extends Error {}

/** Required and optional fields by message type. @type {Map<string, [string[], string[]]>} */
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
 * Parse a server message: null for an unknown type; unknown fields are ignored. A newer server may send both.
 *
 * @param {string} text
 * @returns {ServerMessage | null}
 * @throws {ProtocolError} The message is invalid.
 */
export function readServerMessage(text) {
  const message = parseObject(text);
  const known = SERVER_MESSAGES.get(message.type);
  if (known === undefined) return null;
  const [required, optional] = known;
  /** @type {Record<string, unknown>} */
  const fields = { type: message.type };
  for (const name of required) {
    if (!(name in message)) throw new ProtocolError(`invalid ${message.type} message from the server: ${name} is missing`);
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
    throw new ProtocolError(`invalid message from the server: ${text.slice(0, 80)}`);
  }
  return message;
}

/**
 * Write an item for a text or data model.
 *
 * @param {unknown} value  A string for a text model, any JSON value for a data model.
 * @param {"text" | "data"} kind
 * @param {Meta} meta
 */
export function writeItem(value, kind, meta) {
  return JSON.stringify({ type: "item", [kind]: value, ...metaFields(meta) });
}

/** Write the metadata of the next binary message. @param {Meta} meta */
export function writeMeta(meta) {
  return JSON.stringify({ type: "meta", ...metaFields(meta) });
}

/** @param {Meta} meta */
function metaFields({ id, maxAgeMs }) {
  // the server answers invalid metadata without a `seq`, and both sides would then number items differently
  if (id !== undefined && !(typeof id === "string" && id.length >= 1 && id.length <= 128)) {
    throw new TypeError("`id` must be a string of 1 to 128 characters");
  }
  if (maxAgeMs !== undefined && !(Number.isInteger(maxAgeMs) && maxAgeMs >= 1 && maxAgeMs <= 3_600_000)) {
    throw new TypeError("`maxAgeMs` must be an integer from 1 to 3,600,000");
  }
  return { id, max_age_ms: maxAgeMs };
}

/**
 * Write the messages that carry an item.
 *
 * @param {any} item  A string, JSON data or encoded bytes, depending on `ready.input`.
 * @param {Meta} meta
 * @param {Pick<Ready, "input" | "max_item_bytes">} ready
 * @returns {(string | Blob | ArrayBuffer)[]}
 * @throws {TypeError | RangeError} The item has the wrong type, or is too large.
 */
export function writeMessages(item, meta, { input, max_item_bytes }) {
  const binary = item instanceof Blob || item instanceof ArrayBuffer || ArrayBuffer.isView(item);
  let message = item;
  if (input === "text" || input === "data") {
    if (input === "text" ? typeof item !== "string" : binary || item === undefined) {
      throw new TypeError(`this model expects ${input}`);
    }
    message = writeItem(item, input, meta);
  } else if (!binary) {
    throw new TypeError(`this model expects ${input} as a Blob, an ArrayBuffer or a view of one`);
  }
  const bytes = byteSize(message);
  // the server would close the connection, and other unanswered items would be lost
  if (bytes > max_item_bytes) throw new RangeError(`item of ${bytes} bytes exceeds the limit of ${max_item_bytes}`);
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
 * @param {string} base  The server's address: `http:`, `https:`, `ws:` or `wss:`.
 * @param {{model: string, version?: string, policy?: Policy, window?: number, maxAgeMs?: number, weight?: number}} options
 */
export function streamUrl(base, { model, version, policy, window, maxAgeMs, weight }) {
  const url = new URL(base);
  url.protocol = url.protocol.replace("http", "ws");
  const name = encodeURIComponent(model) + (version === undefined ? "" : `/versions/${encodeURIComponent(version)}`);
  url.pathname = `${url.pathname.replace(/\/$/, "")}/v2/models/${name}/stream`;
  url.search = "";
  url.hash = "";
  // the server accepts at most six decimals
  const query = { policy, window, max_age_ms: maxAgeMs, weight: weight && Number(weight.toFixed(6)) };
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined) url.searchParams.set(key, String(value));
  }
  return url.href;
}
