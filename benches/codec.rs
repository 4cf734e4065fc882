//! Size and speed of the codec on random sparse layers, beside zstd -19 on the same weights:
//! `cargo bench --bench codec -- [ZEROS] [LARGEST]`, by default 0.95 of 1e4 ... 1e7 weights. One thread,
//! its own CPU time.
//!
//! Levels are as a quantizer leaves them, magnitudes falling off geometrically. `ideal` is the
//! entropy of the source that made them, which knows its parameters; `B/block` is what a file has over
//! it, header and checksums included, for each block that is decoded alone. MB are those of theta in f32;
//! zstd compresses them pruned and dequantized, at most 4 MB of them.
#![allow(clippy::expect_used)]

use std::hint::black_box;

use svdo::container;
use svdo::model::{LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};

/// Magnitude k has probability proportional to this to the power k.
const FALL: f64 = 0.75;

/// Numbers that look random and are the same everywhere.
struct Noise(u64);

impl Noise {
    /// Uniform in 0..1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn model(rows: usize, cols: usize, zeros: f64) -> Model {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut pattern, mut levels) = (Pattern::with_columns(cols), Vec::new());
    for _ in 0..rows {
        let mut row = Vec::new();
        let mut column = -1.0;
        loop {
            // A geometric gap: every place is kept with the same probability.
            column += 1.0 + ((1.0 - noise.next()).ln() / zeros.ln()).floor();
            if column >= cols as f64 {
                break;
            }
            row.push(column as u32);
            let magnitude = 1 + ((1.0 - noise.next()).ln() / FALL.ln()) as i32;
            levels.push(if noise.next() < 0.5 { magnitude } else { -magnitude });
        }
        pattern.push_row(row).expect("ascending columns");
    }
    let values = Values::Levels { scale: Scale::even(0.01), levels };
    let node =
        Node { name: String::new(), op: Op::Linear { layer: 0 }, inputs: vec![Source::Input] };
    let network = Network {
        input: Input::plain(Shape::vector(cols)),
        layers: vec![Layer { name: String::new(), shape: vec![rows, cols] }],
        nodes: vec![node],
        time: None,
    };
    Model { network, threshold: None, weights: vec![LayerWeights { pattern, values, bias: None }] }
}

/// Theta in f32 with its zeros, up to a number of weights.
fn dense(layer: &LayerWeights, most: usize) -> Vec<u8> {
    let (cols, values) = (layer.pattern.cols(), layer.values.to_f32());
    let mut dense = vec![0f32; most.min(layer.pattern.rows() * cols)];
    for row in 0..layer.pattern.rows() {
        for (&column, at) in layer.pattern.row(row).iter().zip(layer.pattern.entries(row)) {
            if let Some(place) = dense.get_mut(row * cols + column as usize) {
                *place = values[at];
            }
        }
    }
    dense.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Seconds this thread has computed.
fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The least CPU seconds of some runs, at least three and a fifth of a second together.
fn seconds<T>(mut run: impl FnMut() -> T) -> f64 {
    let (mut least, begun, mut runs) = (f64::INFINITY, cpu_time(), 0);
    while runs < 3 || cpu_time() - begun < 0.2 {
        let start = cpu_time();
        black_box(run());
        least = least.min(cpu_time() - start);
        runs += 1;
    }
    least
}

fn entropy(p: f64) -> f64 {
    if p > 0.0 && p < 1.0 { -p * p.log2() - (1.0 - p) * (1.0 - p).log2() } else { 0.0 }
}

fn table(zeros: f64, largest: f64) {
    println!(
        "{:>9} {:>8} {:6} {:>9} {:>9} {:>8} {:>6} {:>7} | {:>9} {:>9} {:>9} | {:>8} {:>8} {:>8}",
        "weights",
        "kept",
        "coding",
        "bytes",
        "bits/kept",
        "ideal",
        "blocks",
        "B/block",
        "enc MB/s",
        "dec kept",
        "dec place",
        "zstd B",
        "enc MB/s",
        "dec MB/s"
    );
    let kept_bits = entropy(1.0 - zeros) / (1.0 - zeros) + 1.0 + entropy(1.0 - FALL) / (1.0 - FALL);
    for side in [100usize, 316, 1000, 3162, 10_000] {
        let places = (side * side) as f64;
        if places > 1.01 * largest {
            break;
        }
        let model = model(side, side, zeros);
        let kept = model.weights[0].pattern.len() as f64;
        let theta = dense(&model.weights[0], 1 << 20);
        let small = zstd::bulk::compress(&theta, 19).expect("zstd");
        let zstd_share = theta.len() as f64 / (4.0 * places);
        let zstd_encode =
            theta.len() as f64 / 1e6 / seconds(|| zstd::bulk::compress(&theta, 19).expect("zstd"));
        let zstd_decode = theta.len() as f64
            / 1e6
            / seconds(|| zstd::bulk::decompress(&small, theta.len()).expect("zstd"));
        let codings: &[(bool, &str)] =
            if places > 2e6 { &[(true, "fast")] } else { &[(false, "small"), (true, "fast")] };
        for &(fast, name) in codings {
            let file = container::write(&model, fast).expect("a model").bytes;
            assert!(container::read(&file).expect("a file") == model);
            // Those of places coded by gaps, 2^22 at most in whole rows; a smaller layer is one.
            let blocks = side.div_ceil((1 << 22) / side);
            let encode = seconds(|| container::write(&model, fast).expect("a model"));
            let decode = seconds(|| container::read(&file).expect("a file"));
            println!(
                "{places:>9.1e} {kept:>8.1e} {name:6} {:>9} {:>9.3} {kept_bits:>8.3} {blocks:>6} {:>7.0} | {:>9.1} {:>7.1} M {:>7.1} M | {:>8.0} {zstd_encode:>8.1} {zstd_decode:>8.1}",
                file.len(),
                8.0 * file.len() as f64 / kept,
                (file.len() as f64 - kept * kept_bits / 8.0) / blocks as f64,
                4.0 * places / 1e6 / encode,
                kept / 1e6 / decode,
                places / 1e6 / decode,
                small.len() as f64 / zstd_share,
            );
        }
    }
}

fn main() {
    let arguments: Vec<f64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let zeros = arguments.first().copied().unwrap_or(0.95);
    let largest = arguments.get(1).copied().unwrap_or(1e7);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| table(zeros, largest));
}
