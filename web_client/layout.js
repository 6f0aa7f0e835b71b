/** Positions of a picture in a box. Pure: no DOM. */

/**
 * Fit a picture into a box like CSS `object-fit: contain`: as large as possible, centred.
 *
 * @param {number} boxWidth @param {number} boxHeight @param {number} width @param {number} height  Of the picture.
 * @returns {{x: number, y: number, scale: number}}  Its top left corner in the box, and box pixels per picture pixel.
 */
export function fit(boxWidth, boxHeight, width, height) {
  const scale = Math.min(boxWidth / width, boxHeight / height);
  return { x: (boxWidth - width * scale) / 2, y: (boxHeight - height * scale) / 2, scale };
}

/**
 * Create a function that maps points of a picture to points of the box that it was fitted into.
 *
 * @param {{x: number, y: number, scale: number}} place  From `fit`.
 * @param {number} width  Of the picture.
 * @param {boolean} mirrored
 * @returns {(x: number, y: number) => [number, number]}
 */
export function pointMapper(place, width, mirrored) {
  return (x, y) => [place.x + (mirrored ? width - x : x) * place.scale, place.y + y * place.scale];
}

/**
 * The size at which to send a frame: at most `maxWidth` wide, and never enlarged.
 *
 * @param {number} width @param {number} height @param {number} maxWidth
 */
export function frameSize(width, height, maxWidth) {
  const scale = Math.min(1, maxWidth / width);
  return { width: Math.round(width * scale), height: Math.max(1, Math.round(height * scale)) };
}
