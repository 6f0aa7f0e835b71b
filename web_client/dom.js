/** Find and create elements. Text is set as text, never as markup. */

/**
 * The element with an id that the page is known to have.
 *
 * @template {HTMLElement} T
 * @param {string} id @param {new () => T} type
 * @returns {T}
 */
export function find(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return element;
}

/**
 * Create an element.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * Set the options of a select; the selection is kept if it is still available.
 *
 * @param {HTMLSelectElement} select @param {string[]} names
 */
export function fillSelect(select, names) {
  if (names.length === 0 || names.join() === [...select.options].map((option) => option.value).join()) return;
  const selected = select.value;
  select.replaceChildren(...names.map((name) => make("option", {}, name)));
  if (names.includes(selected)) select.value = selected;
}
