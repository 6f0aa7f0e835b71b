import assert from "node:assert/strict";
import { test } from "node:test";

import { readClassification, readDetections } from "../../web_client/outputs.js";

const FACE = { box: [1, 2, 3, 4], score: 0.9, landmarks: [[5, 6]] };

/** @param {unknown[]} faces */
const detections = (...faces) => ({ faces, width: 640, height: 480 });

test("faces are read", () => {
  assert.deepEqual(readDetections({ ...detections(FACE), more: 1 }), detections(FACE));
  assert.deepEqual(readDetections(detections()), detections());
});

test("landmark that is not a point is left out", () => {
  for (const landmark of [null, 5, "5, 6", [], [5], [5, 6, 7], [5, null], ["5", "6"], { x: 5, y: 6 }, [5, Infinity]]) {
    const face = { ...FACE, landmarks: [landmark, [5, 6]] };
    assert.deepEqual(readDetections(detections(face)), detections(FACE), JSON.stringify(landmark));
  }
  for (const landmarks of [undefined, null, 5, "five", {}]) {
    assert.deepEqual(readDetections(detections({ ...FACE, landmarks }))?.faces[0]?.landmarks, []);
  }
});

test("score that is not a number is left out", () => {
  for (const score of [undefined, null, "0.9", NaN, [0.9]]) {
    assert.equal(readDetections(detections({ ...FACE, score }))?.faces[0]?.score, null);
  }
});

test("other outputs are not faces", () => {
  for (const face of [null, 5, "face", [], {}, { box: null }, { box: 5 }, { box: [1, 2, 3] }, { box: [1, 2, 3, "4"] }]) {
    assert.equal(readDetections(detections(FACE, face)), null, JSON.stringify(face));
  }
  for (const size of [undefined, null, 0, -1, "640", NaN, Infinity]) {
    assert.equal(readDetections({ ...detections(FACE), width: size }), null);
    assert.equal(readDetections({ ...detections(FACE), height: size }), null);
  }
  for (const outputs of [undefined, null, 5, "faces", [], {}, { faces: null }, { faces: 2 }, { faces: { 0: FACE } }]) {
    assert.equal(readDetections(outputs), null, JSON.stringify(outputs));
  }
});

test("classification is read", () => {
  assert.deepEqual(readClassification({ label: "spam", scores: { spam: 1, ham: 0 } }), {
    label: "spam",
    scores: { spam: 1, ham: 0 },
  });
  assert.deepEqual(readClassification({ label: "", scores: {} }), { label: "", scores: {} });
});

test("other outputs are not a classification", () => {
  for (const scores of [undefined, null, 1, "high", [1], { spam: null }, { spam: "1" }, { spam: {} }, { spam: Infinity }]) {
    assert.equal(readClassification({ label: "spam", scores }), null, JSON.stringify(scores));
  }
  for (const outputs of [undefined, null, 5, "spam", [], {}, { label: 1, scores: {} }, { scores: {} }]) {
    assert.equal(readClassification(outputs), null, JSON.stringify(outputs));
  }
});
