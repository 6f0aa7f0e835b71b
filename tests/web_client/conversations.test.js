/** Replays the shared conversations with the test as the server. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { streamUrl } from "../../web_client/client/protocol.js";
import { READY, RESULT, flush, openStream } from "./environment.js";

const conversations = JSON.parse(readFileSync(new URL("../vectors/conversations.json", import.meta.url), "utf8"));
const DEFAULTS = { ready: READY, result: RESULT, error: { message: "", retryable: false } };
const STATE_AFTER_CLOSE = new Map([
  [1000, "ended"],
  [1013, "waiting"],
]);

function optionsOf(path) {
  const [, model, version, query] = /^\/v2\/models\/([^/]+)(?:\/versions\/([^/]+))?\/stream(?:\?(.*))?$/.exec(path);
  const options = [...new URLSearchParams(query)].map(([name, value]) => [name, Number(value)]);
  return { model: decodeURIComponent(model), version, ...Object.fromEntries(options) };
}

/** Whether this client can send the message: it never sends invalid ones. */
function isSendable(text) {
  try {
    const { type, text: value, id, ...others } = JSON.parse(text);
    return type !== "item" || (typeof value === "string" && Object.keys(others).length === 0);
  } catch {
    return false;
  }
}

class Player {
  meta = {};
  ended = null;
  retryAfter = 0;

  constructor(path) {
    this.opened = openStream(optionsOf(path));
  }

  async send(step) {
    const { stream, socket } = this.opened;
    const before = socket.sent.length;
    if ("send_base64" in step) {
      const bytes = Buffer.from(step.send_base64, "base64");
      stream.send(bytes, this.meta);
      await flush();
      this.meta = {};
      assert.deepEqual(socket.sent.at(-1), bytes);
      return;
    }
    if (!isSendable(step.send)) return;
    const message = JSON.parse(step.send);
    if (message.type === "meta") {
      this.meta = { id: message.id, maxAgeMs: message.max_age_ms };
      return;
    }
    if (message.type === "end") this.ended = stream.end();
    else stream.send(message.text, { id: message.id }).catch(() => {});
    await flush();
    // the client does not send an item of the wrong kind
    if (stream.ready?.input !== "text" && message.type === "item") return;
    assert.deepEqual(
      socket.sent.slice(before).map((text) => JSON.parse(text)),
      [message],
    );
  }

  async expect(message, absent) {
    const { socket, seen } = this.opened;
    const complete = { ...DEFAULTS[message.type], ...message };
    for (const name of absent) delete complete[name];
    this.retryAfter = complete.retry_after_ms ?? 0;
    socket.serverSends(complete);
    await flush();
    if (complete.seq === undefined) return;
    const last = seen.answers.at(-1);
    for (const [name, value] of Object.entries(complete)) assert.deepEqual(last[name], value, name);
    for (const name of absent) assert.equal(last[name], null);
  }

  async close(code) {
    const { socket, stream, clock, sockets } = this.opened;
    socket.serverCloses(code);
    await flush();
    assert.equal(stream.state.name, STATE_AFTER_CLOSE.get(code) ?? "refused");
    if (stream.state.name === "waiting") {
      await clock.advance(this.retryAfter);
      assert.equal(sockets.length, 1, "no retry before retry_after_ms");
      stream.close();
    }
    if (this.ended) {
      const { sent: received, results, dropped, errors } = stream.counters;
      assert.deepEqual({ type: "end", received, results, dropped, errors }, await this.ended);
    }
    await clock.advance(120_000);
    assert.equal(sockets.length, 1, "no retry");
  }
}

for (const { name, path, steps } of conversations) {
  test(`conversation: ${name}`, async () => {
    const player = new Player(path);
    if (!path.includes("%2f")) {
      const { pathname, search } = player.opened.socket.url;
      assert.equal(pathname + search, path);
      assert.equal(player.opened.socket.url.href, streamUrl("http://server.test:8080", optionsOf(path)));
    }
    for (const step of steps) {
      if ("expect" in step) await player.expect(step.expect, step.absent ?? []);
      else if ("expect_close" in step) await player.close(step.expect_close);
      else await player.send(step);
    }
  });
}
