/** The client is for other people's pages and workers: its folder stands alone. That it uses no DOM, tsc checks. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const folder = new URL("../../web_client/client/", import.meta.url);
const files = readdirSync(folder);

// `import` and `export ... from`, dynamic imports, and imports in type comments
const SPECIFIER = /\b(?:from|import)\s*\(?\s*["'`]([^"'`]+)/g;

test("client/ has the modules that other pages import", () => {
  assert.deepEqual(files.sort(), ["client.js", "connection.js", "pending_items.js", "protocol.js"]);
});

for (const file of files) {
  test(`client/${file} imports nothing outside client/`, () => {
    const specifiers = [...readFileSync(new URL(file, folder), "utf8").matchAll(SPECIFIER)].map(([, name]) => name);
    const siblings = files.map((each) => `./${each}`);
    assert.deepEqual(specifiers.filter((name) => !siblings.includes(name)), []);
  });

  test(`client/${file} loads where there is no DOM`, async () => {
    assert.equal(typeof globalThis.document, "undefined");
    assert.ok(Object.keys(await import(new URL(file, folder).href)).length > 0);
  });
}
