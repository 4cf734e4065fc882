// Looks at HTML reports in headless Chromium, on a desk and on a telephone: `node reports.mjs SCREENSHOTS REPORT.html...`.

import { createRequire } from "node:module";
import { basename } from "node:path";
import { pathToFileURL } from "node:url";

import { accessible } from "./accessible.mjs";

const [screenshots, ...reports] = process.argv.slice(2);
const { chromium } = createRequire(`${process.env.SVDO_NODE_MODULES ?? process.cwd()}/`)("playwright-core");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
for (const report of reports) {
  for (const [width, colorScheme] of [[1280, "light"], [400, "light"], [400, "dark"]]) {
    const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme });
    const page = await context.newPage();
    await page.goto(pathToFileURL(report).href);
    const name = basename(report, ".html");
    await page.screenshot({ path: `${screenshots}/${name}-${width}-${colorScheme}.png`, fullPage: true });
    await accessible(page, `${name} at ${width} pixels, ${colorScheme}`, 3);
    await context.close();
  }
  console.log(`${basename(report)}: labels, contrast and tables at 1280 and 400 pixels`);
}
await browser.close();
