/** Sources of frames: a webcam, a file or the sample. Each has an element that shows it, and reports each frame. */

/**
 * @typedef {object} Source
 * @property {HTMLVideoElement | HTMLCanvasElement} element  Shows the source; frames are copied from it.
 * @property {boolean} mirrored  Whether to mirror it by default, as for a camera that faces the user.
 * @property {() => {width: number, height: number}} size
 * @property {(onFrame: (captured: number) => void) => void} start  Calls back with each frame's capture time.
 * @property {() => void} stop
 */

/** Frame rate of a still picture: that of a common webcam. */
const STILL_FPS = 30;

/** Canvas width limit for a still picture: the largest frame width that the page offers. */
const STILL_WIDTH = 1280;

/**
 * Open a webcam. Throws what `getUserMedia` throws, or `NotSupportedError` if this page may not use cameras.
 *
 * @param {string | undefined} deviceId
 * @param {() => void} onEnded  Called when the camera is disconnected.
 * @returns {Promise<Source & {deviceId: string | undefined}>}
 */
export async function openWebcam(deviceId, onEnded) {
  if (!navigator.mediaDevices) throw new DOMException("no camera access for this page", "NotSupportedError");
  const selection = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" };
  const media = await navigator.mediaDevices.getUserMedia({
    video: { ...selection, width: { ideal: 1280 }, frameRate: { ideal: 30 } },
  });
  const video = makeVideo();
  video.srcObject = media;
  await video.play();
  const [track] = media.getVideoTracks();
  track?.addEventListener("ended", onEnded);
  const settings = track?.getSettings();
  const close = () => media.getTracks().forEach((each) => each.stop());
  return {
    ...videoSource(video, close),
    mirrored: settings?.facingMode !== "environment",
    deviceId: settings?.deviceId,
  };
}

/** Open a video or a picture. Throws if the browser cannot decode it. @param {File} file @returns {Promise<Source>} */
export async function openFile(file) {
  if (file.type.startsWith("image/")) return stillSource(await createImageBitmap(file));
  const video = makeVideo();
  const url = URL.createObjectURL(file);
  video.loop = true;
  video.src = url;
  try {
    await video.play();
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
  return videoSource(video, () => {
    video.removeAttribute("src");
    URL.revokeObjectURL(url);
  });
}

/** Open the portrait that is part of the page. @returns {Promise<Source>} */
export async function openSample() {
  const response = await fetch(new URL("sample.jpg", import.meta.url));
  if (!response.ok) throw new Error(`fetching sample.jpg failed with status ${response.status}`);
  return stillSource(await createImageBitmap(await response.blob()));
}

function makeVideo() {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  return video;
}

/** @param {HTMLVideoElement} video @param {() => void} close @returns {Source} */
function videoSource(video, close) {
  let running = true;
  return {
    element: video,
    mirrored: false,
    size: () => ({ width: video.videoWidth, height: video.videoHeight }),
    start(onFrame) {
      const next = (/** @type {number} */ now, /** @type {VideoFrameCallbackMetadata} */ { captureTime }) => {
        if (!running) return;
        onFrame(Math.min(captureTime ?? now, performance.now()));
        video.requestVideoFrameCallback(next);
      };
      video.requestVideoFrameCallback(next);
    },
    stop() {
      running = false;
      video.pause();
      close();
    },
  };
}

/** A picture that moves slowly, so that its answers change. @param {ImageBitmap} bitmap @returns {Source} */
function stillSource(bitmap) {
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, STILL_WIDTH / bitmap.width);
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const moves = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  let request = 0;

  const draw = (/** @type {number} */ now) => {
    const angle = moves ? now / 4_000 : 0;
    const zoom = moves ? 1.08 : 1;
    const width = canvas.width * zoom;
    const height = canvas.height * zoom;
    const x = ((canvas.width - width) * (1 + Math.sin(angle))) / 2;
    const y = ((canvas.height - height) * (1 + Math.cos(angle * 0.7))) / 2;
    context.drawImage(bitmap, x, y, width, height);
  };
  draw(0);

  return {
    element: canvas,
    mirrored: false,
    size: () => canvas,
    start(onFrame) {
      let due = 0;
      const next = (/** @type {number} */ now) => {
        request = requestAnimationFrame(next);
        if (now < due) return;
        // 8 ms early, half of a 60 Hz screen's frame: otherwise jitter would skip every other frame
        due = Math.max(due + 1_000 / STILL_FPS, now) - 8;
        draw(now);
        onFrame(now);
      };
      request = requestAnimationFrame(next);
    },
    stop() {
      cancelAnimationFrame(request);
      bitmap.close();
    },
  };
}
