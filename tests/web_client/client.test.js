import assert from "node:assert/strict";
import { test } from "node:test";

import { StreamClosed, TooManyWaiting } from "../../web_client/client/client.js";
import { flush, openStream } from "./environment.js";

const frame = (n) => new Uint8Array([n]);
const texts = (socket) => socket.sent.map((text) => JSON.parse(text).text);

function openTextStream(options = {}) {
  const opened = openStream(options);
  opened.socket.ready({ input: "text", policy: "queue", window: 2 });
  return opened;
}

test("connects with the subprotocol and the options in the URL", () => {
  const { socket } = openStream({ model: "faces", version: "2", policy: "latest", window: 3, maxAgeMs: 500 });
  assert.equal(socket.protocol, "stream-inference.v1");
  assert.equal(
    socket.url.href,
    "ws://server.test:8080/v2/models/faces/versions/2/stream?policy=latest&window=3&max_age_ms=500",
  );
});

test("sends nothing before the server is ready", async () => {
  const { stream, socket, seen } = openStream();
  stream.offer(frame(1));
  assert.deepEqual(socket.sent, []);
  socket.ready();
  assert.deepEqual(socket.sent, [frame(1)]);
  await flush();
  assert.equal(seen.readies[0].stream, "s1");
  assert.deepEqual(seen.states, ["connecting", "ready"]);
});

test("newer frame replaces one that waits for the window", async () => {
  const { stream, socket } = openStream();
  socket.ready();
  const answers = [1, 2, 3].map((n) => stream.offer(frame(n)));
  assert.deepEqual(socket.sent, [frame(1)]);
  assert.equal(await answers[1], null);
  socket.result(1);
  assert.deepEqual(socket.sent, [frame(1), frame(3)]);
  socket.result(2);
  assert.equal((await answers[2]).seq, 2);
  const { offered, sent, replaced, results } = stream.counters;
  assert.deepEqual({ offered, sent, replaced, results }, { offered: 3, sent: 2, replaced: 1, results: 2 });
});

test("window limits unanswered items", () => {
  const { stream, socket } = openStream({ window: 3 });
  socket.ready({ window: 3 });
  for (const n of [1, 2, 3, 4, 5]) stream.offer(frame(n));
  assert.deepEqual(socket.sent, [frame(1), frame(2), frame(3)]);
});

test("`maxUnanswered` overrides the window, so that the server supersedes", async () => {
  const { stream, socket } = openStream({ maxUnanswered: 3 });
  socket.ready();
  for (const n of [1, 2, 3, 4]) stream.offer(frame(n));
  assert.equal(stream.counters.unanswered, 3);
  socket.result(1);
  socket.serverSends({ type: "dropped", seq: 2, reason: "superseded" });
  assert.equal(stream.counters.droppedBy.superseded, 1);
});

test("frame is encoded only when it can be sent", async () => {
  const { stream, socket } = openStream();
  const encoded = [];
  const encode = (n) => () => {
    encoded.push(n);
    return Promise.resolve(frame(n));
  };
  socket.ready();
  for (const n of [1, 2, 3]) stream.offer(encode(n));
  await flush();
  assert.deepEqual(encoded, [1]);
  socket.result(1);
  await flush();
  assert.deepEqual(encoded, [1, 3]);
  assert.deepEqual(socket.sent, [frame(1), frame(3)]);
});

test("frames are encoded one at a time and sent in order", async () => {
  const { stream, socket } = openStream({ window: 4 });
  socket.ready({ window: 4 });
  const first = Promise.withResolvers();
  stream.offer(() => first.promise);
  stream.offer(() => frame(2));
  await flush();
  assert.deepEqual(socket.sent, []);
  first.resolve(frame(1));
  await flush();
  assert.deepEqual(socket.sent, [frame(1), frame(2)]);
});

