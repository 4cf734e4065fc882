/** What a file, or an argument, has wrong. */
export class SvdoError extends Error {}

/** Channels, height and width; a vector has height and width 1. */
export type Shape = [channels: number, height: number, width: number];

/** A layer as it is in the file, from which dead units are gone. */
export interface Layer {
  name: string;
  /** Of the weights: `[out, in]`, or `[out, in / groups, height, width]`. */
  shape: number[];
  /** Of the matrix of weights, its units. */
  rows: number;
  columns: number;
  /** Weights that are stored. */
  kept: number;
  /** Biases that are stored. */
  biases: number;
  stored: "levels" | "f16" | "f32";
  /** Of the file. */
  bytes: number;
}

/** A step of the plan. */
export interface Step {
  /** What it does. */
  kernel: string;
  /** Whose weights it uses. */
  layer: number | null;
  /** Of one sample. */
  multiplyAdds: number;
}

/** What `formats/web.schema.json` says. */
export interface Description {
  schema: "web.schema.json";
  /** `svdo` and its version. */
  program: string;
  /** Of the kernels: `simd128`, or `portable`. */
  isa: string;
  /** Of the file. */
  bytes: number;
  /** On log alpha, by which it was pruned. */
  threshold: number | null;
  /** Whether the file has them, so that `predict` can be asked. */
  variances: boolean;
  /** Of a sample. */
  input: Shape;
  inputElements: number;
  /** By which raw values are multiplied first: 1/255 for pixels of 0 to 255. */
  inputScale: number;
  /** For networks of tokens, how many there are. */
  vocabulary: number | null;
  output: Shape;
  outputElements: number;
  /** Names of the outputs, by number; empty where the file has none. */
  classes: string[];
  layers: Layer[];
  steps: Step[];
}

/** What a network says of a sample under the posterior of its weights. */
export interface Prediction {
  /** Mean of the class probabilities. */
  probabilities: Float32Array;
  /** Their standard deviations over the posterior. */
  std: Float32Array;
  /** Of the mean probabilities, in nats: all that is uncertain. */
  entropy: number;
  /** The part of it that the networks of the posterior disagree about, in nats. */
  mutualInformation: number;
}

/** Kept weights as a sparse matrix (CSR): row r has those from `rowStarts[r]` to `rowStarts[r + 1]`. */
export interface Weights {
  values: Float32Array;
  columns: Uint32Array;
  rowStarts: Uint32Array;
}

/** A network, ready to run. */
export interface Network {
  readonly description: Description;
  /**
   * The outputs of raw samples, one row of `outputElements` after the other. A sample's values are ordered
   * `[channel, row, column]`.
   */
  run(samples: ArrayLike<number>): Float32Array;
  /**
   * Predictions of classes under the posterior: by moments, or by as many networks of it as `networks` says.
   * The file must have variances (svdo-compress --variances).
   */
  predict(samples: ArrayLike<number>, options?: { networks?: number; seed?: number }): Prediction[];
  /** The kept weights of a layer. */
  weights(layer: number): Weights;
  /** Frees its memory. It must not be used any more. */
  close(): void;
}

/** The engine. */
export interface Svdo {
  /** Reads a .svdo file and plans its network; throws `SvdoError` with what is wrong. */
  open(bytes: ArrayBuffer | ArrayBufferView): Network;
}

/** Instantiates the engine: by default from `svdo.wasm` beside the module. */
export function load(
  source?: URL | string | Response | BufferSource | WebAssembly.Module | Promise<Response>,
): Promise<Svdo>;
