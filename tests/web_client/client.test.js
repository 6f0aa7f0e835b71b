import assert from "node:assert/strict";
import { test } from "node:test";

import { StreamClosed, TooManyWaiting } from "../../web_client/client/client.js";
import { play, settled } from "./environment.js";

const frame = (n) => new Uint8Array([n]);
const texts = (socket) => socket.said.map((text) => JSON.parse(text).text);

function playText(options = {}) {
  const world = play(options);
  world.socket.ready({ input: "text", policy: "queue", window: 2 });
  return world;
}

test("it offers the subprotocol and asks for what the options say", () => {
  const { socket } = play({ model: "faces", version: "2", policy: "latest", window: 3, maxAgeMs: 500 });
  assert.equal(socket.protocol, "stream-inference.v1");
  assert.equal(
    socket.url.href,
    "ws://server.test:8080/v2/models/faces/versions/2/stream?policy=latest&window=3&max_age_ms=500",
  );
});

test("nothing is sent before the server is ready", async () => {
  const { stream, socket, seen } = play();
  stream.offer(frame(1));
  assert.deepEqual(socket.said, []);
  socket.ready();
  assert.deepEqual(socket.said, [frame(1)]);
  await settled();
  assert.equal(seen.readies[0].stream, "s1");
  assert.deepEqual(seen.states, ["connecting", "ready"]);
});

test("a frame waits for the window, and a newer one replaces it", async () => {
  const { stream, socket } = play();
  socket.ready();
  const answers = [1, 2, 3].map((n) => stream.offer(frame(n)));
  assert.deepEqual(socket.said, [frame(1)]);
  assert.equal(await answers[1], null);
  socket.result(1);
  assert.deepEqual(socket.said, [frame(1), frame(3)]);
  socket.result(2);
  assert.equal((await answers[2]).seq, 2);
  const { offered, sent, replaced, results } = stream.counters;
  assert.deepEqual({ offered, sent, replaced, results }, { offered: 3, sent: 2, replaced: 1, results: 2 });
});

test("a window of three keeps three unanswered", () => {
  const { stream, socket } = play({ window: 3 });
  socket.ready({ window: 3 });
  for (const n of [1, 2, 3, 4, 5]) stream.offer(frame(n));
  assert.deepEqual(socket.said, [frame(1), frame(2), frame(3)]);
});

test("`ahead` goes beyond the window, for the server to supersede", async () => {
  const { stream, socket } = play({ ahead: 3 });
  socket.ready();
  for (const n of [1, 2, 3, 4]) stream.offer(frame(n));
  assert.equal(stream.counters.unanswered, 3);
  socket.result(1);
  socket.says({ type: "dropped", seq: 2, reason: "superseded" });
  assert.equal(stream.counters.droppedBy.superseded, 1);
});

test("a frame is encoded only when it is its turn", async () => {
  const { stream, socket } = play();
  const made = [];
  const make = (n) => () => {
    made.push(n);
    return Promise.resolve(frame(n));
  };
  socket.ready();
  for (const n of [1, 2, 3]) stream.offer(make(n));
  await settled();
  assert.deepEqual(made, [1]);
  socket.result(1);
  await settled();
  assert.deepEqual(made, [1, 3]);
  assert.deepEqual(socket.said, [frame(1), frame(3)]);
});

test("frames leave in order, one being encoded at a time", async () => {
  const { stream, socket } = play({ window: 4 });
  socket.ready({ window: 4 });
  const first = Promise.withResolvers();
  stream.offer(() => first.promise);
  stream.offer(() => frame(2));
  await settled();
  assert.deepEqual(socket.said, []);
  first.resolve(frame(1));
  await settled();
  assert.deepEqual(socket.said, [frame(1), frame(2)]);
});

test("a frame that comes to nothing is not sent, and the next one is", async () => {
  const { stream, socket } = play();
  socket.ready();
  assert.equal(await stream.offer(() => null), null);
  await assert.rejects(
    stream.offer(() => Promise.reject(new Error("canvas"))),
    /canvas/,
  );
  await assert.rejects(stream.offer("no bytes"), TypeError);
  await assert.rejects(stream.offer(new ArrayBuffer(1_001)), RangeError);
  stream.offer(frame(1));
  assert.deepEqual(socket.said, [frame(1)]);
  assert.equal(stream.counters.unsent, 4);
});