test("frame that is null, fails to encode or is invalid is not sent, and the next one is", async () => {
  const { stream, socket } = openStream();
  socket.ready();
  assert.equal(await stream.offer(() => null), null);
  await assert.rejects(
    stream.offer(() => Promise.reject(new Error("canvas"))),
    /canvas/,
  );
  await assert.rejects(stream.offer("not bytes"), TypeError);
  await assert.rejects(stream.offer(new ArrayBuffer(1_001)), RangeError);
  stream.offer(frame(1));
  assert.deepEqual(socket.sent, [frame(1)]);
  assert.equal(stream.counters.unsent, 4);
});

test("sends nothing while the socket does not drain", async () => {
  const { stream, socket, clock } = openStream({ window: 4 });
  socket.ready({ window: 4 });
  socket.bufferedAmount = 65_537;
  stream.offer(frame(1));
  stream.offer(frame(2));
  await clock.advance(100);
  assert.deepEqual(socket.sent, []);
  socket.bufferedAmount = 65_536;
  await clock.advance(8);
  assert.deepEqual(socket.sent, [frame(2)]);
  assert.equal(stream.counters.replaced, 1);
});

test("`send` keeps order, waits for the window and sends every item", async () => {
  const { stream, socket } = openTextStream();
  const answers = ["a", "b", "c"].map((text, n) => stream.send(text, { id: `t${n}` }));
  assert.deepEqual(texts(socket), ["a", "b"]);
  socket.result(1, { id: "t0" });
  assert.deepEqual(texts(socket), ["a", "b", "c"]);
  socket.serverSends({ type: "error", seq: 2, code: "timeout", message: "too slow", retryable: true });
  socket.result(3);
  assert.deepEqual(
    (await Promise.all(answers)).map(({ type, seq }) => [type, seq]),
    [
      ["result", 1],
      ["error", 2],
      ["result", 3],
    ],
  );
});

test("answer has its item and its times", async () => {
  const { stream, socket, clock } = openStream();
  socket.ready();
  stream.offer(frame(1));
  const answer = stream.offer(() => Promise.resolve(frame(2)), { captured: 990 });
  await clock.advance(30);
  socket.result(1);
  await clock.advance(0);
  await clock.advance(12);
  socket.result(2, { outputs: { faces: [] } });
  const { item, captured, wait_ms, encode_ms, round_trip_ms, freshness_ms, outputs } = await answer;
  assert.deepEqual(item, frame(2));
  assert.deepEqual(
    { captured, wait_ms, encode_ms, round_trip_ms, freshness_ms, outputs },
    { captured: 990, wait_ms: 40, encode_ms: 0, round_trip_ms: 12, freshness_ms: 52, outputs: { faces: [] } },
  );
});

test("drops are counted by reason, unknown reasons as `other`", () => {
  const { stream, socket } = openStream({ maxUnanswered: 4 });
  socket.ready();
  ["superseded", "expired", "draining", "constructor"].forEach((reason, n) => {
    stream.offer(frame(n));
    socket.serverSends({ type: "dropped", seq: n + 1, reason });
  });
  assert.deepEqual(stream.counters.droppedBy, { superseded: 1, expired: 1, draining: 1, other: 1 });
  assert.ok(Object.isFrozen(stream.counters) && Object.isFrozen(stream.counters.droppedBy));
});

test("lost connection fails unanswered items, keeps unsent ones and restarts `seq` at 1", async () => {
  const { stream, sockets, clock, seen } = openTextStream();
  const answers = ["a", "b", "c"].map((text, n) => stream.send(text, { id: `t${n}` }));
  sockets[0].result(1);
  sockets[0].serverCloses(1006);
  await flush();
  const last = seen.answers.slice(-2);
  assert.deepEqual(
    last.map(({ type, id, code }) => [type, id, code]),
    [
      ["error", "t1", "connection_lost"],
      ["error", "t2", "connection_lost"],
    ],
  );
  const late = stream.send("d");
  await clock.advance(250);
  assert.equal(sockets.length, 2);
  sockets[1].ready({ input: "text", window: 2 });
  assert.deepEqual(texts(sockets[1]), ["d"]);
  sockets[1].result(1, { outputs: "again" });
  assert.equal((await late).outputs, "again");
  assert.equal((await answers[0]).type, "result");
  assert.deepEqual(seen.states, ["connecting", "ready", "waiting", "connecting", "ready"]);
});

