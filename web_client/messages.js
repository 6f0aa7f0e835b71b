/** The page's messages about cameras and streams. Pure. */

/**
 * Why the camera cannot be opened.
 *
 * @param {Error} error  Thrown by `openWebcam`.
 * @param {{protocol: string, port: string}} location
 */
export function cameraMessage(error, location) {
  switch (error.name) {
    case "NotSupportedError":
      return location.protocol === "http:"
        ? "Browsers allow camera access only on pages opened over https, or, on the server's own machine, as " +
            `http://localhost:${location.port || 80}. Files and the sample work here too.`
        : "This browser does not support cameras in web pages. Files and the sample work here too.";
    case "NotAllowedError":
    case "SecurityError":
      return "Camera access was denied. Allow it in the site settings next to the address, then choose Webcam again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera found. Connect one, or choose a file or the sample.";
    case "NotReadableError":
    case "AbortError":
      return "The camera is in use by another program. Close that program, then choose Webcam again.";
    default:
      return `The camera failed to start: ${error.message}`;
  }
}

/** Why a file or the sample cannot be used. @param {Error} error */
export function fileMessage(error) {
  return error.name === "NotSupportedError" || error.name === "InvalidStateError" || error.name === "EncodingError"
    ? "This browser cannot show that file. Try a JPEG or PNG picture, or an MP4 or WebM video."
    : `The source failed: ${error.message}`;
}

/**
 * Why a stream is not served; empty if it is.
 *
 * @param {import("./client/connection.js").State} state
 */
export function streamMessage({ name, reason }) {
  if (name === "draining") return "The server is shutting down. It answers accepted items and takes no new ones.";
  if (name === "waiting" && reason) return reasonMessage(reason);
  if (name === "refused" && reason) return `The server refused the stream. ${sentence(reason.message)}`;
  return "";
}

/**
 * When the client reconnects; empty if no attempt is scheduled.
 *
 * @param {import("./client/connection.js").State} state
 * @param {number} now  By the stream's clock, in milliseconds.
 */
export function retryMessage({ retryAt }, now) {
  return retryAt === null ? "" : `Retrying in ${Math.max(0, Math.ceil((retryAt - now) / 1_000))} s.`;
}

/** @param {{code: string, message: string}} reason */
function reasonMessage({ code, message }) {
  switch (code) {
    case "connection_lost":
      return "The server cannot be reached.";
    case "draining":
      return "The server is shutting down.";
    case "model_unavailable":
      return sentence(message);
    case "overloaded":
    case "too_many_streams":
      return "The server is at capacity.";
    default:
      return `The server ended the stream. ${sentence(message)}`;
  }
}

/** Capitalize and punctuate the server's message. @param {string} text */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
