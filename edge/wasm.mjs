// Runs a .svdo file in WebAssembly, through the C interface, and prints the outputs.
//
//     node edge/wasm.mjs svdo_c.wasm MODEL.svdo SAMPLES.f32
import { readFileSync } from "node:fs";

const [library, model, samples] = process.argv.slice(2).map((path) => readFileSync(path));
const { exports: svdo } = (await WebAssembly.instantiate(library)).instance;

// Memory of our own: pages that the library's allocator has not asked for.
const PAGE = 65536;
const take = (bytes) => PAGE * svdo.memory.grow(Math.max(1, Math.ceil(bytes / PAGE)));
const words = (at, count) => new Uint32Array(svdo.memory.buffer, at, count);
const text = (at) => {
  const bytes = new Uint8Array(svdo.memory.buffer);
  return new TextDecoder().decode(bytes.slice(at, bytes.indexOf(0, at)));
};
const checked = (status) => {
  if (status !== 0) throw new Error(`${text(svdo.svdo_status_name(status))}: ${text(svdo.svdo_message())}`);
};
const put = (bytes) => {
  const at = take(bytes.length);
  new Uint8Array(svdo.memory.buffer, at, bytes.length).set(bytes);
  return at;
};

const place = take(16);
checked(svdo.svdo_load(put(model), model.length, place));
const loaded = words(place, 1)[0];
const elements = (shape) => {
  shape(place, loaded);
  return words(place, 3).reduce((product, size) => product * size, 1);
};
const [ins, outs] = [elements(svdo.svdo_input_shape), elements(svdo.svdo_output_shape)];
const count = Math.floor(samples.length / 4 / ins);
const workspace = svdo.svdo_workspace_bytes(loaded, count);
const output = take(4 * outs * count);
checked(svdo.svdo_run(loaded, take(workspace), workspace, put(samples), count, output));
const values = new Float32Array(svdo.memory.buffer, output, outs * count);
const rows = Array.from({ length: count }, (_, row) => Array.from(values.slice(row * outs, (row + 1) * outs)));
console.log(JSON.stringify(rows));
svdo.svdo_free(loaded);
