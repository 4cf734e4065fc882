// What a reader of a page needs: labels, names, contrast, and nothing cut off.

import assert from "node:assert/strict";

/** Fails unless nothing is wider than the window, pictures and controls have names, and text stands out. */
export async function accessible(page, where, least = 4.5) {
  const found = await page.evaluate((least) => {
    const problems = [];
    if (!document.documentElement.lang) problems.push("no language");
    if (document.documentElement.scrollWidth > window.innerWidth) problems.push("wider than the window");
    for (const picture of document.querySelectorAll("svg, canvas, img")) {
      const named = picture.getAttribute("aria-label") || picture.getAttribute("alt") ||
        picture.querySelector?.("title") || picture.closest("[aria-hidden=true]");
      if (!named) problems.push(`no label: ${picture.outerHTML.slice(0, 80)}`);
    }
    for (const control of document.querySelectorAll("button, input")) {
      const named = control.textContent.trim() || control.labels?.length || control.getAttribute("aria-label");
      if (!named) problems.push(`no name: ${control.outerHTML.slice(0, 80)}`);
    }
    for (const table of document.querySelectorAll("table")) {
      if (!table.querySelector("th")) problems.push(`no heads: ${table.textContent.slice(0, 60)}`);
      // What does not fit can be scrolled to.
      let around = table;
      while (around && around.scrollWidth <= around.clientWidth) around = around.parentElement;
      if (around && around.tagName !== "HTML" && getComputedStyle(around).overflowX === "hidden") {
        problems.push(`a table cut off: ${table.textContent.slice(0, 60)}`);
      }
      if (table.getBoundingClientRect().right > innerWidth) {
        let scrolls = table;
        while (scrolls && !/auto|scroll/.test(getComputedStyle(scrolls).overflowX)) scrolls = scrolls.parentElement;
        if (!scrolls) problems.push(`a table beyond the window: ${table.textContent.slice(0, 60)}`);
      }
    }
    const parts = (color) => {
      const numbers = color.match(/[\d.]+/g).map(Number);
      return numbers.length < 4 ? [...numbers, 1] : numbers;
    };
    const light = ([...rgb]) => {
      const [r, g, b] = rgb.slice(0, 3).map((part) => {
        const c = part / 255;
        return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const ground = (of) => {
      for (let at = of; at; at = at.parentElement) {
        const color = parts(getComputedStyle(at).backgroundColor);
        if (color[3] > 0.5) return color;
      }
      return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    };
    const text = (of) => [...of.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    for (const of of document.querySelectorAll("body *")) {
      if (!text(of) || !of.getClientRects().length || of.closest("script, style, title")) continue;
      const style = getComputedStyle(of);
      const color = parts(of.namespaceURI?.endsWith("svg") ? style.fill : style.color);
      const found = contrast(color, ground(of));
      if (found < least) problems.push(`contrast ${found.toFixed(1)}: ${of.textContent.trim().slice(0, 40)}`);
      if (of.scrollWidth > of.clientWidth + 1 && style.overflow === "hidden" && !of.matches(".hidden")) {
        problems.push(`cut off: ${of.textContent.slice(0, 40)}`);
      }
    }
    return [...new Set(problems)];
  }, least);
  assert.deepEqual(found, [], where);
}
