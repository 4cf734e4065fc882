//! Runs an ONNX model for a benchmark that compares engines: `bench_worker MODEL.onnx X.f32 DIMS`; with `dense`
//! behind it zeros and all, with `int8` a .svdo file with ranges in 8 bits.
//!
//! X holds little-endian f32, DIMS is its shape with commas. After loading and warming up it says
//! `ready`, then answers `run N` with N wall times and the CPU time of a call, all in nanoseconds,
//! `out N` with the first N outputs (10 if it is not said), `steps` with the least time of each
//! step, until `quit`. The variable OMP_NUM_THREADS says how many threads share a run (1).

use std::io::{BufRead, Write};
use std::time::Instant;

use svdo::engine::{Engine, Isa, KernelChoice, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, x, dims, rest @ ..] = &arguments[..] else {
        return Err("usage: bench_worker MODEL X.f32 DIMS [dense | int8]".into());
    };
    let batch: usize = dims.split(',').next().unwrap_or("1").parse()?;
    let file = std::fs::read(model)?;
    let isa = Isa::detect(std::env::var("SVDO_CPU").ok().as_deref())?;
    let dense = rest.first().is_some_and(|word| word == "dense");
    let threads = std::env::var("OMP_NUM_THREADS").map_or(Ok(1), |threads| threads.parse())?;
    let kernel = if dense { KernelChoice::Dense } else { KernelChoice::Auto };
    let options = Options { kernel, batch: Some(batch), threads, ..Options::default() };
    let (model, engine) = if rest.first().is_some_and(|word| word == "int8") {
        let (model, ranges) = svdo::container::read_for_int8(&file)?;
        let engine = Engine::in_int8(&model, &ranges, isa, options)?;
        (model, engine)
    } else {
        let model = svdo::onnx::read(&file)?;
        let engine = Engine::with_options(&model, isa, options)?;
        (model, engine)
    };
    let bytes = std::fs::read(x)?;
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let x: Vec<f32> = bytes.chunks_exact(4).map(number).collect();
    let mut y = vec![0.0; batch * engine.output_shape().elements()?];
    let mut workspace = engine.workspace(batch);
    for _ in 0..3 {
        engine.run(&mut workspace, &x, &mut y)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("run"), Some(count)) => {
                let count: usize = count.parse()?;
                let mut times = Vec::with_capacity(count);
                let cpu = cpu_nanoseconds();
                for _ in 0..count {
                    let start = Instant::now();
                    engine.run(&mut workspace, &x, &mut y)?;
                    times.push(start.elapsed().as_nanos());
                }
                let cpu = cpu_nanoseconds() - cpu;
                for time in &times {
                    write!(out, "{time} ")?;
                }
                writeln!(out, "{}", cpu / count.max(1) as u128)?;
            }
            (Some("out"), count) => {
                engine.run(&mut workspace, &x, &mut y)?;
                let count = count.map_or(Ok(10), str::parse)?;
                let first: Vec<String> = y.iter().take(count).map(f32::to_string).collect();
                writeln!(out, "{}", first.join(" "))?;
            }
            (Some("steps"), _) => {
                let steps = engine.steps_of(&model, batch);
                let mut times = vec![f64::INFINITY; steps.len()];
                for _ in 0..50 {
                    let mut sums = vec![0.0; steps.len()];
                    let mut before = Instant::now();
                    engine.run_observed(&mut workspace, &x, &mut y, &mut |step| {
                        let now = Instant::now();
                        sums[step] += (now - before).as_secs_f64() * 1e6;
                        before = now;
                    })?;
                    times.iter_mut().zip(sums).for_each(|(time, sum)| *time = sum.min(*time));
                }
                for (step, time) in steps.iter().zip(times) {
                    let rate = step.multiply_adds as f64 * batch as f64 * 2e-3 / time;
                    let density = step.density * 100.0;
                    writeln!(
                        out,
                        "{time:9.2} us {rate:6.1} GFLOP/s {density:5.1} % {}",
                        step.kernel
                    )?;
                }
            }
            _ => break,
        }
        out.flush()?;
    }
    Ok(())
}

/// CPU time of this process.
fn cpu_nanoseconds() -> u128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128
}