test("frame being encoded when the connection is lost is encoded again on the next one", async () => {
  const { stream, sockets, clock } = openStream();
  sockets[0].ready();
  const slow = Promise.withResolvers();
  let calls = 0;
  stream.offer(() => (++calls === 1 ? slow.promise : frame(2)));
  await flush();
  sockets[0].serverCloses(1006);
  await clock.advance(250);
  sockets[1].ready();
  slow.resolve(frame(1));
  await flush();
  assert.deepEqual([sockets[0].sent, sockets[1].sent], [[], [frame(2)]]);
});

test("newer frame replaces the one being encoded when the connection is lost", async () => {
  const { stream, sockets, clock } = openStream();
  sockets[0].ready();
  const older = stream.offer(() => new Promise(() => {}));
  await flush();
  stream.offer(frame(2));
  sockets[0].serverCloses(1006);
  assert.equal(await older, null);
  assert.equal(stream.counters.replaced, 1);
  await clock.advance(250);
  sockets[1].ready();
  assert.deepEqual(sockets[1].sent, [frame(2)]);
});

test("item being prepared when the connection is lost keeps its position", async () => {
  const { stream, sockets, clock } = openTextStream();
  let calls = 0;
  stream.send(() => (++calls === 1 ? new Promise(() => {}) : "a"));
  stream.send("b");
  await flush();
  sockets[0].serverCloses(1006);
  await clock.advance(250);
  sockets[1].ready({ input: "text", window: 2 });
  await flush();
  assert.deepEqual(texts(sockets[1]), ["a", "b"]);
});

test("events of an abandoned socket are ignored", async () => {
  const { stream, sockets, clock } = openStream();
  sockets[0].ready();
  stream.offer(frame(1));
  await clock.advance(30_000);
  assert.equal(stream.state.reason.message, "the server stopped responding");
  assert.equal(sockets[0].closeCode, 1005);
  await clock.advance(500);
  sockets[0].result(1);
  assert.equal(stream.state.name, "connecting");
  assert.equal(stream.counters.results, 0);
  assert.equal(stream.counters.errors, 1);
});

test("slow answers do not count as silence", async () => {
  const { stream, sockets, clock } = openStream({ maxUnanswered: 64 });
  sockets[0].ready();
  for (let n = 1; n <= 6; n++) stream.offer(frame(n));
  for (let n = 1; n <= 6; n++) {
    await clock.advance(20_000);
    sockets[0].result(n);
  }
  assert.equal(stream.counters.results, 6);
  await clock.advance(600_000);
  assert.equal(stream.state.name, "ready");
  assert.equal(clock.timers, 0);
});

test("silence is measured from the last received message", async () => {
  const { stream, sockets, clock } = openStream({ maxUnanswered: 2 });
  sockets[0].ready();
  stream.offer(frame(1));
  stream.offer(frame(2));
  await clock.advance(20_000);
  sockets[0].result(1);
  await clock.advance(29_999);
  assert.equal(stream.state.name, "ready");
  await clock.advance(1);
  assert.equal(stream.state.name, "waiting");
});

test("`silenceMs` extends the allowed silence", async () => {
  const { stream, socket, clock } = openStream({ silenceMs: 90_000 });
  socket.ready();
  stream.offer(frame(1));
  await clock.advance(89_999);
  assert.equal(stream.state.name, "ready");
  await clock.advance(1);
  assert.equal(stream.state.name, "waiting");
});

test("a large item that leaves slowly is no silence, and one that is stuck is", async () => {
  const { stream, socket, clock } = openStream();
  socket.ready({ max_item_bytes: 10_000_000 });
  stream.offer(frame(1));
  for (let left = 10; left >= 0; left--) {
    socket.bufferedAmount = left * 1_000_000;
    await clock.advance(15_000);
  }
  assert.equal(stream.state.name, "ready");
  await clock.advance(17_999); // the last bytes left 12 s ago
  assert.equal(stream.state.name, "ready");
  await clock.advance(1);
  assert.equal(stream.state.reason.message, "the server stopped responding");
});

