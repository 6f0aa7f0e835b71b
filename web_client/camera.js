/** The Camera tab: frames from a source through a stream, and what comes back shown over them. */

import { namesFor } from "./status.js";
import { HIGH_WATER_BYTES, connect } from "./client/client.js";
import { Dashboard } from "./dashboard.js";
import { fillSelect, find, make } from "./dom.js";
import { workingSize } from "./layout.js";
import { Notice } from "./banner.js";
import { MAX_WINDOW } from "./client/protocol.js";
import { SERVER_URL } from "./server_url.js";
import { openFile, openSample, openWebcam } from "./sources.js";
import { Stage } from "./viewer.js";
import { cameraWords } from "./messages.js";

/**
 * @typedef {import("./sources.js").Source} Source
 * @typedef {import("./client/client.js").Stream} Stream
 */

/** How often the numbers change: faster could not be read. */
const TICK_MS = 250;

/** Frames a little early still count as on time: cameras jitter by some milliseconds. */
const EARLY_MS = 5;

const JPEG_QUALITY = 0.8;

export class Camera {
  #stage = new Stage(
    find("stage", HTMLElement),
    find("overlay", HTMLCanvasElement),
    find("answered", HTMLCanvasElement),
  );
  #dashboard = new Dashboard();
  #work = new OffscreenCanvas(1, 1);
  /** @type {Source | null} */ #source = null;
  /** @type {Stream | null} */ #stream = null;
  #captured = 0;
  #nextFrame = 0;
  #opening = 0;
  #trouble = "";
  #notice = new Notice("camera", () => this.#stream?.retry());

  constructor() {
    const file = find("file", HTMLInputElement);
    const device = find("device", HTMLSelectElement);
    find("webcam", HTMLElement).onclick = () => this.#use("webcam", () => this.#openWebcam());
    find("sample", HTMLElement).onclick = () => this.#use("sample", openSample);
    file.onchange = () => {
      const [chosen] = file.files ?? [];
      if (chosen) this.#use("open", () => openFile(chosen));
      // the same file may be chosen again
      file.value = "";
    };
    find("open", HTMLElement).onclick = () => file.click();
    device.onchange = () => this.#use("webcam", () => this.#openWebcam(device.value));
    find("stop", HTMLElement).onclick = () => this.#stop();
    find("settings", HTMLFormElement).onsubmit = (event) => event.preventDefault();
    for (const id of ["camera-model", "window", "every"]) find(id, HTMLElement).onchange = () => this.#connect();
    const exact = find("exact", HTMLInputElement);
    exact.onchange = () => this.#stage.showAnswered(exact.checked);
    const mirror = find("mirror", HTMLInputElement);
    mirror.onchange = () => this.#stage.mirror(mirror.checked);
    addEventListener("online", () => this.#stream?.retry());
    setInterval(() => this.#tick(), TICK_MS);
    this.#show(null);
  }

  /** @param {import("./status.js").Model[]} models */
  offerModels(models) {
    const select = find("camera-model", HTMLSelectElement);
    fillSelect(select, namesFor(models, ["image", "bytes"], select.value));
  }

  /** @param {string} button @param {() => Promise<Source>} open */
  async #use(button, open) {
    this.#stop();
    const turn = ++this.#opening;
    this.#press(button);
    try {
      const source = await open();
      if (turn === this.#opening) this.#show(source);
      else source.stop();
    } catch (error) {
      if (turn !== this.#opening) return;
      this.#stop();
      const problem = /** @type {Error} */ (error);
      this.#complain(button === "webcam" ? cameraWords(problem, location) : openWords(problem));
    }
  }

  /** @param {string} [deviceId] */
  async #openWebcam(deviceId) {
    const source = await openWebcam(deviceId, () => {
      this.#stop();
      this.#complain("The camera is gone: it was unplugged or switched off.");
    });
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    const select = find("device", HTMLSelectElement);
    select.replaceChildren(...cameras.map((camera) => make("option", { value: camera.deviceId }, camera.label)));
    select.value = source.deviceId ?? "";
    select.hidden = cameras.length < 2;
    return source;
  }

  /** @param {Source | null} source */
  #show(source) {
    this.#source = source;
    this.#stage.show(source);
    const mirror = find("mirror", HTMLInputElement);
    mirror.checked = source?.mirrored ?? false;
    this.#stage.mirror(mirror.checked);
    find("stop", HTMLButtonElement).disabled = source === null;
    if (source === null) return;
    this.#connect();
    source.start((captured) => this.#offer(captured));
  }

  /** @param {string | null} button */
  #press(button) {
    for (const id of ["webcam", "open", "sample"]) find(id, HTMLElement).ariaPressed = String(id === button);
  }

  #stop() {
    this.#opening++;
    this.#press(null);
    this.#source?.stop();
    this.#stream?.close();
    this.#stream = null;
    this.#complain("");
    this.#dashboard.stop();
    this.#forget();
    this.#show(null);
  }

  /** Take away what was answered last: it is no longer true. */
  #forget() {
    this.#stage.forget();
    find("faces", HTMLElement).textContent = "–";
    find("outputs", HTMLElement).hidden = true;
  }

  #connect() {
    if (this.#source === null) return;
    this.#stream?.close();
    this.#captured = 0;
    this.#dashboard.reset();
    const stream = connect(SERVER_URL, {
      model: find("camera-model", HTMLSelectElement).value,
      policy: "latest",
      window: Number(find("window", HTMLSelectElement).value),
      ahead: find("every", HTMLInputElement).checked ? MAX_WINDOW : undefined,
      onAnswer: (answer) => stream === this.#stream && this.#answer(answer),
      onState: ({ name }) => {
        if (stream !== this.#stream) return;
        if (name !== "ready") this.#forget();
        this.#tick();
      },
    });
    this.#stream = stream;
  }

  /** @param {number} captured */
  #offer(captured) {
    const fps = Number(find("fps", HTMLSelectElement).value);
    if (captured < this.#nextFrame - EARLY_MS) return;
    this.#nextFrame = fps === 0 ? 0 : Math.max(this.#nextFrame + 1_000 / fps, captured);
    this.#captured++;
    this.#stream?.offer(() => this.#encode(), { captured }).catch((error) => this.#complain(openWords(error)));
  }

  /** Encode what the source shows now: the newest frame there is. @returns {Promise<Blob | null>} */
  #encode() {
    if (this.#source === null) return Promise.resolve(null);
    const { width, height } = this.#source.size();
    Object.assign(this.#work, workingSize(width, height, Number(find("width", HTMLSelectElement).value)));
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (this.#work.getContext("2d"));
    context.drawImage(this.#source.element, 0, 0, this.#work.width, this.#work.height);
    return this.#work.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
  }

  /** @param {import("./client/client.js").Answer} answer */
  #answer(answer) {
    this.#dashboard.answer(performance.now(), answer);
    if (answer.type !== "result") return;
    const { outputs } = answer;
    const hasFaces = Array.isArray(outputs?.faces);
    find("faces", HTMLElement).textContent = hasFaces ? String(outputs.faces.length) : "–";
    const other = find("outputs", HTMLElement);
    other.hidden = hasFaces;
    if (hasFaces) this.#stage.find(outputs, /** @type {Blob} */ (answer.item));
    else other.textContent = JSON.stringify(outputs, null, 2);
  }

  #tick() {
    const stream = this.#stream;
    if (stream === null) return;
    const { droppedBy, ...counters } = stream.counters;
    const now = performance.now();
    this.#dashboard.tick(
      now,
      { captured: this.#captured, ...counters, ...droppedBy },
      stream.bufferedBytes > HIGH_WATER_BYTES,
    );
    if (this.#trouble === "") this.#notice.tell(stream.state, now);
  }

  /** Say what is wrong with the source; it stays until the next one. @param {string} words */
  #complain(words) {
    this.#trouble = words;
    this.#notice.say(words);
  }
}

/** @param {Error} error */
function openWords(error) {
  return error.name === "NotSupportedError" || error.name === "InvalidStateError" || error.name === "EncodingError"
    ? "This browser cannot show that file. Try a JPEG or PNG picture, or an MP4 or WebM video."
    : `That did not work: ${error.message}`;
}
