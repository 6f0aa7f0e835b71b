/** The shared conversations, played with the test as the server. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { streamUrl } from "../../web_client/client/protocol.js";
import { READY, RESULT, play, settled } from "./environment.js";

const conversations = JSON.parse(readFileSync(new URL("../vectors/conversations.json", import.meta.url), "utf8"));
const DEFAULTS = { ready: READY, result: RESULT, error: { message: "", retryable: false } };
const END_OF_CLOSE = new Map([
  [1000, "ended"],
  [1013, "waiting"],
]);

function optionsOf(path) {
  const [, model, version, query] = /^\/v2\/models\/([^/]+)(?:\/versions\/([^/]+))?\/stream(?:\?(.*))?$/.exec(path);
  const asked = [...new URLSearchParams(query)].map(([name, value]) => [name, Number(value)]);
  return { model: decodeURIComponent(model), version, ...Object.fromEntries(asked) };
}

/** Whether our client can be brought to say this. */
function sayable(text) {
  try {
    const { type, text: value, id, ...more } = JSON.parse(text);
    return type !== "item" || (typeof value === "string" && Object.keys(more).length === 0);
  } catch {
    return false;
  }
}

class Player {
  meta = {};
  ended = null;
  retryAfter = 0;

  constructor(path) {
    this.world = play(optionsOf(path));
  }

  async send(step) {
    const { stream, socket } = this.world;
    const before = socket.said.length;
    if ("send_base64" in step) {
      const bytes = Buffer.from(step.send_base64, "base64");
      stream.send(bytes, this.meta);
      await settled();
      this.meta = {};
      assert.deepEqual(socket.said.at(-1), bytes);
      return;
    }
    if (!sayable(step.send)) return;
    const message = JSON.parse(step.send);
    if (message.type === "meta") {
      this.meta = { id: message.id, maxAgeMs: message.max_age_ms };
      return;
    }
    if (message.type === "end") this.ended = stream.end();
    else stream.send(message.text, { id: message.id }).catch(() => {});
    await settled();
    // what the model does not take never leaves, so the server need not refuse it
    if (stream.ready?.input !== "text" && message.type === "item") return;
    assert.deepEqual(
      socket.said.slice(before).map((text) => JSON.parse(text)),
      [message],
    );
  }

  async expect(message, absent) {
    const { socket, seen } = this.world;
    const whole = { ...DEFAULTS[message.type], ...message };
    for (const name of absent) delete whole[name];
    this.retryAfter = whole.retry_after_ms ?? 0;
    socket.says(whole);
    await settled();
    if (whole.seq === undefined) return;
    const last = seen.answers.at(-1);
    for (const [name, value] of Object.entries(whole)) assert.deepEqual(last[name], value, name);
    for (const name of absent) assert.equal(last[name], null);
  }

  async close(code) {
    const { socket, stream, clock, sockets } = this.world;
    socket.hangsUp(code);
    await settled();
    assert.equal(stream.state.name, END_OF_CLOSE.get(code) ?? "refused");
    if (stream.state.name === "waiting") {
      await clock.advance(this.retryAfter);
      assert.equal(sockets.length, 1, "not before the time that the server named");
      stream.close();
    }
    if (this.ended) {
      const { sent: received, results, dropped, errors } = stream.counters;
      assert.deepEqual({ type: "end", received, results, dropped, errors }, await this.ended);
    }
    await clock.advance(120_000);
    assert.equal(sockets.length, 1, "no second try");
  }
}

for (const { name, path, steps } of conversations) {
  test(`conversation: ${name}`, async () => {
    const player = new Player(path);
    if (!path.includes("%2f")) {
      const { pathname, search } = player.world.socket.url;
      assert.equal(pathname + search, path);
      assert.equal(player.world.socket.url.href, streamUrl("http://server.test:8080", optionsOf(path)));
    }
    for (const step of steps) {
      if ("expect" in step) await player.expect(step.expect, step.absent ?? []);
      else if ("expect_close" in step) await player.close(step.expect_close);
      else await player.send(step);
    }
  });
}
