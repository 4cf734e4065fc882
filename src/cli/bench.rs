//! `svdo-infer --bench`.

use std::time::{Duration, Instant};

use clap::Args;

use super::bench_report::{Batch, Benchmark, Compared, StepTime};
use super::precision::{Loaded, Precision};
use crate::engine::{Engine, Isa, KernelChoice, Options, Workspace};
use crate::measure::{Times, peak_rss_kib, random_samples};
use crate::model::Model;

/// How to measure.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Benchmark")]
pub(super) struct Measure {
    /// Measure the time of inference on random samples
    #[arg(long, conflicts_with_all = ["input", "verify"])]
    pub(super) bench: bool,

    /// Samples that run at a time
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_value = "1,8,64", requires = "bench",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: Vec<u32>,

    /// Milliseconds to run before measuring
    #[arg(long, value_name = "MS", default_value_t = 100, requires = "bench")]
    warmup_ms: u64,

    /// Least milliseconds to measure, and at least 5 runs
    #[arg(long, value_name = "MS", default_value_t = 500, requires = "bench")]
    min_ms: u64,

    /// Run on these cores only
    #[arg(long, value_name = "CORE,CORE", value_delimiter = ',', requires = "bench")]
    pin: Vec<usize>,

    /// The instruction set: portable, avx2 ... [default: the best of this CPU, or SVDO_CPU]
    #[arg(long, value_name = "NAME", requires = "bench")]
    isa: Option<String>,

    /// Which kernels to use
    #[arg(long, value_enum, default_value = "auto", requires = "bench")]
    kernel: KernelName,

    /// Print the time of each step
    #[arg(long, requires = "bench")]
    pub(super) step_times: bool,

