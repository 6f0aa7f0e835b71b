import assert from "node:assert/strict";
import { test } from "node:test";

import { Rates, Recent, holdUp, quantile, stagesOf } from "../../web_client/stats.js";

test("a rate spans the last seconds and no more", () => {
  const rates = new Rates(3_000);
  assert.equal(rates.perSecond("sent"), 0);
  for (let second = 0; second <= 10; second++) rates.add(second * 1_000, { sent: second <= 5 ? second * 30 : 150 });
  assert.equal(rates.perSecond("sent"), 0);
  rates.add(11_000, { sent: 159 });
  assert.equal(rates.perSecond("sent"), 3);
  assert.equal(rates.perSecond("lost"), 0);
});

test("recent values leave by age and by number", () => {
  const recent = new Recent(1_000, 3);
  for (const at of [0, 100, 200, 300]) recent.add(at, at);
  assert.deepEqual(recent.values(300), [100, 200, 300]);
  assert.deepEqual(recent.values(1_200), [200, 300]);
  assert.deepEqual(recent.values(9_000), []);
});

test("quantiles are by nearest rank", () => {
  const values = Array.from({ length: 100 }, (_, n) => 100 - n);
  assert.equal(quantile(values, 0.5), 50);
  assert.equal(quantile(values, 0.99), 99);
  assert.equal(quantile(values, 1), 100);
  assert.equal(quantile([7], 0), 7);
  assert.equal(quantile([], 0.5), null);
});

const times = (about = {}) => ({
  turn_ms: 5,
  encode_ms: 4,
  round_trip_ms: 20,
  freshness_ms: 29,
  age_ms: 15,
  infer_ms: 12,
  ...about,
});

test("the stages add up to the freshness", () => {
  const stages = stagesOf([times(), times({ turn_ms: 7, freshness_ms: 31 })]);
  assert.deepEqual(stages, { turn: 6, encode: 4, network: 5, queue: 3, inference: 12 });
  assert.equal(
    Object.values(stages).reduce((a, b) => a + b),
    30,
  );
  assert.equal(stagesOf([]), null);
});

test("nothing holds things up while frames are answered as they come", () => {
  const { culprit, sentence } = holdUp(stagesOf([times()]), 30, 29, false);
  assert.equal(culprit, null);
  assert.equal(sentence, "Nothing holds things up: frames are answered as they come, 29 ms after capture.");
});

for (const [name, about, subject] of [
  ["encode", { encode_ms: 50 }, "This browser, encoding frames,"],
  ["network", { round_trip_ms: 80 }, "The network"],
  ["queue", { round_trip_ms: 80, age_ms: 75 }, "The server's queue"],
  ["inference", { round_trip_ms: 80, age_ms: 75, infer_ms: 70 }, "Inference"],
  ["inference", { turn_ms: 90 }, "Inference"],
]) {
  test(`the slowest of the causes is to blame: ${name} where ${JSON.stringify(about)}`, () => {
    const { culprit, sentence } = holdUp(stagesOf([times(about)]), 30, 12, false);
    assert.equal(culprit, name);
    assert.ok(sentence.startsWith(`${subject} holds things up: `), sentence);
  });
}

test("a socket that does not drain is the network's, whatever the answers before it took", () => {
  assert.equal(holdUp(stagesOf([times()]), 30, 2, true).culprit, "network");
});
