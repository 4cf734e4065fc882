// The parts of web.sh: models with random zeros, and the measurement.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { crc32 } from "node:zlib";

const [what, folder, rounds] = process.argv.slice(2);

/** Numbers of a counter and a hash (SplitMix32), uniform in [0, 1). */
function uniform(i) {
  let z = (i + 1) * 0x9e3779b9;
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
  return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32;
}

function weights(shape, zeros, seed) {
  const length = shape.reduce((a, b) => a * b, 1);
  const scale = Math.sqrt(3 / ((1 - zeros) * (length / shape[0])));
  return Float32Array.from({ length }, (_, i) =>
    uniform(2 * i + seed) < zeros ? 0 : scale * (2 * uniform(2 * i + 1 + seed) - 1));
}

function npy(shape, data) {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${tuple}), }`;
  const padded = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const head = Buffer.from(`\x93NUMPY\x01\x00\x00\x00${padded}`, "latin1");
  head.writeUInt16LE(padded.length, 8);
  return Buffer.concat([head, Buffer.from(data.buffer)]);
}

/** A zip file of stored members. */
function zip(members) {
  const [parts, directory] = [[], []];
  let at = 0;
  for (const [name, data] of members) {
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(0x21, 8);
    fields.writeUInt32LE(crc(data), 10);
    fields.writeUInt32LE(data.length, 14);
    fields.writeUInt32LE(data.length, 18);
    fields.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from("PK\x03\x04", "latin1"), fields, Buffer.from(name)]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(at, 10);
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00", "latin1"), fields, tail, Buffer.from(name)]));
    parts.push(local, data);
    at += local.length + data.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(members.length, 8);
  end.writeUInt16LE(members.length, 10);
  end.writeUInt32LE(size, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...parts, ...directory, end]);
}

/** Node has it since version 22. */
function crc(data) {
  if (crc32) return crc32(data);
  let sum = ~0;
  for (const byte of data) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

function model(name, input, nodes, layers, zeros) {
  const members = layers.flatMap(([layer, shape], index) => [
    [`${layer}.weight.npy`, npy(shape, weights(shape, zeros, 1e9 * index))],
    [`${layer}.bias.npy`, npy([shape[0]], new Float32Array(shape[0]))],
  ]);
  writeFileSync(`${folder}/${name}.npz`, zip(members));
  writeFileSync(`${folder}/${name}.json`, JSON.stringify({ version: 1, input: { shape: input }, nodes }));
}

function makeModels() {
  model("fc4096", [4096, 1, 1], [{ op: "linear", layer: "fc" }], [["fc", [4096, 4096]]], 0.95);
  const sizes = [3, 64, 64, 128, 128];
  const layers = [...Array(4).keys()].map((i) => [`conv${i}`, [sizes[i + 1], sizes[i], 3, 3]]);
  const nodes = layers.flatMap(([layer], i) => [
    { op: "conv2d", layer, padding: [1, 1, 1, 1] },
    { op: "relu" },
    ...(i % 2 === 1 ? [{ op: "max_pool2d", kernel: [2, 2], stride: [2, 2] }] : []),
  ]);
  model("conv", [3, 32, 32], nodes, layers, 0.9);
}

/** Engines of one model: its outputs, and a function that runs it once. */
async function engines(ort, name, batch) {
  const { load } = await import(pathToFileURL(resolve(`${folder}/simd/svdo-web/svdo.js`)));
  const found = {};
  let elements;
  for (const build of ["simd", "scalar"]) {
    const svdo = await load(readFileSync(`${folder}/${build}/svdo-web/svdo.wasm`));
    const network = svdo.open(readFileSync(`${folder}/${name}.svdo`));
    const { description } = network;
    elements = description.inputElements;
    const isa = { simd: "simd128", scalar: "portable" }[build];
    if (description.isa !== isa) throw new Error(`${build}: ${description.isa}`);
    const x = samples(elements, batch, description.inputScale);
    found[build] = { run: () => network.run(x), shape: description.input, x };
  }
  const session = await ort.InferenceSession.create(`${folder}/${name}.onnx`, { intraOpNumThreads: 1 });
  const { shape, x } = found.simd;
  const [flat, whole] = [[batch, elements], [batch, ...shape]];
  const [input] = session.inputNames;
  const run = (dims) => session.run({ [input]: new ort.Tensor("float32", x, dims) });
  const dims = await run(whole).then(() => whole, () => flat);
  found.ort = { run: async () => (await run(dims))[session.outputNames[0]].data };
  return found;
}

function samples(elements, batch, scale) {
  return Float32Array.from({ length: elements * batch }, (_, i) => uniform(i) / scale);
}

async function measure() {
  const ort = createRequire(resolve(folder, "x.js"))("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
  console.log("| microseconds | batch | svdo, SIMD128 | svdo, scalar | ONNX Runtime Web | scalar / SIMD128 | peer / svdo |");
  console.log("|---|---|---|---|---|---|---|");
  for (const [name, batch] of [["lenet300", 1], ["lenet300", 64], ["lenet5", 1], ["lenet5", 64], ["fc4096", 1], ["fc4096", 64], ["conv", 1]]) {
    const all = await engines(ort, name, batch);
    const outputs = {};
    for (const [engine, { run }] of Object.entries(all)) outputs[engine] = Float32Array.from(await run());
    const most = outputs.ort.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const engine of ["simd", "scalar"]) {
      const far = outputs[engine].reduce((far, value, i) => Math.max(far, Math.abs(value - outputs.ort[i])), 0);
      if (outputs[engine].length !== outputs.ort.length || !(far < 1e-4 * most)) throw new Error(`${name}: ${engine} is ${far} of ${most} off`);
    }
    const best = {};
    for (let round = 0; round < rounds; round++) {
      for (const [engine, { run }] of Object.entries(all)) {
        const wait = engine === "ort";
        let [calls, took] = [1, 0];
        for (; took < 20; calls *= 2) {
          const start = performance.now();
          for (let call = 0; call < calls; call++) wait ? await run() : run();
          took = performance.now() - start;
          best[engine] = Math.min(best[engine] ?? Infinity, (1000 * took) / calls);
        }
      }
    }
    const { simd, scalar, ort: peer } = best;
    const number = (value) => value.toPrecision(3);
    console.log(`| ${name} | ${batch} | **${number(simd)}** | ${number(scalar)} | ${number(peer)} | ${number(scalar / simd)} | ${number(peer / simd)} |`);
  }
}

await (what === "models" ? makeModels() : measure());
