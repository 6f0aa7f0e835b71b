import assert from "node:assert/strict";
import { test } from "node:test";

import { cameraWords, retryWords, streamWords } from "../../web_client/messages.js";

const named = (name) => Object.assign(new Error("details"), { name });
const http = { protocol: "http:", port: "8080" };

for (const [name, words] of [
  ["NotAllowedError", "The camera was refused."],
  ["NotFoundError", "No camera was found."],
  ["OverconstrainedError", "No camera was found."],
  ["NotReadableError", "The camera is in use by another program."],
  ["AbortError", "The camera is in use by another program."],
  ["TypeError", "The camera does not start: details"],
]) {
  test(`${name} in plain words`, () => assert.ok(cameraWords(named(name), http).startsWith(words)));
}

test("a page that may have no camera says where it may", () => {
  assert.match(cameraWords(named("NotSupportedError"), http), /over https, .* http:\/\/localhost:8080\./);
  assert.match(cameraWords(named("NotSupportedError"), { protocol: "http:", port: "" }), /localhost:80\./);
  assert.match(cameraWords(named("NotSupportedError"), { protocol: "https:", port: "" }), /offers no camera/);
});

const state = (name, code, message = "some words") => ({ name, reason: { code, message }, retryAt: 5_000 });

for (const [given, words] of [
  [{ name: "ready", reason: null, retryAt: null }, ""],
  [state("draining", "draining"), "The server is shutting down: it answers what it has and takes nothing new."],
  [state("waiting", "connection_lost"), "The server is gone."],
  [state("waiting", "draining"), "The server is shutting down."],
  [state("waiting", "model_unavailable", "model faces is loading"), "Model faces is loading."],
  [state("waiting", "too_many_streams"), "The server has all the streams it takes."],
  [state("waiting", "overloaded"), "The server has all the streams it takes."],
  [state("waiting", "internal", "it failed!"), "The server ended the stream. It failed!"],
  [state("refused", "unknown_model", "no model 'x'"), "The server refused the stream. No model 'x'."],
]) {
  test(`${given.name} for ${given.reason?.code} in plain words`, () => assert.equal(streamWords(given), words));
}

test("the countdown never goes below nothing", () => {
  assert.equal(retryWords(state("waiting", "draining"), 1_900), "Next try in 4 s.");
  assert.equal(retryWords(state("waiting", "draining"), 6_000), "Next try in 0 s.");
  assert.equal(retryWords({ name: "ready", reason: null, retryAt: null }, 0), "");
});