test("a page that was blocked reads its messages before it judges the server", async () => {
  const { stream, socket, clock } = openStream();
  socket.ready();
  stream.offer(frame(1));
  clock.block(300_000);
  await clock.advance(0);
  assert.equal(stream.state.name, "ready");
  socket.result(1);
  assert.equal(stream.counters.results, 1);
  await clock.advance(100_000);
  assert.equal(stream.state.name, "ready");
});

test("a page whose timers are always late notices a silent server all the same", async () => {
  const { stream, socket, clock } = openStream();
  socket.ready();
  stream.offer(frame(1));
  for (let n = 1; n <= 5; n++) {
    clock.block(60_000);
    await clock.advance(0);
  }
  assert.equal(stream.state.name, "waiting");
});

test("a page that was blocked while it connected waits for `ready`", async () => {
  const { stream, socket, clock } = openStream();
  clock.block(20_000);
  await clock.advance(0);
  assert.equal(stream.state.name, "connecting");
  socket.ready();
  assert.equal(stream.state.name, "ready");
  await clock.advance(100_000);
  assert.equal(stream.state.name, "ready");
});

test("connection attempt without `ready` times out", async () => {
  const { stream, sockets, clock } = openStream();
  await clock.advance(9_999);
  assert.equal(stream.state.name, "connecting");
  await clock.advance(1);
  assert.equal(stream.state.name, "waiting");
  await clock.advance(250);
  assert.equal(sockets.length, 2);
});

