//! Kernels beside what the core can do, and beside our own dense ones.
//!
//! `cargo bench --bench kernels` measures the core (multiply-adds, reads, gathers) and prints for
//! each kernel the time of a call and its share of the bound. `-- sweep` runs densities times
//! batches, the planned engine and the dense one in turn, and prints the offenders: those slower
//! than dense, where the kernel is not the dense one, and batches slower than a larger one. `-- calibrate` measures the break-evens that
//! `src/engine/cost.rs` holds, `-- maps` convolutions by each kernel.
//!
//! The two of a comparison run in turn, so that what disturbs the machine disturbs both, which a
//! harness that measures one thing after the other cannot do. Times are the least of many calls, of
//! longer ones the CPU time, so that a busy machine does them little harm.

use std::time::{Duration, Instant};

use svdo::engine::{Bounds, Engine, Isa, KernelChoice, Options, Workspace};
use svdo::model::{LayerWeights, Model, Pattern, Values};
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ZEROS: [f64; 9] = [0.0, 20.0, 40.0, 60.0, 80.0, 90.0, 95.0, 99.0, 99.9];
const BATCHES: [usize; 16] = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65];

fn main() -> Result<()> {
    let isa = Isa::detect(std::env::var("SVDO_CPU").ok().as_deref())?;
    let bounds = Bounds::measure(isa);
    println!(
        "{}: {:.0} GFLOP/s in registers, {:.0} from the first-level cache, {:.0} GB/s from the \
         second, {:.3} ns a gathered number",
        isa.name(),
        bounds.gflops,
        bounds.gflops_near,
        bounds.gigabytes,
        bounds.gather_ns
    );
    let asked = |word: &str| std::env::args().any(|argument| argument == word);
    match ["sweep", "calibrate", "maps"].iter().position(|word| asked(word)) {
        Some(0) => sweep(isa),
        Some(1) => calibrate(isa),
        Some(_) => maps(isa),
        None => shares(isa, &bounds),
    }
}

/// Numbers that look random.
struct Noise(u64);

impl Noise {
    /// In 0..1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }
}

fn model(shape: &[usize], op: Op, input: Shape, zeros: f64) -> Result<Model> {
    let layer = Layer { name: "w".into(), shape: shape.to_vec() };
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut pattern, mut values) = (Pattern::with_columns(layer.cols()), Vec::new());
    for _ in 0..layer.rows() {
        let columns: Vec<u32> =
            (0..layer.cols() as u32).filter(|_| f64::from(noise.next()) * 100.0 >= zeros).collect();
        values.extend(columns.iter().map(|_| noise.next() - 0.5));
        pattern.push_row(columns)?;
    }
    let bias = Some(Values::F32(vec![0.5; layer.rows()]));
    let node = Node { name: String::new(), op, inputs: vec![Source::Input] };
    let network =
        Network { input: Input::plain(input), layers: vec![layer], nodes: vec![node], time: None };
    let weights = vec![LayerWeights { pattern, values: Values::F32(values), bias }];
    Ok(Model { network, threshold: None, weights })
}

fn linear(rows: usize, columns: usize, zeros: f64) -> Result<Model> {
    model(&[rows, columns], Op::Linear { layer: 0 }, Shape::vector(columns), zeros)
}

/// A layer of 3x3 with padding.
fn convolution(channels: usize, size: usize, zeros: f64) -> Result<Model> {
    let op = Op::Conv2d { layer: 0, stride: [1, 1], padding: [1; 4], groups: 1 };
    model(&[channels, channels, 3, 3], op, Shape::new(channels, size, size), zeros)
}

