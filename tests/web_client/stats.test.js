import assert from "node:assert/strict";
import { test } from "node:test";

import { Rates, Recent, findBottleneck, meanStages, quantile } from "../../web_client/stats.js";

test("rate covers the last seconds only", () => {
  const rates = new Rates(3_000);
  assert.equal(rates.perSecond("sent"), 0);
  for (let second = 0; second <= 10; second++) rates.add(second * 1_000, { sent: second <= 5 ? second * 30 : 150 });
  assert.equal(rates.perSecond("sent"), 0);
  rates.add(11_000, { sent: 159 });
  assert.equal(rates.perSecond("sent"), 3);
  assert.equal(rates.perSecond("lost"), 0);
});

test("recent values are limited by age and by count", () => {
  const recent = new Recent(1_000, 3);
  for (const at of [0, 100, 200, 300]) recent.add(at, at);
  assert.deepEqual(recent.values(300), [100, 200, 300]);
  assert.deepEqual(recent.values(1_200), [200, 300]);
  assert.deepEqual(recent.values(9_000), []);
});

test("quantiles use the nearest rank", () => {
  const values = Array.from({ length: 100 }, (_, n) => 100 - n);
  assert.equal(quantile(values, 0.5), 50);
  assert.equal(quantile(values, 0.99), 99);
  assert.equal(quantile(values, 1), 100);
  assert.equal(quantile([7], 0), 7);
  assert.equal(quantile([], 0.5), null);
});

const times = (fields = {}) => ({
  wait_ms: 5,
  encode_ms: 4,
  round_trip_ms: 20,
  freshness_ms: 29,
  age_ms: 15,
  infer_ms: 12,
  ...fields,
});

test("stages add up to the freshness", () => {
  const stages = meanStages([times(), times({ wait_ms: 7, freshness_ms: 31 })]);
  assert.deepEqual(stages, { wait: 6, encode: 4, network: 5, queue: 3, inference: 12 });
  assert.equal(
    Object.values(stages).reduce((a, b) => a + b),
    30,
  );
  assert.equal(meanStages([]), null);
});

test("there is no bottleneck while frames are answered as they arrive", () => {
  const { bottleneck, sentence } = findBottleneck(meanStages([times()]), 30, 29, false);
  assert.equal(bottleneck, null);
  assert.equal(sentence, "None. Frames are answered as they arrive, 29 ms after capture.");
});

for (const [name, fields, description] of [
  ["encode", { encode_ms: 50 }, "Encoding in this browser"],
  ["network", { round_trip_ms: 80 }, "The network"],
  ["queue", { round_trip_ms: 80, age_ms: 75 }, "The server's queue"],
  ["inference", { round_trip_ms: 80, age_ms: 75, infer_ms: 70 }, "Inference"],
  ["inference", { wait_ms: 90 }, "Inference"],
]) {
  test(`bottleneck is the slowest cause: ${name} with ${JSON.stringify(fields)}`, () => {
    const { bottleneck, sentence } = findBottleneck(meanStages([times(fields)]), 30, 12, false);
    assert.equal(bottleneck, name);
    assert.ok(sentence.startsWith(`${description}: `), sentence);
  });
}

test("bottleneck is the network while the socket does not drain, whatever earlier answers took", () => {
  assert.equal(findBottleneck(meanStages([times()]), 30, 2, true).bottleneck, "network");
});
