// Reads .svdo files and runs their networks, in a browser or in Node.
//
// Numbers and addresses are all that crosses to WebAssembly. Its memory may move when it grows, so that
// views of it are made anew after every call.

/** What a file, or an argument, has wrong. */
export class SvdoError extends Error {
  name = "SvdoError";
}

/**
 * Instantiates the engine.
 * @param source bytes, a compiled module, an address, or a response; svdo.wasm beside this file if it is not given
 */
export async function load(source = new URL("svdo.wasm", import.meta.url)) {
  source = await source;
  if (source instanceof URL || typeof source === "string") source = await fetched(source);
  if (typeof Response !== "undefined" && source instanceof Response) {
    if (!source.ok) throw new SvdoError(`${source.url}: ${source.status} ${source.statusText}`);
    source = await source.arrayBuffer();
  }
  try {
    const found = await WebAssembly.instantiate(source);
    return new Svdo((found.instance ?? found).exports);
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    throw new SvdoError(`svdo.wasm needs WebAssembly with vector instructions (SIMD): ${error.message}`);
  }
}

/** Node has no fetch for files. */
async function fetched(address) {
  const file = String(address).startsWith("file:") && typeof process !== "undefined";
  return file ? (await import("node:fs/promises")).readFile(new URL(address)) : fetch(address);
}

/** The engine. */
class Svdo {
  #exports;
  #closing;

  constructor(exports) {
    this.#exports = exports;
    this.#closing = new FinalizationRegistry((handle) => exports.svdo_close(handle));
  }

  /** Reads a file, given as bytes, and plans its network. */
  open(bytes) {
    if (ArrayBuffer.isView(bytes)) bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    else bytes = new Uint8Array(bytes);
    const exports = this.#exports;
    const at = calling(exports, () => exports.svdo_file(bytes.length));
    new Uint8Array(exports.memory.buffer, at >>> 0, bytes.length).set(bytes);
    const handle = calling(exports, () => exports.svdo_open());
    const network = new Network(exports, handle);
    this.#closing.register(network, handle);
    return network;
  }
}

/** A network of a file. */
class Network {
  #exports;
  #handle;

  constructor(exports, handle) {
    this.#exports = exports;
    this.#handle = handle;
    this.#call("svdo_describe");
    this.description = JSON.parse(text(exports));
  }

  /** The outputs of raw samples, one row after the other. */
  run(samples) {
    const count = this.#put(samples);
    return this.#floats(this.#call("svdo_run"), count * this.description.outputElements);
  }

  /** Predictions of classes under the posterior: by moments, or by so many networks of it. */
  predict(samples, { networks = 0, seed = 0 } = {}) {
    const count = this.#put(samples);
    const classes = this.description.outputElements;
    const row = 2 * classes + 2;
    const all = this.#floats(this.#call("svdo_predict", networks, seed), count * row);
    return Array.from({ length: count }, (_, sample) => {
      const of = all.subarray(sample * row, (sample + 1) * row);
      return {
        probabilities: of.slice(0, classes),
        std: of.slice(classes, 2 * classes),
        entropy: of[2 * classes],
        mutualInformation: of[2 * classes + 1],
      };
    });
  }

  /** The kept weights of a layer, row by row (CSR). */
  weights(layer) {
    const { kept, rows } = this.description.layers[layer] ?? {};
    if (kept === undefined) throw new SvdoError(`layer ${layer} of ${this.description.layers.length}`);
    const values = this.#floats(this.#call("svdo_values", layer), kept);
    const integers = (name, length) =>
      new Uint32Array(this.#exports.memory.buffer, this.#call(name, layer), length).slice();
    return { values, columns: integers("svdo_columns", kept), rowStarts: integers("svdo_row_starts", rows + 1) };
  }

  /** Frees the memory of it, which is done in the end for one that is forgotten, too. */
  close() {
    this.#exports.svdo_close(this.#handle);
    this.#handle = 0;
  }

  /** Samples into the engine: their number. */
  #put(samples) {
    const ins = this.description.inputElements;
    const count = samples.length / ins;
    if (!Number.isInteger(count) || count === 0) {
      throw new SvdoError(`${samples.length} values are not whole samples of ${ins}`);
    }
    const at = this.#call("svdo_input", count);
    new Float32Array(this.#exports.memory.buffer, at, samples.length).set(samples);
    return count;
  }

  #floats(at, length) {
    return new Float32Array(this.#exports.memory.buffer, at, length).slice();
  }

  #call(name, ...values) {
    const exports = this.#exports;
    return calling(exports, () => exports[name](this.#handle, ...values));
  }
}

/** The result of a call, or its error: 0 means that there is one. */
function calling(exports, call) {
  let result;
  try {
    result = call() >>> 0;
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    throw new SvdoError(`out of memory, or a defect of svdo (${error.message}): load the engine anew`);
  }
  if (result === 0) throw new SvdoError(text(exports));
  return result;
}

function text(exports) {
  const bytes = new Uint8Array(exports.memory.buffer, exports.svdo_text() >>> 0, exports.svdo_text_bytes());
  return new TextDecoder().decode(bytes);
}