/// An engine with its inputs, outputs and memory.
struct Bench {
    engine: Engine,
    workspace: Workspace,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Bench {
    fn new(model: &Model, isa: Isa, options: Options, batch: usize) -> Result<Self> {
        let engine = Engine::with_options(model, isa, options)?;
        let mut noise = Noise(7);
        let x = (0..batch * engine.input_shape().elements()?).map(|_| noise.next()).collect();
        let y = vec![0.0; batch * engine.output_shape().elements()?];
        Ok(Self { workspace: engine.workspace(batch), engine, x, y })
    }

    fn call(&mut self) -> Result<f64> {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        self.engine.run(&mut self.workspace, &self.x, &mut self.y)?;
        let wall = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - cpu;
        // The clock of CPU time is too slow for calls of a few microseconds.
        Ok(if wall < 50e-6 { wall } else { wall.min(cpu) })
    }
}

/// CPU time of this thread, where there is such a clock.
fn cpu_seconds() -> f64 {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(target_os = "linux"))]
    f64::INFINITY
}

/// The least time of a call of each, by turns.
fn least(benches: &mut [Bench], time: Duration) -> Result<Vec<f64>> {
    let mut best = vec![f64::INFINITY; benches.len()];
    let begin = Instant::now();
    while begin.elapsed() < time {
        for (bench, best) in benches.iter_mut().zip(&mut best) {
            // The first call brings the weights back into the caches.
            for call in 0..4 {
                let seconds = bench.call()?;
                if call > 0 {
                    *best = best.min(seconds);
                }
            }
        }
    }
    Ok(best)
}

fn shares(isa: Isa, bounds: &Bounds) -> Result<()> {
    println!("     shape  zeros  batch       us   share of bound");
    for (rows, columns, batch) in
        [(512, 512, 1), (1024, 512, 1), (4096, 4096, 1), (1024, 1024, 64), (4096, 4096, 64)]
    {
        for zeros in [90.0, 95.0, 99.0] {
            let model = linear(rows, columns, zeros)?;
            let entries = model.weights[0].pattern.len() as f64;
            let options = Options { batch: Some(batch), ..Options::default() };
            let bench = Bench::new(&model, isa, options, batch)?;
            let bytes = bench.engine.weight_bytes() as f64;
            let time = least(&mut [bench], Duration::from_millis(400))?[0];
            let bound = match batch {
                1 => (entries * bounds.gather_ns).max(bytes / bounds.gigabytes) * 1e-9,
                _ => 2.0 * entries * batch as f64 / bounds.gflops_near * 1e-9,
            };
            println!(
                "{rows:5}x{columns:<4} {zeros:5}% {batch:6} {:8.1} {:10.0} %",
                time * 1e6,
                bound / time * 100.0
            );
        }
    }
    Ok(())
}

fn sweep(isa: Isa) -> Result<()> {
    let (mut cells, mut offenders) = (0, 0);
    type Make = fn(f64) -> Result<Model>;
    let layers: [(&str, Make, usize); 4] = [
        ("linear 300x784", |zeros| linear(300, 784, zeros), 65),
        ("linear 10x100", |zeros| linear(10, 100, zeros), 65),
        ("linear 1024x1024", |zeros| linear(1024, 1024, zeros), 65),
        ("convolution 32x32x3x3 at 16x16", |zeros| convolution(32, 16, zeros), 17),
    ];
    for (name, make, most) in layers {
        for zeros in ZEROS {
            let model = make(zeros)?;
            let mut line = format!("{name}, {zeros} %:");
            let mut times = Vec::new();
            for batch in BATCHES.into_iter().filter(|&batch| batch <= most) {
                let bench = |kernel| {
                    Bench::new(&model, isa, Options { kernel, ..Options::default() }, batch)
                };
                let mut pair = [bench(KernelChoice::Auto)?, bench(KernelChoice::Dense)?];
                let [a, b] = [0, 1].map(|at: usize| pair[at].engine.steps(&model)[0].kernel);
                let [auto, dense] = least(&mut pair, Duration::from_millis(40))?[..] else {
                    unreachable!("two went in");
                };
                line += &format!(" {batch}:{:.2}", dense / auto);
                times.push((batch, auto, if a == b { f64::INFINITY } else { dense }));
            }
            println!("{line}");
            for (at, &(batch, auto, dense)) in times.iter().enumerate() {
                cells += 1;
                if auto > dense * 1.05 {
                    offenders += 1;
                    println!("  slower than dense: batch {batch}, {:.2} times", auto / dense);
                }
                for &(larger, time, _) in &times[at + 1..] {
                    if auto > time * 1.1 {
                        offenders += 1;
                        println!("  slower than batch {larger}: batch {batch}, {:.2}", auto / time);
                        break;
                    }
                }
            }
        }
    }
    println!("{offenders} offenders in {cells} cells");
    Ok(())
}

