// The page: a network that is drawn for, and what its file holds.

import { load } from "svdo-web";
import { Pad, SIDE } from "pad";
import { element, histogram, short, weightMap } from "charts";

const $ = (id) => document.getElementById(id);
const grouped = (number) => number.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** What is embedded in the page, or lies beside it while it is worked on. */
async function bytesOf(name, address) {
  const embedded = document.getElementById(`embedded-${name}`);
  if (!embedded) return new Uint8Array(await (await fetch(address)).arrayBuffer());
  const bytes = Uint8Array.from(atob(embedded.textContent.trim()), (c) => c.charCodeAt(0));
  if (embedded.dataset.encoding !== "gzip") return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

let svdo;
let network;

/** The name of a class, or its number where the file names none. */
const nameOf = (of) => network.description.classes[of] ?? String(of);
const pad = new Pad($("pad"), answer, (words) => ($("cell").textContent = words));

/** Whether the network takes what can be drawn. */
function drawable({ input, vocabulary }) {
  return vocabulary === null && input.join() === `1,${SIDE},${SIDE}`;
}

/** Probabilities, and where the file has variances how sure they are. */
function predict() {
  const { inputScale, variances } = network.description;
  // Raw values of the network: of pixels, 0 to 255.
  const pixels = pad.digit().map((value) => value / (255 * inputScale));
  if (variances) return network.predict(pixels)[0];
  const logits = network.run(pixels);
  const most = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - most));
  const sum = powers.reduce((sum, value) => sum + value, 0);
  return { probabilities: powers.map((value) => value / sum) };
}

/** Shows what the network says of the drawing. */
function answer() {
  if (!network || !drawable(network.description)) return;
  if (pad.empty) {
    $("answer").textContent = "Nothing is drawn yet.";
    $("doubt").textContent = "";
    return bars({ probabilities: new Float32Array(network.description.outputElements) });
  }
  const found = predict();
  const best = found.probabilities.indexOf(Math.max(...found.probabilities));
  const sure = found.probabilities[best];
  const words = sure > 0.9 ? "This is a" : sure > 0.5 ? "This may be a" : "Hard to say: perhaps a";
  $("answer").textContent = `${words} ${nameOf(best)} (${percent(sure)}).`;
  bars(found, best);
  if (!found.std) {
    $("doubt").textContent = "The file has no variances: how far to trust this it cannot say.";
    return;
  }
  const share = found.entropy > 0 ? found.mutualInformation / found.entropy : 0;
  $("doubt").textContent =
    `Uncertainty: ${found.entropy.toFixed(3)} nats of at most ${Math.log(found.probabilities.length).toFixed(2)}, ` +
    `${percent(share)} of it because the posterior's networks disagree. Lines on the bars are standard deviations.`;
}

function bars({ probabilities, std }, best) {
  const shown = Array.from(probabilities, (value, of) => ({ value, of })).sort((a, b) => b.value - a.value);
  // Of many classes the likeliest, in their order.
  const chosen = shown.slice(0, 10).sort((a, b) => a.of - b.of);
  const items = chosen.map(({ value, of }) => {
    const track = element("div", { class: "track" }, element("div", { class: "bar", style: `width:${100 * value}%` }));
    if (std) {
      const [low, high] = [Math.max(0, value - std[of]), Math.min(1, value + std[of])];
      track.append(element("div", { class: "std", style: `left:${100 * low}%;width:${100 * (high - low)}%` }));
    }
    const item = element(
      "li",
      {},
      element("span", { class: "class" }, nameOf(of)),
      track,
      element("span", { class: "value" }, percent(value)),
    );
    item.classList.toggle("best", of === best);
    return item;
  });
  $("bars").replaceChildren(...items);
}

/** The shortest of some runs, since clocks of browsers are coarse and others compute, too. */
function time() {
  const { inputElements, inputScale, vocabulary } = network.description;
  const most = vocabulary === null ? 1 / inputScale : 0;
  const x = Float32Array.from({ length: inputElements }, (_, i) => (most * ((i * 37) % 101)) / 101);
  let [best, begun, runs] = [Infinity, performance.now(), 1];
  while (performance.now() - begun < 60) {
    const start = performance.now();
    for (let run = 0; run < runs; run++) network.run(x);
    const took = performance.now() - start;
    if (took < 2) runs *= 2;
    else best = Math.min(best, took / runs);
  }
  return best;
}

