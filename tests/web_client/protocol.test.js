import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ProtocolError, readServerMessage, streamUrl, writeMessages } from "../../web_client/client/protocol.js";

const vectors = JSON.parse(readFileSync(new URL("../vectors/server_messages.json", import.meta.url), "utf8"));
const items = JSON.parse(readFileSync(new URL("../vectors/client_messages.json", import.meta.url), "utf8"));

for (const { name, text, reads, fails } of vectors) {
  test(`server message: ${name}`, () => {
    if (fails) assert.throws(() => readServerMessage(text), ProtocolError);
    else assert.deepEqual(readServerMessage(text), reads);
  });
}

const LIMITS = { max_item_bytes: 1_000 };

for (const { name, input, text, reads } of items) {
  const { type, id, max_age_ms: maxAgeMs, ...body } = reads ? JSON.parse(text) : {};
  if (type !== "item") continue;
  test(`client message: ${name}`, () => {
    const [written] = writeMessages(body[input], { id, maxAgeMs }, { input, ...LIMITS });
    assert.deepEqual(JSON.parse(written), JSON.parse(text));
  });
}

test("frame is sent unchanged, after its metadata if there is any", () => {
  const frame = new Uint8Array([1, 2]);
  const ready = { input: "image", ...LIMITS };
  assert.deepEqual(writeMessages(frame, {}, ready), [frame]);
  const [meta, bytes] = writeMessages(frame, { id: "f1", maxAgeMs: 100 }, ready);
  assert.deepEqual(JSON.parse(meta), { type: "meta", id: "f1", max_age_ms: 100 });
  assert.equal(bytes, frame);
});

test("invalid item or metadata is an error", () => {
  const bytes = new ArrayBuffer(2);
  for (const [item, input] of [
    ["a", "image"],
    [bytes, "text"],
    [5, "text"],
    [bytes, "data"],
    [undefined, "data"],
  ]) {
    assert.throws(() => writeMessages(item, {}, { input, ...LIMITS }), TypeError);
  }
  for (const [item, input] of [
    [new Uint8Array(1_001), "image"],
    [new Blob(["x".repeat(1_001)]), "bytes"],
    ["ü".repeat(500), "text"],
  ]) {
    assert.throws(() => writeMessages(item, {}, { input, ...LIMITS }), RangeError);
  }
  for (const meta of [
    { id: "" },
    { id: "x".repeat(129) },
    { id: 5 },
    { maxAgeMs: 0 },
    { maxAgeMs: 1.5 },
    { maxAgeMs: 3_600_001 },
  ]) {
    assert.throws(() => writeMessages(bytes, meta, { input: "image", ...LIMITS }), TypeError);
  }
});

test("URL of a stream has the server's path, the model and the options", () => {
  assert.equal(streamUrl("http://h:1", { model: "faces" }), "ws://h:1/v2/models/faces/stream");
  assert.equal(
    streamUrl("https://h/under/?x=1#y", { model: "m", version: "2", policy: "latest", window: 4, maxAgeMs: 9 }),
    "wss://h/under/v2/models/m/versions/2/stream?policy=latest&window=4&max_age_ms=9",
  );
  assert.equal(streamUrl("ws://h", { model: "a/../b" }), "ws://h/v2/models/a%2F..%2Fb/stream");
  const written = (weight) => new URL(streamUrl("ws://h", { model: "m", weight })).searchParams.get("weight");
  assert.deepEqual([1, 0.0390625, 1 / 3, 0, NaN].map(written), ["1", "0.039063", "0.333333", "0", "NaN"]);
});