/// Break-evens, each from a sparse and a dense run by turns.
fn calibrate(isa: Isa) -> Result<()> {
    println!("DENSE_VECTOR: percent of weights from which on a dense product is the faster one");
    for (rows, columns) in [(300, 784), (512, 512), (1024, 1024)] {
        let (sparse, dense) = sparse_and_dense(isa, (rows, columns), 85.0, 1)?;
        println!("  {rows}x{columns}: {:.1}", dense / sparse * 15.0);
    }
    println!("SHARED_TAPS: what a tap of four rows costs over that of one, in tenths");
    for batch in [8, 16, 32] {
        let (sparse, dense) = sparse_and_dense(isa, (512, 512), 60.0, batch)?;
        println!("  batch {batch}: {:.1}", dense / sparse * 0.4 * 4.0 * 10.0);
    }
    println!("WORTH_A_PANEL: single samples that take as long as a panel of eight");
    for zeros in [90.0, 95.0, 99.0] {
        let model = linear(1024, 1024, zeros)?;
        let bench = |batch| Bench::new(&model, isa, Options::default(), batch);
        let times = least(&mut [bench(1)?, bench(8)?], Duration::from_millis(300))?;
        println!("  {zeros} % zeros: {:.1}", times[1] / times[0]);
    }
    Ok(())
}

/// Convolutions of single samples and of panels by each kernel, and by the one that is chosen.
fn maps(isa: Isa) -> Result<()> {
    println!(
        "channels, kernel, size, batch, zeros: sparse, dense and chosen kernel in microseconds"
    );
    let shapes = [(64, 3, 56), (128, 3, 28), (256, 3, 14), (512, 3, 7), (256, 1, 14), (64, 1, 56)];
    for ((channels, kernel, size), batch) in
        shapes.into_iter().flat_map(|shape| [1, 16].map(|batch| (shape, batch)))
    {
        for zeros in [0.0, 40.0, 60.0, 70.0, 80.0, 85.0, 90.0, 95.0] {
            let padding = [kernel / 2; 4];
            let op = Op::Conv2d { layer: 0, stride: [1, 1], padding, groups: 1 };
            let shape = [channels, channels, kernel, kernel];
            let model = model(&shape, op, Shape::new(channels, size, size), zeros)?;
            let bench = |kernel| {
                let options = Options { kernel, batch: Some(batch), ..Options::default() };
                Bench::new(&model, isa, options, batch)
            };
            let kinds = [KernelChoice::Sparse, KernelChoice::Dense, KernelChoice::Auto];
            let [sparse, dense, auto] = kinds.map(bench);
            let times = least(&mut [sparse?, dense?, auto?], Duration::from_millis(150))?;
            let all = (channels * channels * kernel * kernel * size * size * batch) as f64;
            println!(
                "{channels} {kernel}x{kernel} {size}x{size} b{batch} {zeros:.0} %: {:.0} {:.0} {:.0}  \
                 ({:.0} dense GFLOP/s)",
                times[0] * 1e6,
                times[1] * 1e6,
                times[2] * 1e6,
                all * 2.0 / times[1] / 1e9
            );
        }
    }
    Ok(())
}

/// Times of a layer by the sparse kernel and of the same one by the dense kernel.
fn sparse_and_dense(
    isa: Isa,
    (rows, columns): (usize, usize),
    zeros: f64,
    batch: usize,
) -> Result<(f64, f64)> {
    let model = linear(rows, columns, zeros)?;
    let bench = |kernel| {
        Bench::new(&model, isa, Options { kernel, batch: Some(batch), ..Options::default() }, batch)
    };
    let mut both = [bench(KernelChoice::Sparse)?, bench(KernelChoice::Dense)?];
    let times = least(&mut both, Duration::from_millis(300))?;
    Ok((times[0], times[1]))
}