function duration(milliseconds) {
  return milliseconds < 1 ? `${short(1000 * milliseconds)} µs` : `${short(milliseconds)} ms`;
}

/** Shows a network. */
function show(name, next) {
  network?.close();
  network = next;
  const { layers, steps, bytes, input, output, variances, isa, program, threshold } = network.description;
  const [kept, total] = [(l) => l.kept, (l) => l.rows * l.columns].map((f) => layers.reduce((sum, l) => sum + f(l), 0));
  const multiplyAdds = steps.reduce((sum, step) => sum + step.multiplyAdds, 0);
  $("draw").hidden = !drawable(network.description);
  $("size").textContent = `${grouped(bytes)} bytes`;
  $("bytes").textContent = `${grouped(bytes)} bytes`;
  $("weights").textContent = grouped(kept);
  $("time").textContent = "…";
  $("engine").textContent = `${program}, ${isa} kernels.`;
  $("about").textContent =
    `${name}: ${grouped(bytes)} bytes, ${grouped(kept)} of ${grouped(total)} weights in ${layers.length} layers, ` +
    `${input.join("×")} to ${output.join("×")}, ${grouped(multiplyAdds)} multiply-adds a run` +
    (threshold === null ? "" : `, pruned at log α > ${short(threshold)}`) +
    (variances ? ", with variances." : ".") +
    (drawable(network.description) ? "" : " Only inputs of 1×28×28 can be drawn.");
  $("layers").replaceChildren(...layers.map(layerOf));
  answer();
  setTimeout(() => {
    if (network !== next) return;
    const took = duration(time());
    $("time").textContent = took;
    if (!drawable(network.description)) $("about").textContent += ` One run takes ${took}.`;
  }, 50);
}

function layerOf(layer, index) {
  const weights = network.weights(index);
  const total = layer.rows * layer.columns;
  const facts = [
    ["Shape", layer.shape.join("×")],
    ["Weights kept", `${grouped(layer.kept)} of ${grouped(total)}`],
    ["Density", percent(total === 0 ? 0 : layer.kept / total)],
    ["Bytes", grouped(layer.bytes)],
    ["Bits a weight", layer.kept === 0 ? "–" : ((8 * layer.bytes) / layer.kept).toFixed(1)],
    ["Stored as", layer.stored],
  ];
  const name = layer.name || `layer ${index + 1}`;
  return element(
    "article",
    { class: "layer", "aria-label": `Layer ${name}` },
    element("h3", {}, name),
    element("dl", { class: "facts" }, ...facts.map(([term, value]) =>
      element("div", {}, element("dt", {}, term), element("dd", {}, value)))),
    element("div", { class: "pictures" }, histogram(weights.values), weightMap(layer, weights)),
  );
}

/** Runs `work`, and shows what it throws. */
async function trying(name, work) {
  $("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    $("problem").textContent = `${name}: ${error.message}`;
    $("problem").hidden = false;
  }
}

const BUILT_IN = "LeNet-5, trained on MNIST";

async function builtIn() {
  show(BUILT_IN, svdo.open(await bytesOf("network", "lenet5.svdo")));
  $("back").hidden = true;
}

async function another(file) {
  await trying(file.name, async () => {
    show(file.name, svdo.open(await file.arrayBuffer()));
    $("back").hidden = false;
  });
}

$("file").addEventListener("change", ({ target }) => target.files[0] && another(target.files[0]));
$("back").addEventListener("click", () => trying(BUILT_IN, builtIn).then(() => $("file").focus()));
$("clear").addEventListener("click", () => pad.clear());
// Anywhere in the page, so that a near miss does not leave it.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    const file = event.dataTransfer?.files[0];
    if (kind === "drop" && file) another(file);
  });
}
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));

await trying("the page", async () => {
  svdo = await load(await bytesOf("engine", "svdo-web/svdo.wasm"));
  await builtIn();
  const images = await bytesOf("examples", "digits.bin").catch(() => new Uint8Array());
  for (let digit = 0; (digit + 1) * SIDE * SIDE <= images.length; digit++) {
    const button = element("button", { type: "button", "aria-label": `Show a ${digit}` }, String(digit));
    button.addEventListener("click", () =>
      pad.show(Float32Array.from(images.subarray(digit * SIDE * SIDE, (digit + 1) * SIDE * SIDE))));
    $("examples").append(button);
  }
  document.body.dataset.ready = "true";
});