    /// Measure another kernel too, in f32, run by run in turn, and give the ratio
    #[arg(long, value_enum, value_name = "KERNEL", requires = "bench")]
    compare: Option<KernelName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KernelName {
    /// The one that should be the fastest for each layer
    Auto,
    /// Dense, zeros and all
    Dense,
}

impl KernelName {
    fn kernel(self) -> KernelChoice {
        match self {
            Self::Auto => KernelChoice::Auto,
            Self::Dense => KernelChoice::Dense,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Dense => "dense",
        }
    }
}

/// One way to run a model, with what running it needs.
struct Runner {
    engine: Engine,
    workspace: Workspace,
}

impl Runner {
    /// Microseconds of one call.
    fn time(&mut self, x: &[f32], y: &mut [f32]) -> crate::Result<f64> {
        let start = Instant::now();
        self.engine.run(&mut self.workspace, x, y)?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

impl Measure {
    /// Reads a model by `load` and measures it.
    pub(super) fn run(
        &self,
        (name, precision): (String, Precision),
        threads: usize,
        load: impl FnOnce() -> crate::Result<Loaded>,
    ) -> anyhow::Result<Benchmark> {
        let isa = match &self.isa {
            Some(isa) => Isa::detect(Some(isa))?,
            None => super::isa()?,
        };
        pin(&self.pin)?;
        let start = Instant::now();
        let loaded = load()?;
        let model = &loaded.model;
        let runner = |kernel: KernelName, batch: usize, compared: bool| -> crate::Result<Runner> {
            let options = Options { kernel: kernel.kernel(), threads, ..Options::default() };
            let engine = match compared {
                true => Engine::with_options(model, isa, options)?,
                false => loaded.engine(isa, options)?,
            };
            let workspace = engine.workspace(batch);
            Ok(Runner { engine, workspace })
        };
        let most = self.batch.iter().copied().max().unwrap_or(1) as usize;
        let mut main = runner(self.kernel, most, false)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let weight_bytes = main.engine.weight_bytes();

        let engine = &main.engine;
        let outputs = engine.output_shape().elements()?;
        let x = random_samples(engine, most)?;
        let mut y = vec![0.0; most * outputs];
        let inputs = x.len() / most;
        let mut first = Vec::new();
        for &batch in &self.batch {
            let batch = batch as usize;
            let (x, y) = (&x[..batch * inputs], &mut y[..batch * outputs]);
            first.push(main.time(x, y)?);
        }
        // Before anything that only the comparison needs.
        let peak_rss_kib = peak_rss_kib();
        let mut other = self.compare.map(|kernel| runner(kernel, most, true)).transpose()?;
        let peak_gflops = crate::engine::peak_gflops(isa, threads, Duration::from_millis(50));
        let mut batches = Vec::new();
        for (&batch, first_inference) in self.batch.iter().zip(first) {
            let batch = batch as usize;
            let (x, y) = (&x[..batch * inputs], &mut y[..batch * outputs]);
            let times = self.times(&mut main, other.as_mut(), x, y)?;
            let steps = match self.step_times {
                true => profile(model, &mut main, x, y)?,
                false => Vec::new(),
            };
            let infos = main.engine.steps_of(model, batch);
            let multiply_adds: usize = infos.iter().map(|step| step.multiply_adds).sum();
            let operations = (2 * multiply_adds * batch) as f64;
            let compared = self.compare.map(|kernel| (kernel.name(), times.1));
            batches.push(Batch::new(
                (batch, first_inference, Times::new(times.0)),
                operations,
                peak_gflops,
                compared
                    .map(|(kernel, times)| Compared { kernel, median: Times::new(times).median() }),
                steps,
            ));
        }
        Ok(Benchmark {
            report: "bench",
            model: name,
            isa: isa.name(),
            kernel: self.kernel.name(),
            precision: precision.name(),
            layers: loaded.layers(&main.engine),
            threads,
            pinned: self.pin.clone(),
            time_unit: "us",
            load_ms,
            weight_bytes,
            peak_rss_kib,
            peak_gflops,
            batches,
        })
    }

    /// Times of the runs of one engine and of another, in turn.
    fn times(
        &self,
        runner: &mut Runner,
        mut other: Option<&mut Runner>,
        x: &[f32],
        y: &mut [f32],
    ) -> crate::Result<(Vec<f64>, Vec<f64>)> {
        let (mut times, mut others) = (Vec::new(), Vec::new());
        let mut both = |keep: bool| -> crate::Result<usize> {
            let time = runner.time(x, y)?;
            let other = other.as_mut().map(|other| other.time(x, y)).transpose()?;
            if keep {
                times.push(time);
                others.extend(other);
            }
            Ok(times.len())
        };
        let warm = Instant::now();
        while warm.elapsed() < Duration::from_millis(self.warmup_ms) {
            both(false)?;
        }
        let start = Instant::now();
        while both(true)? < 5 || start.elapsed() < Duration::from_millis(self.min_ms) {}
        Ok((times, others))
    }
}

/// The mean time of each step, on the threads of the engine.
fn profile(
    model: &Model,
    runner: &mut Runner,
    x: &[f32],
    y: &mut [f32],
) -> crate::Result<Vec<StepTime>> {
    const RUNS: u32 = 20;
    let samples = x.len() / runner.engine.input_shape().elements()?;
    let infos = runner.engine.steps_of(model, samples);
    let mut spent = vec![Duration::ZERO; infos.len()];
    for _ in 0..RUNS {
        let mut before = Instant::now();
        runner.engine.run_observed(&mut runner.workspace, x, y, &mut |step| {
            let now = Instant::now();
            spent[step] += now - before;
            before = now;
        })?;
    }
    let step = |(info, spent): (crate::engine::StepInfo, Duration)| {
        let time = spent.as_secs_f64() * 1e6 / f64::from(RUNS);
        let layer = info.layer.map_or("", |layer| &model.network.layers[layer].name);
        StepTime {
            layer: layer.into(),
            kernel: info.kernel,
            density: info.density,
            time,
            nonzero_gflops: (2 * info.multiply_adds * samples) as f64 * 1e-3 / time.max(1e-3),
        }
    };
    Ok(infos.into_iter().zip(spent).map(step).collect())
}

/// Keeps this thread, and those that it will start, on some cores.
#[cfg(target_os = "linux")]
fn pin(cores: &[usize]) -> anyhow::Result<()> {
    use rustix::thread::CpuSet;
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &core in cores {
        anyhow::ensure!(
            core < CpuSet::MAX_CPU,
            "--pin {core}: cores are below {}",
            CpuSet::MAX_CPU
        );
        set.set(core);
    }
    let list = || cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|e| anyhow::anyhow!("--pin {}: {e}: are there such cores?", list()))
}

#[cfg(not(target_os = "linux"))]
fn pin(cores: &[usize]) -> anyhow::Result<()> {
    anyhow::ensure!(cores.is_empty(), "--pin: only Linux pins a program to cores from within");
    Ok(())
}
