/** What the page says in plain words when something is wrong. Pure. */

/**
 * Why there is no camera.
 *
 * @param {Error} error  What opening it threw.
 * @param {{protocol: string, port: string}} location
 */
export function cameraWords(error, location) {
  switch (error.name) {
    case "NotSupportedError":
      return location.protocol === "http:"
        ? "Browsers give the camera only to pages opened over https, or on the server's own machine as " +
            `http://localhost:${location.port || 80}. A file and the sample work here too.`
        : "This browser offers no camera to pages. A file and the sample work all the same.";
    case "NotAllowedError":
    case "SecurityError":
      return "The camera was refused. Allow it in the site settings beside the address, then choose the webcam again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera was found. Plug one in, or choose a file or the sample.";
    case "NotReadableError":
    case "AbortError":
      return "The camera is in use by another program. Close that one, then choose the webcam again.";
    default:
      return `The camera does not start: ${error.message}`;
  }
}

/**
 * What is wrong with a stream; empty when all is well.
 *
 * @param {import("./client/connection.js").State} state
 */
export function streamWords({ name, reason }) {
  if (name === "draining") return "The server is shutting down: it answers what it has and takes nothing new.";
  if (name === "waiting" && reason) return causeWords(reason);
  if (name === "refused" && reason) return `The server refused the stream. ${sentence(reason.message)}`;
  return "";
}

/**
 * When the next try is; empty when there is none to wait for.
 *
 * @param {import("./client/connection.js").State} state
 * @param {number} now  By the stream's clock, in milliseconds.
 */
export function retryWords({ retryAt }, now) {
  return retryAt === null ? "" : `Next try in ${Math.max(0, Math.ceil((retryAt - now) / 1_000))} s.`;
}

/** @param {{code: string, message: string}} reason */
function causeWords({ code, message }) {
  switch (code) {
    case "connection_lost":
      return "The server is gone.";
    case "draining":
      return "The server is shutting down.";
    case "model_unavailable":
      return sentence(message);
    case "overloaded":
    case "too_many_streams":
      return "The server has all the streams it takes.";
    default:
      return `The server ended the stream. ${sentence(message)}`;
  }
}

/** Make a sentence of the server's words, which begin small and end bare. @param {string} text */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
