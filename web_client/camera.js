/** The Camera tab: sends a source's frames through a stream and shows the answers over them. */

import { Banner } from "./banner.js";
import { HIGH_WATER_BYTES, connect } from "./client/client.js";
import { MAX_WINDOW } from "./client/protocol.js";
import { Dashboard } from "./dashboard.js";
import { fillSelect, find, make } from "./dom.js";
import { frameSize } from "./layout.js";
import { cameraMessage, fileMessage } from "./messages.js";
import { readDetections } from "./outputs.js";
import { SERVER_URL } from "./server_url.js";
import { openFile, openSample, openWebcam } from "./sources.js";
import { modelNames } from "./status.js";
import { Viewer } from "./viewer.js";

/**
 * @typedef {import("./sources.js").Source} Source
 * @typedef {import("./client/client.js").Stream} Stream
 */

/** How often the statistics are updated: slow enough to be read. */
const UPDATE_MS = 250;

/** How early a frame may be and still be sent: cameras jitter by some milliseconds. */
const EARLY_MS = 5;

const JPEG_QUALITY = 0.8;

export class Camera {
  #viewer = new Viewer(
    find("viewer", HTMLElement),
    find("overlay", HTMLCanvasElement),
    find("answered", HTMLCanvasElement),
  );
  #dashboard = new Dashboard();
  #canvas = new OffscreenCanvas(1, 1);
  /** @type {Source | null} */ #source = null;
  /** @type {Stream | null} */ #stream = null;
  #captured = 0;
  #nextFrame = 0;
  #opened = 0;
  #sourceError = "";
  #banner = new Banner("camera", () => this.#stream?.retry());

  constructor() {
    const file = find("file", HTMLInputElement);
    const device = find("device", HTMLSelectElement);
    find("webcam", HTMLElement).onclick = () => this.#use("webcam", () => this.#openWebcam());
    find("sample", HTMLElement).onclick = () => this.#use("sample", openSample);
    file.onchange = () => {
      const [chosen] = file.files ?? [];
      if (chosen) this.#use("open", () => openFile(chosen));
      // without this, choosing the same file again fires no event
      file.value = "";
    };
    find("open", HTMLElement).onclick = () => file.click();
    device.onchange = () => this.#use("webcam", () => this.#openWebcam(device.value));
    find("stop", HTMLElement).onclick = () => this.#stop();
    find("settings", HTMLFormElement).onsubmit = (event) => event.preventDefault();
    for (const id of ["camera-model", "window", "every"]) find(id, HTMLElement).onchange = () => this.#connect();
    const answeredOnly = find("answered-only", HTMLInputElement);
    answeredOnly.onchange = () => this.#viewer.showAnsweredFrames(answeredOnly.checked);
    const mirror = find("mirror", HTMLInputElement);
    mirror.onchange = () => this.#viewer.setMirrored(mirror.checked);
    addEventListener("online", () => this.#stream?.retry());
    setInterval(() => this.#update(), UPDATE_MS);
    this.#show(null);
  }

  /** @param {import("./status.js").Model[]} models */
  setModels(models) {
    const select = find("camera-model", HTMLSelectElement);
    fillSelect(select, modelNames(models, ["image", "bytes"], select.value));
  }

  /** @param {string} button @param {() => Promise<Source>} open */
  async #use(button, open) {
    this.#stop();
    const opened = ++this.#opened;
    this.#press(button);
    try {
      const source = await open();
      if (opened === this.#opened) this.#show(source);
      else source.stop();
    } catch (error) {
      if (opened !== this.#opened) return;
      this.#stop();
      const reason = /** @type {Error} */ (error);
      this.#showSourceError(button === "webcam" ? cameraMessage(reason, location) : fileMessage(reason));
    }
  }

  /** @param {string} [deviceId] */
  async #openWebcam(deviceId) {
    const source = await openWebcam(deviceId, () => {
      this.#stop();
      this.#showSourceError("The camera was disconnected.");
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
    this.#viewer.show(source);
    const mirror = find("mirror", HTMLInputElement);
    mirror.checked = source?.mirrored ?? false;
    this.#viewer.setMirrored(mirror.checked);
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
    this.#opened++;
    this.#press(null);
    this.#source?.stop();
    this.#stream?.close();
    this.#stream = null;
    this.#showSourceError("");
    this.#dashboard.stop();
    this.#clearAnswer();
    this.#show(null);
  }

  /** Remove the last answer, which is out of date. */
  #clearAnswer() {
    this.#viewer.clear();
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
      maxUnanswered: find("every", HTMLInputElement).checked ? MAX_WINDOW : undefined,
      onAnswer: (answer) => stream === this.#stream && this.#answer(answer),
      onState: ({ name }) => {
        if (stream !== this.#stream) return;
        if (name !== "ready") this.#clearAnswer();
        this.#update();
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
    this.#stream?.offer(() => this.#encode(), { captured }).catch((error) => this.#showSourceError(fileMessage(error)));
  }

  /** Encode the source's current frame. @returns {Promise<Blob | null>} */
  #encode() {
    if (this.#source === null) return Promise.resolve(null);
    const { width, height } = this.#source.size();
    Object.assign(this.#canvas, frameSize(width, height, Number(find("width", HTMLSelectElement).value)));
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    context.drawImage(this.#source.element, 0, 0, this.#canvas.width, this.#canvas.height);
    return this.#canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
  }

  /** @param {import("./client/client.js").Answer} answer */
  #answer(answer) {
    this.#dashboard.answer(performance.now(), answer);
    if (answer.type !== "result") return;
    const { outputs } = answer;
    const detections = readDetections(outputs);
    find("faces", HTMLElement).textContent = detections ? String(detections.faces.length) : "–";
    const rawOutputs = find("outputs", HTMLElement);
    rawOutputs.hidden = detections !== null;
    if (detections) this.#viewer.showDetections(detections, /** @type {Blob} */ (answer.item));
    else {
      this.#viewer.clear();
      rawOutputs.textContent = JSON.stringify(outputs, null, 2);
    }
  }

  #update() {
    const stream = this.#stream;
    if (stream === null) return;
    const { droppedBy, ...counters } = stream.counters;
    const now = performance.now();
    this.#dashboard.update(
      now,
      { captured: this.#captured, ...counters, ...droppedBy },
      stream.bufferedBytes > HIGH_WATER_BYTES,
    );
    if (this.#sourceError === "") this.#banner.showState(stream.state, now);
  }

  /** Show what is wrong with the source, until the next one is opened. @param {string} message */
  #showSourceError(message) {
    this.#sourceError = message;
    this.#banner.show(message);
  }
}
