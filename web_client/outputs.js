/**
 * Recognises outputs that the page can draw: models may output anything. Pure: no DOM.
 *
 * Outputs of another shape, or with values that cannot be drawn, are shown as JSON.
 */

/**
 * @typedef {[number, number]} Point
 * @typedef {{box: [number, number, number, number], score: number | null, landmarks: Point[]}} Face
 * @typedef {{faces: Face[], width: number, height: number}} Detections  In pixels of the sent frame.
 * @typedef {{label: string, scores: Record<string, number>}} Classification
 */

/**
 * Read detected faces. Each needs a box; landmarks that are not points are left out, as is a score that is not a number.
 *
 * @param {any} outputs @returns {Detections | null} Null if these are not faces.
 */
export function readDetections(outputs) {
  if (!Array.isArray(outputs?.faces)) return null;
  const { faces, width, height } = outputs;
  if (!(isNumber(width) && isNumber(height) && width > 0 && height > 0)) return null;
  if (!faces.every((/** @type {any} */ face) => isNumbers(face?.box, 4))) return null;
  return { faces: faces.map(readFace), width, height };
}

/** @param {any} face @returns {Face} */
function readFace({ box, score, landmarks }) {
  const points = Array.isArray(landmarks) ? landmarks.filter((point) => isNumbers(point, 2)) : [];
  return { box, score: isNumber(score) ? score : null, landmarks: points };
}

/** @param {any} outputs @returns {Classification | null} Null if these are not a label with scores. */
export function readClassification(outputs) {
  if (typeof outputs?.label !== "string") return null;
  const { label, scores } = outputs;
  const isScores = typeof scores === "object" && scores !== null && !Array.isArray(scores);
  return isScores && Object.values(scores).every(isNumber) ? { label, scores } : null;
}

/** @param {unknown} value @returns {value is number} Whether it is a finite number: JSON's 1e999 is infinite. */
function isNumber(value) {
  return Number.isFinite(value);
}

/** @param {unknown} value @param {number} count */
function isNumbers(value, count) {
  return Array.isArray(value) && value.length === count && value.every(isNumber);
}
