//! `--bench` of the edge build: the workstation's figures, without kernels to compare.

use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::text::quoted;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Times of one batch size, in microseconds, in ascending order.
struct Batch {
    batch: usize,
    first: f64,
    times: Vec<f64>,
}

/// Measures, and gives the text and the JSON.
pub(super) fn bench(
    engine: &Engine,
    arguments: &Arguments,
    threads: usize,
    load_seconds: f64,
) -> Result<(String, String)> {
    let sizes = arguments.batch.clone().unwrap_or(vec![1, 8, 64]);
    let batches = sizes.iter().map(|&batch| measure(engine, arguments, batch, threads));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let (model, cpu) = (arguments.model.to_string_lossy(), engine.isa().name());
    let (load_ms, weight_bytes) = (load_seconds * 1e3, engine.weight_bytes());
    let mut text = format!(
        "{model} on {cpu}, {threads} thread(s): loaded in {load_ms:.1} ms, weights take \
         {weight_bytes} bytes\n{:>6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>12}\n",
        "batch", "median us", "mean us", "std", "p99", "first us", "samples/s"
    );
    let mut json = format!(
        "{{\n  \"model\": {},\n  \"cpu\": \"{cpu}\",\n  \"threads\": {threads},\n  \"load_ms\": \
         {load_ms},\n  \"weight_bytes\": {weight_bytes},\n",
        quoted(&model)
    );
    if let Some(peak) = peak_rss_kib() {
        json += &format!("  \"peak_rss_kib\": {peak},\n");
    }
    json += "  \"batches\": [";
    for (at, b) in batches.iter().enumerate() {
        let (mean, std) = b.mean_and_std();
        let (batch, first, runs, min) = (b.batch, b.first, b.times.len(), b.times[0]);
        let (median, p90, p99) = (b.at(0.5), b.at(0.9), b.at(0.99));
        let rate = batch as f64 * 1e6 / median;
        text += &format!(
            "{batch:>6} {median:>11.2} {mean:>11.2} {std:>11.2} {p99:>11.2} {first:>11.2} \
             {rate:>12.0}\n"
        );
        let comma = if at > 0 { "," } else { "" };
        json += &format!(
            "{comma}\n    {{\"batch\": {batch}, \"first_inference\": {first}, \"runs\": {runs}, \
             \"mean\": {mean}, \"std\": {std}, \"min\": {min}, \"median\": {median}, \"p90\": {p90}, \
             \"p99\": {p99}, \"items_per_sec\": {rate}}}"
        );
    }
    Ok((text, json + "\n  ]\n}\n"))
}

fn measure(engine: &Engine, arguments: &Arguments, batch: usize, threads: usize) -> Result<Batch> {
    let x = random_samples(engine, batch)?;
    let mut y = vec![0.0; batch * engine.output_shape().elements()?];
    let mut workspace = engine.workspace(batch);
    let mut time = || -> Result<f64> {
        let start = Instant::now();
        if threads > 1 {
            engine.run_parallel(&x, &mut y, threads)?;
        } else {
            engine.run(&mut workspace, &x, &mut y)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    let first = time()?;
    let (warm, least) = (arguments.warmup_ms.unwrap_or(100), arguments.min_ms.unwrap_or(500));
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(warm) {
        time()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 5 || start.elapsed() < Duration::from_millis(least) {
        times.push(time()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(Batch { batch, first, times })
}

impl Batch {
    fn at(&self, share: f64) -> f64 {
        self.times[((self.times.len() - 1) as f64 * share) as usize]
    }

    fn mean_and_std(&self) -> (f64, f64) {
        let count = self.times.len() as f64;
        let mean = self.times.iter().sum::<f64>() / count;
        let variance = self.times.iter().map(|t| (t - mean) * (t - mean)).sum::<f64>() / count;
        (mean, libm::sqrt(variance))
    }
}

/// Uniform samples over the range that preprocessing maps to 0..1, the same at every run.
///
/// # Errors
/// [`Error::Data`] if they are too many to number.
pub(crate) fn random_samples(engine: &Engine, count: usize) -> Result<Vec<f32>> {
    let elements = engine.input_shape().elements()?;
    let total = count.checked_mul(elements).ok_or_else(|| Error::data("too many samples"))?;
    let scale = 1.0 / engine.input_scale();
    // SplitMix64 (Steele, Lea and Flood 2014): a counter and a hash.
    let uniform = |i: usize| {
        let mut z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f32 / (1 << 24) as f32
    };
    Ok((0..total).map(|i| uniform(i) * scale).collect())
}

/// The most memory that this process has held, where the system says.
pub(crate) fn peak_rss_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
