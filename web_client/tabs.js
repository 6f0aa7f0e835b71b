/** Tabs as in the ARIA Authoring Practices; the URL's hash names the selected one. */

/**
 * @param {HTMLElement} list  The element of role `tablist`; each tab's `aria-controls` is its panel's id.
 * @param {(name: string) => void} onSelect  Called with the selected tab's name.
 */
export function makeTabs(list, onSelect) {
  const tabs = /** @type {HTMLButtonElement[]} */ ([...list.querySelectorAll("[role=tab]")]);

  /** @param {HTMLButtonElement} selected */
  function select(selected) {
    for (const tab of tabs) {
      const isSelected = tab === selected;
      tab.setAttribute("aria-selected", String(isSelected));
      tab.tabIndex = isSelected ? 0 : -1;
      const panel = document.getElementById(tab.getAttribute("aria-controls") ?? "");
      if (panel) panel.hidden = !isSelected;
    }
    onSelect(nameOf(selected));
  }

  function followHash() {
    const named = tabs.find((tab) => `#${nameOf(tab)}` === location.hash);
    const selected = named ?? tabs[0];
    if (selected) select(selected);
  }

  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      history.replaceState(null, "", `#${nameOf(tab)}`);
      select(tab);
    });
  }
  list.addEventListener("keydown", (event) => {
    const index = tabs.indexOf(/** @type {HTMLButtonElement} */ (event.target));
    const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 };
    if (index < 0 || !(event.key in moves)) return;
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
