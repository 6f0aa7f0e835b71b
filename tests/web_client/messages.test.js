import assert from "node:assert/strict";
import { test } from "node:test";

import { cameraMessage, fileMessage, retryMessage, streamMessage } from "../../web_client/messages.js";

const errorNamed = (name) => Object.assign(new Error("details"), { name });
const http = { protocol: "http:", port: "8080" };

for (const [name, message] of [
  ["NotAllowedError", "Camera access was denied."],
  ["NotFoundError", "No camera found."],
  ["OverconstrainedError", "No camera found."],
  ["NotReadableError", "The camera is in use by another program."],
  ["AbortError", "The camera is in use by another program."],
  ["TypeError", "The camera failed to start: details"],
]) {
  test(`message for ${name} of a camera`, () => assert.ok(cameraMessage(errorNamed(name), http).startsWith(message)));
}

test("message for a file says whether the browser can decode it", () => {
  for (const name of ["NotSupportedError", "InvalidStateError", "EncodingError"]) {
    assert.match(fileMessage(errorNamed(name)), /cannot show that file/);
  }
  assert.equal(fileMessage(errorNamed("TypeError")), "The source failed: details");
});

test("page without camera access says where there is access", () => {
  const messageAt = (location) => cameraMessage(errorNamed("NotSupportedError"), location);
  assert.match(messageAt(http), /over https, .* http:\/\/localhost:8080\./);
  assert.match(messageAt({ protocol: "http:", port: "" }), /localhost:80\./);
  assert.match(messageAt({ protocol: "https:", port: "" }), /does not support cameras/);
});

const state = (name, code, message = "details") => ({ name, reason: { code, message }, retryAt: 5_000 });

for (const [given, message] of [
  [{ name: "ready", reason: null, retryAt: null }, ""],
  [state("draining", "draining"), "The server is shutting down. It answers accepted items and takes no new ones."],
  [state("waiting", "connection_lost"), "The server cannot be reached."],
  [state("waiting", "draining"), "The server is shutting down."],
  [state("waiting", "model_unavailable", "model faces is loading"), "Model faces is loading."],
  [state("waiting", "too_many_streams"), "The server is at capacity."],
  [state("waiting", "overloaded"), "The server is at capacity."],
  [state("waiting", "internal", "it failed!"), "The server ended the stream. It failed!"],
  [state("refused", "unknown_model", "no model 'x'"), "The server refused the stream. No model 'x'."],
]) {
  test(`message for state ${given.name} with reason ${given.reason?.code}`, () => {
    assert.equal(streamMessage(given), message);
  });
}

test("countdown never goes below zero", () => {
  assert.equal(retryMessage(state("waiting", "draining"), 1_900), "Retrying in 4 s.");
  assert.equal(retryMessage(state("waiting", "draining"), 6_000), "Retrying in 0 s.");
  assert.equal(retryMessage({ name: "ready", reason: null, retryAt: null }, 0), "");
});
