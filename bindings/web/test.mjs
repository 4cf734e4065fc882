// Tests the package in Node: `node test.mjs PACKAGE MODEL.svdo SAMPLES.f32 OUTPUTS.json [PREDICTIONS.json]`.
//
// OUTPUTS.json are those of svdo-infer for the same samples, PREDICTIONS.json its --uncertainty moments --json.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, modelPath, samplesPath, outputsPath, predictionsPath] = process.argv.slice(2);
const { load, SvdoError } = await import(pathToFileURL(`${folder}/svdo.js`));
const model = readFileSync(modelPath);
const samples = readFileSync(samplesPath);
const x = new Float32Array(samples.buffer, samples.byteOffset, samples.length / 4);
const expected = JSON.parse(readFileSync(outputsPath));
const near = (a, b, most) => a.every((value, i) => Math.abs(value - b[i]) <= most);

const svdo = await load();
const network = svdo.open(model);
const { description } = network;
assert.equal(description.bytes, model.length);
assert.equal(description.isa, "simd128");
assert.equal(description.schema, "web.schema.json");
assert.match(description.program, /^svdo \d/);
assert.deepEqual(description.classes, []);
assert.deepEqual(description.input, [1, 28, 28]);
assert.equal(description.inputElements * expected.length, x.length);

// All samples at once, and one by one.
const outputs = network.run(x);
assert.equal(outputs.length, expected.flat().length);
assert.ok(near(expected.flat(), outputs, 1e-3));
for (let sample = 0; sample < 8; sample++) {
  const one = network.run(x.subarray(784 * sample, 784 * (sample + 1)));
  assert.ok(near(expected[sample], one, 1e-3));
}

// Layers: what they hold is what the description counts.
let bytes = 0;
description.layers.forEach((layer, index) => {
  const { values, columns, rowStarts } = network.weights(index);
  assert.equal(values.length, layer.kept);
  assert.equal(rowStarts[layer.rows], layer.kept);
  assert.ok(columns.every((column) => column < layer.columns) && values.some((value) => value !== 0));
  bytes += layer.bytes;
});
assert.ok(bytes < description.bytes && bytes > description.bytes / 2);
assert.throws(() => network.weights(99), SvdoError);

// Under the posterior.
if (predictionsPath) {
  const found = network.predict(x);
  const { predictions } = JSON.parse(readFileSync(predictionsPath));
  predictions.forEach((of, sample) => {
    const { probabilities, std, entropy, mutualInformation } = found[sample];
    const pairs = [
      [of.probability, probabilities[of.class]],
      [of.std, std[of.class]],
      [of.entropy, entropy],
      [of.mutual_information, mutualInformation],
    ];
    pairs.forEach(([a, b]) => assert.ok(Math.abs(a - b) < 1e-3, `sample ${sample}: ${b} for ${a}`));
    assert.equal(Math.max(...probabilities), probabilities[of.class]);
  });
  assert.equal(predictions.length, expected.length);
  const drawn = network.predict(x.subarray(0, 784), { networks: 64, seed: 7 });
  assert.ok(Math.abs(drawn[0].probabilities.reduce((a, b) => a + b) - 1) < 1e-5);
  assert.deepEqual(drawn, network.predict(x.subarray(0, 784), { networks: 64, seed: 7 }));
} else {
  assert.throws(() => network.predict(x), /no variances/);
}

// What is wrong is said, and does no harm.
assert.throws(() => network.run(new Float32Array(3)), /3 values are not whole samples of 784/);
assert.throws(() => network.run(new Float32Array(784).fill(NaN)), SvdoError);
assert.throws(() => svdo.open(new Uint8Array(0)), /too few/);
assert.throws(() => svdo.open(new TextEncoder().encode("PK and so on")), /begin with SVDO/);
for (let at = 5; at < model.length; at += 97) {
  const damaged = Uint8Array.from(model);
  damaged[at] ^= 0x20;
  assert.throws(() => svdo.open(damaged), SvdoError);
  assert.throws(() => svdo.open(model.subarray(0, at)), SvdoError);
}
assert.ok(near(expected[0], network.run(x.subarray(0, 784)), 1e-3));
network.close();
assert.throws(() => network.run(x), /closed/);
console.log(`svdo-web: ${expected.length} samples as svdo-infer has them, ${description.layers.length} layers`);
