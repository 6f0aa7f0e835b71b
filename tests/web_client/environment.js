/** The client's environment in tests: a clock that the test advances and a WebSocket whose server is the test. */

import assert from "node:assert/strict";
import { afterEach } from "node:test";

import { connect } from "../../web_client/client/client.js";

/** @type {{stream: import("../../web_client/client/client.js").Stream, seen: Seen}[]} */
const opened = [];

/** A socket whose server is the test: `serverSends` and `serverCloses` act for it, `sent` is what it received. */
export class FakeSocket extends EventTarget {
  bufferedAmount = 0;
  readyState = 0;
  /** @type {any[]} */ sent = [];
  closeCode = null;

  constructor(url, protocol) {
    super();
    this.url = new URL(url);
    this.protocol = protocol;
  }

  send(message) {
    this.sent.push(message);
  }

  close(code = 1005) {
    this.closeCode = code;
  }

  /** @param {object | string} message */
  serverSends(message) {
    const data = typeof message === "string" ? message : JSON.stringify(message);
    this.dispatchEvent(new MessageEvent("message", { data }));
  }

  ready(fields = {}) {
    this.serverSends({ ...READY, ...fields });
  }

  result(seq, fields = {}) {
    this.serverSends({ ...RESULT, seq, ...fields });
  }

  serverCloses(code) {
    const event = new Event("close");
    this.dispatchEvent(Object.assign(event, { code }));
  }
}

export const READY = {
  type: "ready",
  stream: "s1",
  model: "m",
  version: "1",
  policy: "latest",
  window: 1,
  max_item_bytes: 1_000,
  input: "image",
};

export const RESULT = {
  type: "result",
  seq: 1,
  outputs: {},
  model: "m",
  version: "1",
  age_ms: 3,
  queue_ms: 1,
  infer_ms: 2,
  batch: 1,
};

/** A clock in milliseconds that runs timers when it is advanced. */
export class FakeClock {
  now = 1_000;
  #timers = new Map();
  #last = 0;

  setTimeout = (f, ms) => {
    assert.ok(ms >= 0, `a timer of ${ms} ms`);
    this.#timers.set(++this.#last, { f, at: this.now + ms });
    return this.#last;
  };

  clearTimeout = (timer) => {
    this.#timers.delete(timer);
  };

  get timers() {
    return this.#timers.size;
  }

  /** Let time pass in which the page is blocked: no timer runs until `advance`, and those due are late. */
  block(ms) {
    this.now += ms;
  }

  async advance(ms) {
    const end = this.now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#timers.delete(due[0]);
      this.now = Math.max(this.now, due[1].at);
      due[1].f();
      await flush();
    }
    this.now = end;
    await flush();
  }
}

/** Run pending promise callbacks. */
export function flush() {
  return new Promise((resolve) => setImmediate(resolve));
}

/**
 * Open a stream in a fake environment.
 *
 * @param {object} [options]
 */
export function openStream(options = {}) {
  const clock = new FakeClock();
  const sockets = [];
  const seen = { answers: [], states: [], readies: [] };
  const random = { next: 0.5 };
  class Socket extends FakeSocket {
    constructor(url, protocol) {
      super(url, protocol);
      sockets.push(this);
    }
  }
  const stream = connect("http://server.test:8080", {
    model: "m",
    onAnswer: (answer) => seen.answers.push(answer),
    onState: (state) => seen.states.push(state.name),
    onReady: (ready) => seen.readies.push(ready),
    environment: {
      WebSocket: /** @type {any} */ (Socket),
      now: () => clock.now,
      setTimeout: clock.setTimeout,
      clearTimeout: clock.clearTimeout,
      random: () => random.next,
    },
    ...options,
  });
  opened.push({ stream, seen });
  return {
    stream,
    clock,
    seen,
    random,
    sockets,
    get socket() {
      return sockets[sockets.length - 1];
    },
  };
}

/** The counters' invariants. */
export function assertInvariants({ stream, seen }) {
  const c = stream.counters;
  assert.equal(c.sent, c.results + c.dropped + c.errors + c.unanswered, "sent == answered + unanswered");
  assert.equal(c.offered, c.sent + c.replaced + c.unsent + c.waiting, "offered == sent + replaced + unsent + waiting");
  assert.equal(seen.answers.length, c.answered, "each answer is reported once");
}

afterEach(async () => {
  await flush();
  for (const one of opened.splice(0)) {
    assertInvariants(one);
    one.stream.close();
    await flush();
    assertInvariants(one);
    assert.equal(one.stream.counters.unanswered, 0, "a closed stream has no unanswered items");
    assert.equal(one.stream.counters.waiting, 0, "a closed stream has no waiting items");
  }
});
