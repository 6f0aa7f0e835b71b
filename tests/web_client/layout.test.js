import assert from "node:assert/strict";
import { test } from "node:test";

import { fit, frameSize, pointMapper } from "../../web_client/layout.js";

test("picture is as large as fits, and centred", () => {
  assert.deepEqual(fit(800, 400, 640, 480), { x: (800 - (640 * 400) / 480) / 2, y: 0, scale: 400 / 480 });
  assert.deepEqual(fit(320, 480, 640, 480), { x: 0, y: 120, scale: 0.5 });
});

test("points are mapped with the picture, mirrored or not", () => {
  const place = fit(320, 480, 640, 480);
  assert.deepEqual(pointMapper(place, 640, false)(100, 40), [50, 140]);
  assert.deepEqual(pointMapper(place, 640, true)(100, 40), [270, 140]);
});

test("frame is never enlarged and never has zero height", () => {
  assert.deepEqual(frameSize(1280, 720, 640), { width: 640, height: 360 });
  assert.deepEqual(frameSize(300, 200, 640), { width: 300, height: 200 });
  assert.deepEqual(frameSize(5_000, 1, 320), { width: 320, height: 1 });
});
