//! Kernels beside what the core can do, and beside our own dense ones.
//!
//! `cargo bench --bench kernels` measures the core (multiply-adds, reads, gathers) and prints for
//! each kernel the time of a call and its share of the bound. `-- sweep` runs densities times
//! batches, the planned engine and the dense one in turn, and prints the offenders: cells that take longer than
//! the dense kernel, where theirs is another, than a larger batch, or than fewer zeros do. `-- calibrate` measures
//! what `src/engine/cost.rs` holds of linear layers, `-- maps` convolutions by each kernel.
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
/// So many times as long is longer, and no noise.
const SLOWER: f64 = 1.05;
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
    /// Calls that are timed as one.
    calls: u32,
}

impl Bench {
    fn new(model: &Model, isa: Isa, options: Options, batch: usize) -> Result<Self> {
        let engine = Engine::with_options(model, isa, options)?;
        let mut noise = Noise(7);
        let x = (0..batch * engine.input_shape().elements()?).map(|_| noise.next()).collect();
        let y = vec![0.0; batch * engine.output_shape().elements()?];
        Ok(Self { workspace: engine.workspace(batch), engine, x, y, calls: 1 })
    }

    fn call(&mut self) -> Result<f64> {
        let (cpu, start) = (cpu_seconds(), Instant::now());
        for _ in 0..self.calls {
            self.engine.run(&mut self.workspace, &self.x, &mut self.y)?;
        }
        let wall = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - cpu;
        // The clock of CPU time is too slow for calls of a few microseconds.
        let time = if wall < 50e-6 { wall } else { wall.min(cpu) };
        Ok(time / f64::from(self.calls))
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
    for bench in &mut *benches {
        bench.call()?;
        // The clock takes some 20 ns.
        bench.calls = (5e-6 / bench.call()?).ceil() as u32;
    }
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

/// A layer of the sweep.
type Make = fn(f64) -> Result<Model>;

/// A cell of the sweep: how the zeros and the batch are run.
#[derive(Clone, Copy)]
struct Cell {
    zeros: f64,
    batch: usize,
    kernel: KernelChoice,
}

impl Cell {
    fn bench(self, make: Make, isa: Isa) -> Result<Bench> {
        let options = Options { kernel: self.kernel, ..Options::default() };
        Bench::new(&make(self.zeros)?, isa, options, self.batch)
    }
}

fn sweep(isa: Isa) -> Result<()> {
    let (mut cells, mut offenders) = (0, 0);
    let layers: [(&str, Make, usize); 4] = [
        ("linear 300x784", |zeros| linear(300, 784, zeros), 65),
        ("linear 10x100", |zeros| linear(10, 100, zeros), 65),
        ("linear 1024x1024", |zeros| linear(1024, 1024, zeros), 65),
        ("convolution 32x32x3x3 at 16x16", |zeros| convolution(32, 16, zeros), 17),
    ];
    println!("microseconds of a batch, and how many times as long the dense kernel takes");
    for (name, make, most) in layers {
        let mut times: Vec<(Cell, f64)> = Vec::new();
        let mut suspects = Vec::new();
        for zeros in ZEROS {
            let model = make(zeros)?;
            let mut line = format!("{name}, {zeros} %:");
            let same_zeros = times.len();
            for batch in BATCHES.into_iter().filter(|&batch| batch <= most) {
                let cell = |kernel| Cell { zeros, batch, kernel };
                let (cell, other) = (cell(KernelChoice::Auto), cell(KernelChoice::Dense));
                let mut pair = [cell.bench(make, isa)?, other.bench(make, isa)?];
                let [a, b] =
                    [0, 1].map(|at: usize| pair[at].engine.steps_of(&model, batch)[0].kernel);
                let [auto, dense] = least(&mut pair, Duration::from_millis(40))?[..] else {
                    unreachable!("two went in");
                };
                line += &format!(" {batch}:{:.1}({:.2})", auto * 1e6, dense / auto);
                let dense = (a != b).then_some((other, dense));
                let fewer = times.iter().filter(|(other, _)| other.batch == batch).copied();
                // The smaller batches are the ones that offend.
                let smaller =
                    times[same_zeros..].iter().map(|&(other, time)| (other, time, cell, auto));
                let own = fewer.chain(dense).map(|(other, time)| (cell, auto, other, time));
                suspects.extend(own.chain(smaller).filter(|pair| pair.1 > pair.3 * SLOWER));
                times.push((cell, auto));
            }
            println!("{line}");
        }
        cells += times.len();
        for (cell, _) in times {
            let same = |other: &Cell| other.zeros == cell.zeros && other.batch == cell.batch;
            let own = suspects.iter().filter(|suspect| same(&suspect.0));
            let ratio = |suspect: &(Cell, f64, Cell, f64)| suspect.1 / suspect.3;
            let worst = own.max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
            let Some(&(_, _, other, _)) = worst else { continue };
            // By turns, since the two were measured at different times, and where memory is another.
            let mut times = [f64::INFINITY; 2];
            for _ in 0..3 {
                let mut pair = [cell.bench(make, isa)?, other.bench(make, isa)?];
                let found = least(&mut pair, Duration::from_millis(60))?;
                times.iter_mut().zip(found).for_each(|(time, found)| *time = time.min(found));
            }
            if times[0] > times[1] * SLOWER {
                offenders += 1;
                let Cell { zeros, batch, kernel } = other;
                println!(
                    "  {} % zeros, batch {}: {:.2} times {kernel:?} with {zeros} %, batch {batch}",
                    cell.zeros,
                    cell.batch,
                    times[0] / times[1]
                );
            }
        }
    }
    println!("{offenders} offenders in {cells} cells");
    Ok(())
}

/// Nanoseconds of a weight of linear layers, by kernel and samples.
fn calibrate(isa: Isa) -> Result<()> {
    let weights = |(rows, columns), zeros, batch, kernel| -> Result<f64> {
        let model = linear(rows, columns, zeros)?;
        let options = Options { kernel, batch: Some(batch), ..Options::default() };
        let time =
            least(&mut [Bench::new(&model, isa, options, batch)?], Duration::from_millis(300))?;
        let dense = kernel == KernelChoice::Dense;
        let weights = if dense { rows * columns } else { model.weights[0].pattern.len() };
        Ok(time[0] * 1e9 / weights as f64)
    };
    for shape in [(300, 784), (512, 512), (1024, 1024)] {
        println!("{shape:?}: nanoseconds of a weight");
        println!("  sliced: {:.4}", weights(shape, 90.0, 1, KernelChoice::Sparse)?);
        println!("  dense: {:.4}", weights(shape, 0.0, 1, KernelChoice::Dense)?);
        for batch in [8, 16, 32] {
            println!(
                "  {batch} samples: row: {:.4}, shared_row: {:.4}",
                weights(shape, 80.0, batch, KernelChoice::Sparse)?,
                weights(shape, 0.0, batch, KernelChoice::Dense)?
            );
        }
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
