/** Where a picture of one size lies in a box of another. Pure: no canvas, no document. */

/**
 * Fit a picture into a box as CSS `object-fit: contain` does: as large as it can be, centred.
 *
 * @param {number} boxWidth @param {number} boxHeight @param {number} width @param {number} height  Of the picture.
 * @returns {{x: number, y: number, scale: number}}  Its top left corner, and box pixels for one of its own.
 */
export function fit(boxWidth, boxHeight, width, height) {
  const scale = Math.min(boxWidth / width, boxHeight / height);
  return { x: (boxWidth - width * scale) / 2, y: (boxHeight - height * scale) / 2, scale };
}

/**
 * Make what maps points of a picture to points of the box it is fitted into.
 *
 * @param {{x: number, y: number, scale: number}} place  From `fit`.
 * @param {number} width  Of the picture.
 * @param {boolean} mirrored  Whether left and right are exchanged.
 * @returns {(x: number, y: number) => [number, number]}
 */
export function mapper(place, width, mirrored) {
  return (x, y) => [place.x + (mirrored ? width - x : x) * place.scale, place.y + y * place.scale];
}

/**
 * The size to send a picture at: no wider than asked, and never larger than it is.
 *
 * @param {number} width @param {number} height @param {number} widest
 */
export function workingSize(width, height, widest) {
  const scale = Math.min(1, widest / width);
  return { width: Math.round(width * scale), height: Math.max(1, Math.round(height * scale)) };
}
