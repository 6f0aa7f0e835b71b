/** Tabs as the ARIA Authoring Practices describe them, with the selected one in the address's hash. */

/**
 * @param {HTMLElement} list  The element of role `tablist`; each tab's `aria-controls` names its panel.
 * @param {(name: string) => void} onSelect  Told the selected tab's name: its hash.
 */
export function makeTabs(list, onSelect) {
  const tabs = /** @type {HTMLButtonElement[]} */ ([...list.querySelectorAll("[role=tab]")]);

  /** @param {HTMLButtonElement} chosen */
  function select(chosen) {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      const panel = document.getElementById(tab.getAttribute("aria-controls") ?? "");
      if (panel) panel.hidden = !isChosen;
    }
    onSelect(nameOf(chosen));
  }

  function followHash() {
    const named = tabs.find((tab) => `#${nameOf(tab)}` === location.hash);
    const chosen = named ?? tabs[0];
    if (chosen) select(chosen);
  }

  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      history.replaceState(null, "", `#${nameOf(tab)}`);
      select(tab);
    });
  }
  list.addEventListener("keydown", (event) => {
    const here = tabs.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    const moves = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: -1 };
    if (here < 0 || !(event.key in moves)) return;
    event.preventDefault();
    const next = tabs.at(moves[/** @type {keyof moves} */ (event.key)] % tabs.length);
    next?.focus();
    next?.click();
  });
  addEventListener("hashchange", followHash);
  followHash();
}

/** @param {HTMLElement} tab */
function nameOf(tab) {
  return tab.id.replace("tab-", "");
}
