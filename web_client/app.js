/** The page: sets up its tabs and shows the server's status in them. */

import { Camera } from "./camera.js";
import { find } from "./dom.js";
import { showModels } from "./models.js";
import { watchStatus } from "./status.js";
import { makeTabs } from "./tabs.js";
import { Text } from "./text.js";

const HEALTH_LABELS = {
  ready: "Ready",
  "not ready": "Not ready",
  draining: "Shutting down",
  unreachable: "Unreachable",
};

const camera = new Camera();
const text = new Text();

makeTabs(find("tabs", HTMLElement), (name) => {
  if (name === "text") text.open();
});

watchStatus(
  (status) => {
    const health = find("health", HTMLElement);
    health.textContent = HEALTH_LABELS[status.health];
    health.dataset.state = status.health;
    camera.setModels(status.models);
    text.setModels(status.models);
    showModels(status);
  },
  () => !find("models", HTMLElement).hidden,
);
