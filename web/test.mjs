// Tests the page in headless Chromium: `node test.mjs svdo.html OTHER.svdo SCREENSHOTS`, with playwright-core
// installed. With pointer events as a hand makes them, with keys alone, with a dropped file, at the widths of a
// desk and a telephone.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

import { accessible } from "./accessible.mjs";

const [html, other, screenshots] = process.argv.slice(2);
const { chromium } = createRequire(`${process.env.SVDO_NODE_MODULES ?? process.cwd()}/`)("playwright-core");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

/** The page in a window, and what went wrong there. */
async function open(width, height, colorScheme = "light") {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, hasTouch: width < 600 });
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("request", (request) => !/^(file|data|blob):/.test(request.url()) && problems.push(request.url()));
  await page.goto(pathToFileURL(html).href);
  await page.waitForSelector("body[data-ready]", { timeout: 10000 }).catch(() => assert.fail(problems.join("\n") || "not ready"));
  return { page, problems };
}

/** Strokes of a digit in a unit square, top left first. */
const STROKES = {
  0: [Array.from({ length: 33 }, (_, i) => [0.5 + 0.26 * Math.sin(i / 5.1), 0.5 - 0.38 * Math.cos(i / 5.1)])],
  1: [[[0.5, 0.12], [0.5, 0.88]]],
  4: [[[0.3, 0.15], [0.25, 0.5], [0.7, 0.5]], [[0.68, 0.15], [0.66, 0.88]]],
  7: [[[0.25, 0.18], [0.75, 0.18], [0.45, 0.88]]],
};

async function draw(page, strokes) {
  const box = await page.locator("#pad").boundingBox();
  const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
  for (const [first, ...rest] of strokes) {
    await page.mouse.move(...at(first));
    await page.mouse.down();
    for (const point of rest) await page.mouse.move(...at(point), { steps: 8 });
    await page.mouse.up();
  }
  await page.waitForFunction(() => !document.getElementById("answer").textContent.startsWith("Nothing"));
}

const best = (page) => page.locator("#bars .best .class").textContent();

for (const [width, height, scheme] of [[1280, 900, "light"], [390, 844, "dark"], [320, 640, "light"]]) {
  const { page, problems } = await open(width, height, scheme);

  // By pointer: what is drawn is what is seen.
  for (const [digit, strokes] of Object.entries(STROKES)) {
    await draw(page, strokes);
    assert.equal(await best(page), digit, `drawn at ${width} pixels`);
    if (digit === "4") await page.screenshot({ path: `${screenshots}/drawn-${width}.png` });
    await page.click("#clear");
    await page.waitForFunction(() => document.getElementById("answer").textContent.startsWith("Nothing"));
  }

  // The digits of the test set, and what is said of them.
  for (let digit = 0; digit < 10; digit++) {
    await page.getByRole("button", { name: `Show a ${digit}` }).click();
    await page.waitForFunction((digit) => document.querySelector("#bars .best .class")?.textContent === String(digit), digit);
  }
  assert.match(await page.textContent("#doubt"), /^Uncertainty: 0\.\d+ nats of at most 2\.30/);
  const sum = await page.$$eval("#bars .value", (values) => values.reduce((sum, of) => sum + parseFloat(of.textContent), 0));
  assert.ok(Math.abs(sum - 100) < 0.6, `${sum} %`);
  await page.waitForFunction(() => /^[\d.]+ (µs|ms)$/.test(document.getElementById("time").textContent));
  const [bytes] = (await page.textContent("#bytes")).replace(",", "").match(/\d+/);
  assert.ok(Number(bytes) < 6000, `${bytes} bytes`);

  // By keys alone: a one.
  await page.focus("#pad");
  await page.keyboard.press("Delete");
  for (let i = 0; i < 9; i++) await page.keyboard.press("ArrowUp");
  await page.keyboard.press(" ");
  assert.equal(await page.textContent("#cell"), "The pen is down");
  for (let i = 0; i < 18; i++) await page.keyboard.press("ArrowDown");
  await page.keyboard.press(" ");
  await page.waitForFunction(() => document.querySelector("#bars .best .class")?.textContent === "1");
  await page.screenshot({ path: `${screenshots}/keys-${width}.png` });
  await accessible(page, `at ${width} pixels`);

  // A file that is no network, and one that is another, chosen and dropped.
  await page.setInputFiles("#file", { name: "not.svdo", mimeType: "", buffer: Buffer.from("nothing of the kind") });
  await page.waitForSelector("#problem:not([hidden])");
  assert.match(await page.textContent("#problem"), /^not\.svdo: .*SVDO/);
  await accessible(page, `at ${width} pixels`);
  await page.setInputFiles("#file", other);
  await page.waitForSelector("#problem[hidden]", { state: "attached" });
  const layers = await page.$$eval(".layer h3", (names) => names.map((name) => name.textContent));
  assert.deepEqual(layers, ["fc1", "fc2", "fc3"]);
  assert.match(await page.textContent("#about"), /in 3 layers/);
  await page.getByRole("button", { name: "Show a 5" }).click();
  await page.waitForFunction(() => document.getElementById("doubt").textContent.startsWith("The file has no variances"));
  await accessible(page, `at ${width} pixels`);
  await page.screenshot({ path: `${screenshots}/other-${width}.png`, fullPage: true });
  await page.click("#back");
  await page.waitForFunction(() => document.querySelectorAll(".layer").length === 4);
  const file = [...readFileSync(other)];
  await page.evaluate((file) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(file)], "dropped.svdo"));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  }, file);
  await page.waitForFunction(() => document.getElementById("about").textContent.startsWith("dropped.svdo"));
  assert.deepEqual(problems, []);
  console.log(`page at ${width} pixels (${scheme}): drawn, typed, chosen and dropped`);
  await page.context().close();
}
await browser.close();
