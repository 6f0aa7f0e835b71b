/** The page: puts its tabs together and tells them what the server says of itself. */

import { Camera } from "./camera.js";
import { watchCatalogue } from "./status.js";
import { find } from "./dom.js";
import { showModels } from "./models.js";
import { makeTabs } from "./tabs.js";
import { Text } from "./text.js";

const HEALTH_WORDS = { ready: "Ready", "not ready": "Not ready", draining: "Shutting down", gone: "No answer" };

const camera = new Camera();
const text = new Text();

makeTabs(find("tabs", HTMLElement), (name) => {
  if (name === "text") text.open();
});

watchCatalogue((catalogue) => {
  const health = find("health", HTMLElement);
  health.textContent = HEALTH_WORDS[catalogue.health];
  health.dataset.state = catalogue.health;
  camera.offerModels(catalogue.models);
  text.offerModels(catalogue.models);
  showModels(catalogue);
}, () => !find("models", HTMLElement).hidden);