test("retry delay is a random part of a ceiling that doubles up to 30 s", async () => {
  const { stream, random, clock, sockets } = openStream();
  const delays = [];
  for (let n = 0; n < 9; n++) {
    random.next = n === 2 ? 0 : 1;
    sockets.at(-1).serverCloses(1006);
    delays.push(stream.state.retryAt - clock.now);
    await clock.advance(delays.at(-1));
  }
  assert.deepEqual(delays, [500, 1_000, 0, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
});

test("only an answer resets the backoff", async () => {
  const { stream, random, clock, sockets } = openStream();
  random.next = 1;
  const delay = () => stream.state.retryAt - clock.now;
  sockets[0].ready();
  sockets[0].serverCloses(1011);
  assert.equal(delay(), 500);
  await clock.advance(500);
  sockets[1].ready();
  sockets[1].serverCloses(1011);
  assert.equal(delay(), 1_000);
  await clock.advance(1_000);
  sockets[2].ready();
  stream.offer(frame(1));
  sockets[2].result(1);
  sockets[2].serverCloses(1011);
  assert.equal(delay(), 500);
});

test("draining server gets no more items, and no reconnect before `retry_after_ms`", async () => {
  const { stream, sockets, clock, seen } = openStream({ maxUnanswered: 2 });
  sockets[0].ready();
  stream.offer(frame(1));
  sockets[0].serverSends({ type: "goaway", grace_ms: 10_000, retry_after_ms: 2_000 });
  stream.offer(frame(2));
  assert.equal(stream.state.name, "draining");
  assert.deepEqual(sockets[0].sent, [frame(1)]);
  sockets[0].serverSends({ type: "dropped", seq: 1, reason: "draining" });
  sockets[0].serverSends({ type: "end", received: 1, results: 0, dropped: 1, errors: 0 });
  sockets[0].serverCloses(1001);
  await clock.advance(2_249);
  assert.equal(sockets.length, 1);
  await clock.advance(1);
  sockets[1].ready();
  assert.deepEqual(sockets[1].sent, [frame(2)]);
  await flush();
  assert.deepEqual(seen.states, ["connecting", "ready", "draining", "waiting", "connecting", "ready"]);
});

test("unavailable model is retried, and its reason is in the state", async () => {
  const { stream, socket, sockets, clock } = openStream();
  socket.serverSends({ type: "error", code: "model_unavailable", message: "it did not start", retryable: true });
  socket.serverCloses(1013);
  assert.deepEqual(stream.state.reason, { code: "model_unavailable", message: "it did not start" });
  await clock.advance(250);
  assert.equal(sockets.length, 2);
});

test("overloaded server is retried after its latest `retry_after_ms`", async () => {
  const { stream, sockets, clock, random } = openStream({ weight: 0.5 });
  assert.equal(sockets[0].url.search, "?weight=0.5");
  const full = { type: "error", code: "overloaded", message: "no room", retryable: true, retry_after_ms: 5_000 };
  random.next = 0;
  sockets[0].serverSends(full);
  sockets[0].serverCloses(1013);
  assert.equal(stream.state.retryAt, clock.now + 5_000);
  await clock.advance(4_999);
  assert.equal(sockets.length, 1);
  await clock.advance(1);
  assert.equal(sockets.length, 2);
  sockets[1].serverSends({ ...full, retry_after_ms: undefined });
  sockets[1].serverCloses(1013);
  await clock.advance(0);
  assert.equal(sockets.length, 3, "an earlier retry_after_ms no longer applies");
});

test("item that killed too many workers is not sent again", async () => {
  const { stream, socket, sockets, clock } = openStream();
  socket.ready();
  const answer = stream.offer(frame(1));
  socket.serverSends({ type: "error", seq: 1, code: "poison", message: "three workers ended", retryable: false });
  socket.serverSends({ type: "error", code: "poison", message: "three workers ended", retryable: false });
  socket.serverCloses(1011);
  assert.equal((await answer).code, "poison");
  assert.equal(stream.state.name, "refused");
  await clock.advance(120_000);
  assert.equal(sockets.length, 1);
});

test("stream closed as idle reconnects with its next item", async () => {
  const { stream, sockets, clock } = openTextStream();
  sockets[0].serverSends({ type: "error", code: "idle", message: "nothing heard", retryable: true });
  sockets[0].serverCloses(4408);
  assert.equal(stream.state.name, "idle");
  await clock.advance(120_000);
  assert.equal(sockets.length, 1);
  stream.send("a");
  assert.equal(sockets.length, 2);
  sockets[1].ready({ input: "text" });
  assert.deepEqual(texts(sockets[1]), ["a"]);
});

test("stream closed as idle while an item waits reconnects immediately", async () => {
  const { stream, sockets } = openStream();
  stream.offer(frame(1));
  sockets[0].serverCloses(4408);
  assert.equal(sockets.length, 2);
  sockets[1].ready();
  assert.deepEqual(sockets[1].sent, [frame(1)]);
});

test("error that is not retryable is final, whatever the close code", async () => {
  const { stream, socket } = openStream();
  socket.serverSends({ type: "error", code: "unpaid", message: "pay first", retryable: false });
  socket.serverCloses(4402);
  assert.equal(stream.state.name, "refused");
  assert.deepEqual(stream.state.reason, { code: "unpaid", message: "pay first" });
});

for (const code of [1003, 1009, 4400, 4401, 4403, 4404]) {
  test(`close code ${code} is final`, async () => {
    const { stream, socket, sockets, clock } = openStream();
    const answer = stream.send(frame(1));
    socket.serverCloses(code);
    await assert.rejects(answer, StreamClosed);
    assert.equal(stream.state.name, "refused");
    await clock.advance(120_000);
    assert.equal(sockets.length, 1);
    assert.equal(await stream.offer(frame(2)), null);
  });
}

test("protocol violation is final", async () => {
  for (const text of ["hello", '{"type": "result"}', JSON.stringify({ type: "dropped", seq: 7, reason: "expired" })]) {
    const { stream, socket, sockets, clock } = openStream();
    socket.serverSends(text);
    assert.equal(stream.state.name, "refused");
    assert.equal(stream.state.reason.code, "protocol");
    assert.equal(socket.closeCode, 1000);
    await clock.advance(120_000);
    assert.equal(sockets.length, 1);
  }
});

test("unknown messages and fields are ignored", async () => {
  const { stream, socket } = openStream();
  socket.ready({ colour: "blue" });
  socket.serverSends({ type: "hint", fps: 5 });
  stream.offer(frame(1));
  socket.result(1, { cost: 5 });
  assert.equal(stream.counters.results, 1);
});

test("stream error explains a close only if it is the last message", async () => {
  const { stream, socket } = openStream();
  socket.ready();
  socket.serverSends({ type: "error", code: "malformed", message: "invalid JSON", retryable: false });
  stream.offer(frame(1));
  socket.result(1);
  socket.serverCloses(1006);
  assert.equal(stream.state.name, "waiting");
  assert.equal(stream.state.reason.code, "connection_lost");
});

test("lost connection is final without `reconnect`", async () => {
  const { stream, socket, clock, sockets } = openStream({ reconnect: false });
  socket.ready();
  const [sent, waiting] = [stream.send(frame(1)), stream.send(frame(2))];
  socket.serverCloses(1006);
  assert.equal((await sent).code, "connection_lost");
  await assert.rejects(waiting, StreamClosed);
  assert.equal(stream.state.name, "lost");
  await clock.advance(120_000);
  assert.equal(sockets.length, 1);
});

test("`end` is sent after waiting items and resolves with the server's counts", async () => {
  const { stream, socket } = openTextStream();
  for (const text of ["a", "b", "c"]) stream.send(text);
  const end = stream.end();
  await assert.rejects(stream.send("d"), StreamClosed);
  socket.result(1);
  assert.deepEqual(texts(socket), ["a", "b", "c"]);
  socket.result(2);
  assert.deepEqual(JSON.parse(socket.sent.at(-1)), { type: "end" });
  socket.result(3);
  socket.serverSends({ type: "end", received: 3, results: 3, dropped: 0, errors: 0 });
  socket.serverCloses(1000);
  assert.deepEqual(await end, { type: "end", received: 3, results: 3, dropped: 0, errors: 0 });
  assert.equal(stream.state.name, "ended");
  assert.equal(stream.end(), end);
});

test("`end` is sent again after a lost connection", async () => {
  const { stream, sockets, clock } = openTextStream();
  for (const text of ["a", "b", "c"]) stream.send(text);
  const end = stream.end();
  sockets[0].serverCloses(1006);
  await clock.advance(250);
  sockets[1].ready({ input: "text" });
  assert.deepEqual(texts(sockets[1]), ["c"]);
  sockets[1].result(1);
  sockets[1].serverSends({ type: "end", received: 1, results: 1, dropped: 0, errors: 0 });
  sockets[1].serverCloses(1000);
  assert.equal((await end).received, 1);
});

test("`close` fails unanswered items and rejects waiting ones", async () => {
  const { stream, socket, clock } = openTextStream();
  const answers = ["a", "b", "c"].map((text) => stream.send(text));
  const end = stream.end();
  stream.close();
  assert.equal(socket.closeCode, 1000);
  assert.equal((await answers[1]).code, "connection_lost");
  await assert.rejects(answers[2], StreamClosed);
  await assert.rejects(end, StreamClosed);
  assert.equal(clock.timers, 0);
});

test("`send` in a loop without await fails at its limit", async () => {
  const { stream } = openTextStream();
  const lost = Array.from({ length: 1_027 }, () => stream.send("a").catch((error) => error));
  assert.ok((await lost.at(-1)) instanceof TooManyWaiting);
  assert.equal(stream.counters.waiting, 1_024);
});

test("`retry` reconnects before the scheduled attempt, and only then", async () => {
  const { stream, socket, sockets, clock } = openStream();
  socket.serverCloses(1006);
  stream.retry();
  assert.equal(sockets.length, 2);
  stream.retry();
  await clock.advance(5_000);
  assert.equal(sockets.length, 2);
});

test("callback sees consistent counters and may close the stream", async () => {
  const found = [];
  const { stream, socket } = openStream({
    onReady: () => {
      found.push(stream.counters.sent);
      stream.close();
    },
  });
  stream.offer(frame(1));
  socket.ready();
  await flush();
  assert.deepEqual(found, [1]);
  assert.equal(stream.state.name, "closed");
});
