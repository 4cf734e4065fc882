// Pictures of weights: a histogram, and a map of where they are.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The histogram of values: bars of equal widths from the largest magnitude's negative to itself. */
export function histogram(values, bins = 41) {
  const most = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const counts = new Array(bins).fill(0);
  for (const value of values) {
    const at = most === 0 ? bins >> 1 : Math.floor(((value / most + 1) / 2) * bins);
    counts[Math.min(bins - 1, at)] += 1;
  }
  const tallest = Math.max(1, ...counts);
  const svg = document.createElementNS(SVG, "svg");
  const [width, height] = [10 * bins, 100];
  const label = `Histogram of ${values.length} weights from ${short(-most)} to ${short(most)}`;
  const attributes = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  counts.forEach((count, at) => {
    const tall = count === 0 ? 0 : Math.max(1, (count / tallest) * (height - 4));
    const bar = document.createElementNS(SVG, "rect");
    bar.setAttribute("class", at < bins >> 1 ? "negative" : at > bins >> 1 ? "positive" : "middle");
    for (const [key, value] of Object.entries({ x: 10 * at + 1, y: height - tall, width: 8, height: tall })) {
      bar.setAttribute(key, value);
    }
    svg.append(bar);
  });
  return figure(svg, values.length === 0 ? "No weight is left" : `${short(-most)} … 0 … ${short(most)}`);
}

/** Where the weights of a matrix are: a cell of the picture is the largest magnitude of the weights in it. */
export function weightMap({ rows, columns }, { values, columns: at, rowStarts }) {
  const [height, width] = [Math.min(rows, 160), Math.min(columns, 400)];
  const [tall, wide] = [height / rows, width / columns];
  const cells = new Float32Array(height * width);
  for (let row = 0; row < rows; row++) {
    for (let entry = rowStarts[row]; entry < rowStarts[row + 1]; entry++) {
      const cell = Math.floor(row * tall) * width + Math.floor(at[entry] * wide);
      if (Math.abs(values[entry]) > Math.abs(cells[cell])) cells[cell] = values[entry];
    }
  }
  const most = cells.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  const label = `Map of ${values.length} weights in ${rows} rows and ${columns} columns`;
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim().match(/[\da-f]{2}/gi).map((part) => parseInt(part, 16));
  const [positive, negative] = [color("--accent"), color("--negative")];
  cells.forEach((value, cell) => {
    const [red, green, blue] = value > 0 ? positive : negative;
    const alpha = value === 0 ? 0 : 80 + 175 * (Math.abs(value) / most);
    image.data.set([red, green, blue, alpha], 4 * cell);
  });
  context.putImageData(image, 0, 0);
  return figure(canvas, `${rows} units by ${columns} inputs`);
}

function figure(picture, caption) {
  return element("figure", {}, picture, element("figcaption", {}, caption));
}

/** A number in three digits. */
export function short(value) {
  return value === 0 ? "0" : Number(value.toPrecision(3)).toString().replace("-", "−");
}