test("a socket that does not drain is left alone", async () => {
  const { stream, socket, clock } = play({ window: 4 });
  socket.ready({ window: 4 });
  socket.bufferedAmount = 65_537;
  stream.offer(frame(1));
  stream.offer(frame(2));
  await clock.advance(100);
  assert.deepEqual(socket.said, []);
  socket.bufferedAmount = 65_536;
  await clock.advance(8);
  assert.deepEqual(socket.said, [frame(2)]);
  assert.equal(stream.counters.replaced, 1);
});

test("texts keep their order, wait for the window and lose nothing", async () => {
  const { stream, socket } = playText();
  const answers = ["a", "b", "c"].map((text, n) => stream.send(text, { id: `t${n}` }));
  assert.deepEqual(texts(socket), ["a", "b"]);
  socket.result(1, { id: "t0" });
  assert.deepEqual(texts(socket), ["a", "b", "c"]);
  socket.says({ type: "error", seq: 2, code: "timeout", message: "too slow", retryable: true });
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

test("each answer brings its item and its times", async () => {
  const { stream, socket, clock } = play();
  socket.ready();
  stream.offer(frame(1));
  const answer = stream.offer(() => Promise.resolve(frame(2)), { captured: 990 });
  await clock.advance(30);
  socket.result(1);
  await clock.advance(0);
  await clock.advance(12);
  socket.result(2, { outputs: { faces: [] } });
  const { item, captured, turn_ms, encode_ms, round_trip_ms, freshness_ms, outputs } = await answer;
  assert.deepEqual(item, frame(2));
  assert.deepEqual(
    { captured, turn_ms, encode_ms, round_trip_ms, freshness_ms, outputs },
    { captured: 990, turn_ms: 40, encode_ms: 0, round_trip_ms: 12, freshness_ms: 52, outputs: { faces: [] } },
  );
});

test("drops count by reason, and a later server's reason is another", () => {
  const { stream, socket } = play({ ahead: 4 });
  socket.ready();
  ["superseded", "expired", "draining", "constructor"].forEach((reason, n) => {
    stream.offer(frame(n));
    socket.says({ type: "dropped", seq: n + 1, reason });
  });
  assert.deepEqual(stream.counters.droppedBy, { superseded: 1, expired: 1, draining: 1, other: 1 });
  assert.ok(Object.isFrozen(stream.counters) && Object.isFrozen(stream.counters.droppedBy));
});

test("a lost connection answers what it leaves, keeps what was not sent, and counts from 1 again", async () => {
  const { stream, sockets, clock, seen } = playText();
  const answers = ["a", "b", "c"].map((text, n) => stream.send(text, { id: `t${n}` }));
  sockets[0].result(1);
  sockets[0].hangsUp(1006);
  await settled();
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
  sockets[1].result(1, { outputs: "anew" });
  assert.equal((await late).outputs, "anew");
  assert.equal((await answers[0]).type, "result");
  assert.deepEqual(seen.states, ["connecting", "ready", "waiting", "connecting", "ready"]);
});

test("a frame being encoded when the connection is lost is encoded anew on the next", async () => {
  const { stream, sockets, clock } = play();
  sockets[0].ready();
  const slow = Promise.withResolvers();
  let made = 0;
  stream.offer(() => (++made === 1 ? slow.promise : frame(2)));
  await settled();
  sockets[0].hangsUp(1006);
  await clock.advance(250);
  sockets[1].ready();
  slow.resolve(frame(1));
  await settled();
  assert.deepEqual([sockets[0].said, sockets[1].said], [[], [frame(2)]]);
});

test("a newer frame replaces the one being encoded when the connection is lost", async () => {
  const { stream, sockets, clock } = play();
  sockets[0].ready();
  const older = stream.offer(() => new Promise(() => {}));
  await settled();
  stream.offer(frame(2));
  sockets[0].hangsUp(1006);
  assert.equal(await older, null);
  assert.equal(stream.counters.replaced, 1);
  await clock.advance(250);
  sockets[1].ready();
  assert.deepEqual(sockets[1].said, [frame(2)]);
});

test("an item being made when the connection is lost keeps its place", async () => {
  const { stream, sockets, clock } = playText();
  let made = 0;
  stream.send(() => (++made === 1 ? new Promise(() => {}) : "a"));
  stream.send("b");
  await settled();
  sockets[0].hangsUp(1006);
  await clock.advance(250);
  sockets[1].ready({ input: "text", window: 2 });
  await settled();
  assert.deepEqual(texts(sockets[1]), ["a", "b"]);
});

test("a socket given up for lost is not listened to", async () => {
  const { stream, sockets, clock } = play();
  sockets[0].ready();
  stream.offer(frame(1));
  await clock.advance(30_000);
  assert.equal(stream.state.reason.message, "the server has fallen silent");
  assert.equal(sockets[0].closedWith, 1005);
  await clock.advance(500);
  sockets[0].result(1);
  assert.equal(stream.state.name, "connecting");
  assert.equal(stream.counters.results, 0);
  assert.equal(stream.counters.errors, 1);
});

test("a server that answers slowly has not fallen silent", async () => {
  const { stream, sockets, clock } = play({ ahead: 64 });
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

test("silence counts from the last that was heard", async () => {
  const { stream, sockets, clock } = play({ ahead: 2 });
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

test("a slow model may be given more silence", async () => {
  const { stream, socket, clock } = play({ silenceMs: 90_000 });
  socket.ready();
  stream.offer(frame(1));
  await clock.advance(89_999);
  assert.equal(stream.state.name, "ready");
  await clock.advance(1);
  assert.equal(stream.state.name, "waiting");
});

test("a host that swallows packets is given up", async () => {
  const { stream, sockets, clock } = play();
  await clock.advance(9_999);
  assert.equal(stream.state.name, "connecting");
  await clock.advance(1);
  assert.equal(stream.state.name, "waiting");
  await clock.advance(250);
  assert.equal(sockets.length, 2);
});

test("the next try waits a random part of a ceiling that doubles up to 30 s", async () => {
  const { stream, random, clock, sockets } = play();
  const delays = [];
  for (let n = 0; n < 9; n++) {
    random.next = n === 2 ? 0 : 1;
    sockets.at(-1).hangsUp(1006);
    delays.push(stream.state.retryAt - clock.now);
    await clock.advance(delays.at(-1));
  }
  assert.deepEqual(delays, [500, 1_000, 0, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
});

test("only a server that answers has recovered", async () => {
  const { stream, random, clock, sockets } = play();
  random.next = 1;
  const delay = () => stream.state.retryAt - clock.now;
  sockets[0].ready();
  sockets[0].hangsUp(1011);
  assert.equal(delay(), 500);
  await clock.advance(500);
  sockets[1].ready();
  sockets[1].hangsUp(1011);
  assert.equal(delay(), 1_000);
  await clock.advance(1_000);
  sockets[2].ready();
  stream.offer(frame(1));
  sockets[2].result(1);
  sockets[2].hangsUp(1011);
  assert.equal(delay(), 500);
});

test("a draining server gets nothing more, and is left in peace as long as it asks", async () => {
  const { stream, sockets, clock, seen } = play({ ahead: 2 });
  sockets[0].ready();
  stream.offer(frame(1));
  sockets[0].says({ type: "goaway", grace_ms: 10_000, retry_after_ms: 2_000 });
  stream.offer(frame(2));
  assert.equal(stream.state.name, "draining");
  assert.deepEqual(sockets[0].said, [frame(1)]);
  sockets[0].says({ type: "dropped", seq: 1, reason: "draining" });
  sockets[0].says({ type: "end", received: 1, results: 0, dropped: 1, errors: 0 });
  sockets[0].hangsUp(1001);
  await clock.advance(2_249);
  assert.equal(sockets.length, 1);
  await clock.advance(1);
  sockets[1].ready();
  assert.deepEqual(sockets[1].said, [frame(2)]);
  await settled();
  assert.deepEqual(seen.states, ["connecting", "ready", "draining", "waiting", "connecting", "ready"]);
});

test("an unavailable model is tried again, with its reason", async () => {
  const { stream, socket, sockets, clock } = play();
  socket.says({ type: "error", code: "model_unavailable", message: "it did not start", retryable: true });
  socket.hangsUp(1013);
  assert.deepEqual(stream.state.reason, { code: "model_unavailable", message: "it did not start" });
  await clock.advance(250);
  assert.equal(sockets.length, 2);
});

test("a server that has no room is left in peace as long as it asks, and asked anew each time", async () => {
  const { stream, sockets, clock, random } = play({ weight: 0.5 });
  assert.equal(sockets[0].url.search, "?weight=0.5");
  const full = { type: "error", code: "overloaded", message: "no room", retryable: true, retry_after_ms: 5_000 };
  random.next = 0;
  sockets[0].says(full);
  sockets[0].hangsUp(1013);
  assert.equal(stream.state.retryAt, clock.now + 5_000);
  await clock.advance(4_999);
  assert.equal(sockets.length, 1);
  await clock.advance(1);
  assert.equal(sockets.length, 2);
  sockets[1].says({ ...full, retry_after_ms: undefined });
  sockets[1].hangsUp(1013);
  await clock.advance(0);
  assert.equal(sockets.length, 3, "what it asked before holds no longer");
});

test("what ended too many workers is not sent again", async () => {
  const { stream, socket, sockets, clock } = play();
  socket.ready();
  const answer = stream.offer(frame(1));
  socket.says({ type: "error", seq: 1, code: "poison", message: "three workers ended", retryable: false });
  socket.says({ type: "error", code: "poison", message: "three workers ended", retryable: false });
  socket.hangsUp(1011);
  assert.equal((await answer).code, "poison");
  assert.equal(stream.state.name, "refused");
  await clock.advance(120_000);
  assert.equal(sockets.length, 1);
});

test("a stream that the server closed for silence connects again with its next item", async () => {
  const { stream, sockets, clock } = playText();
  sockets[0].says({ type: "error", code: "idle", message: "nothing heard", retryable: true });
  sockets[0].hangsUp(4408);
  assert.equal(stream.state.name, "idle");
  await clock.advance(120_000);
  assert.equal(sockets.length, 1);
  stream.send("a");
  assert.equal(sockets.length, 2);
  sockets[1].ready({ input: "text" });
  assert.deepEqual(texts(sockets[1]), ["a"]);
});

test("a stream closed for silence while an item waits connects at once", async () => {
  const { stream, sockets } = play();
  stream.offer(frame(1));
  sockets[0].hangsUp(4408);
  assert.equal(sockets.length, 2);
  sockets[1].ready();
  assert.deepEqual(sockets[1].said, [frame(1)]);
});

test("an error that says so is final, whatever the close", async () => {
  const { stream, socket } = play();
  socket.says({ type: "error", code: "unpaid", message: "pay first", retryable: false });
  socket.hangsUp(4402);
  assert.equal(stream.state.name, "refused");
  assert.deepEqual(stream.state.reason, { code: "unpaid", message: "pay first" });
});

for (const code of [1003, 1009, 4400, 4401, 4403, 4404]) {
  test(`a close with ${code} is final`, async () => {
    const { stream, socket, sockets, clock } = play();
    const answer = stream.send(frame(1));
    socket.hangsUp(code);
    await assert.rejects(answer, StreamClosed);
    assert.equal(stream.state.name, "refused");
    await clock.advance(120_000);
    assert.equal(sockets.length, 1);
    assert.equal(await stream.offer(frame(2)), null);
  });
}

test("what is no such server is not asked again", async () => {
  for (const words of ["hello", '{"type": "result"}', JSON.stringify({ type: "dropped", seq: 7, reason: "expired" })]) {
    const { stream, socket, sockets, clock } = play();
    socket.says(words);
    assert.equal(stream.state.name, "refused");
    assert.equal(stream.state.reason.code, "protocol");
    assert.equal(socket.closedWith, 1000);
    await clock.advance(120_000);
    assert.equal(sockets.length, 1);
  }
});

test("words of a later version are ignored", async () => {
  const { stream, socket } = play();
  socket.ready({ colour: "blue" });
  socket.says({ type: "hint", fps: 5 });
  stream.offer(frame(1));
  socket.result(1, { cost: 5 });
  assert.equal(stream.counters.results, 1);
});

test("an error of the stream explains a close only when nothing comes between them", async () => {
  const { stream, socket } = play();
  socket.ready();
  socket.says({ type: "error", code: "malformed", message: "what?", retryable: false });
  stream.offer(frame(1));
  socket.result(1);
  socket.hangsUp(1006);
  assert.equal(stream.state.name, "waiting");
  assert.equal(stream.state.reason.code, "connection_lost");
});

test("without reconnect a lost connection is the end", async () => {
  const { stream, socket, clock, sockets } = play({ reconnect: false });
  socket.ready();
  const [sent, waiting] = [stream.send(frame(1)), stream.send(frame(2))];
  socket.hangsUp(1006);
  assert.equal((await sent).code, "connection_lost");
  await assert.rejects(waiting, StreamClosed);
  assert.equal(stream.state.name, "lost");
  await clock.advance(120_000);
  assert.equal(sockets.length, 1);
});

test("`end` leaves after what waits, and gives the server's count", async () => {
  const { stream, socket } = playText();
  for (const text of ["a", "b", "c"]) stream.send(text);
  const end = stream.end();
  await assert.rejects(stream.send("d"), StreamClosed);
  socket.result(1);
  assert.deepEqual(texts(socket), ["a", "b", "c"]);
  socket.result(2);
  assert.deepEqual(JSON.parse(socket.said.at(-1)), { type: "end" });
  socket.result(3);
  socket.says({ type: "end", received: 3, results: 3, dropped: 0, errors: 0 });
  socket.hangsUp(1000);
  assert.deepEqual(await end, { type: "end", received: 3, results: 3, dropped: 0, errors: 0 });
  assert.equal(stream.state.name, "ended");
  assert.equal(stream.end(), end);
});

test("`end` outlives a lost connection", async () => {
  const { stream, sockets, clock } = playText();
  for (const text of ["a", "b", "c"]) stream.send(text);
  const end = stream.end();
  sockets[0].hangsUp(1006);
  await clock.advance(250);
  sockets[1].ready({ input: "text" });
  assert.deepEqual(texts(sockets[1]), ["c"]);
  sockets[1].result(1);
  sockets[1].says({ type: "end", received: 1, results: 1, dropped: 0, errors: 0 });
  sockets[1].hangsUp(1000);
  assert.equal((await end).received, 1);
});

test("`close` answers what is unanswered and gives up what waits", async () => {
  const { stream, socket, clock } = playText();
  const answers = ["a", "b", "c"].map((text) => stream.send(text));
  const end = stream.end();
  stream.close();
  assert.equal(socket.closedWith, 1000);
  assert.equal((await answers[1]).code, "connection_lost");
  await assert.rejects(answers[2], StreamClosed);
  await assert.rejects(end, StreamClosed);
  assert.equal(clock.timers, 0);
});

test("a loop without await fails before the memory is gone", async () => {
  const { stream } = playText();
  const lost = Array.from({ length: 1_027 }, () => stream.send("a").catch((error) => error));
  assert.ok((await lost.at(-1)) instanceof TooManyWaiting);
  assert.equal(stream.counters.waiting, 1_024);
});

test("`retry` does not wait for the next try", async () => {
  const { stream, socket, sockets, clock } = play();
  socket.hangsUp(1006);
  stream.retry();
  assert.equal(sockets.length, 2);
  stream.retry();
  await clock.advance(5_000);
  assert.equal(sockets.length, 2);
});

test("a callback may close the stream, and finds it settled", async () => {
  const found = [];
  const { stream, socket } = play({
    onReady: () => {
      found.push(stream.counters.sent);
      stream.close();
    },
  });
  stream.offer(frame(1));
  socket.ready();
  await settled();
  assert.deepEqual(found, [1]);
  assert.equal(stream.state.name, "closed");
});
