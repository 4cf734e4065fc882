//! `--bench` of the edge build: the workstation's figures, without kernels to compare.

use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::json::opening;
use crate::engine::Engine;
use crate::error::Result;
use crate::measure::{Times, peak_rss_kib, random_samples};

/// Times of one batch size, in microseconds.
struct Batch {
    batch: usize,
    first: f64,
    times: Times,
}

/// Measures, and gives the text and the JSON.
pub(super) fn bench(
    engine: &Engine,
    arguments: &Arguments,
    threads: usize,
    load_seconds: f64,
) -> Result<(String, String)> {
    let sizes = arguments.batch.clone().unwrap_or(vec![1, 8, 64]);
    let batches = sizes.iter().map(|&batch| measure(engine, arguments, batch));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let (model, cpu) = (arguments.model.to_string_lossy(), engine.isa().name());
    let (load_ms, weight_bytes) = (load_seconds * 1e3, engine.weight_bytes());
    let mut text = format!(
        "{model} on {cpu}, {threads} thread(s): loaded in {load_ms:.1} ms, weights take \
         {weight_bytes} bytes\n{:>6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>12}\n",
        "batch", "median us", "mean us", "std", "p99", "first us", "samples/s"
    );
    let mut json = opening("bench", &arguments.model);
    json += &format!(
        "  \"isa\": \"{cpu}\",\n  \"kernel\": \"auto\",\n  \"threads\": {threads},\n  \"pinned\": [],\n  \
         \"time_unit\": \"us\",\n  \"load_ms\": {load_ms},\n  \"weight_bytes\": {weight_bytes},\n"
    );
    if let Some(peak) = peak_rss_kib() {
        json += &format!("  \"peak_rss_kib\": {peak},\n");
    }
    json += "  \"batches\": [";
    for (at, b) in batches.iter().enumerate() {
        let (batch, first, runs) = (b.batch, b.first, b.times.runs());
        let (mean, std, median) = (b.times.mean(), b.times.std(), b.times.median());
        let [min, p90, p95, p99, max] =
            [0.0, 0.9, 0.95, 0.99, 1.0].map(|share| b.times.quantile(share));
        let rate = batch as f64 * 1e6 / median;
        text += &format!(
            "{batch:>6} {median:>11.2} {mean:>11.2} {std:>11.2} {p99:>11.2} {first:>11.2} \
             {rate:>12.0}\n"
        );
        let comma = if at > 0 { "," } else { "" };
        json += &format!(
            "{comma}\n    {{\"batch\": {batch}, \"first_inference\": {first}, \"runs\": {runs}, \
             \"mean\": {mean}, \"std\": {std}, \"min\": {min}, \"median\": {median}, \"p90\": {p90}, \
             \"p95\": {p95}, \"p99\": {p99}, \"max\": {max}, \"items_per_sec\": {rate}}}"
        );
    }
    Ok((text, json + "\n  ]\n}\n"))
}

fn measure(engine: &Engine, arguments: &Arguments, batch: usize) -> Result<Batch> {
    let x = random_samples(engine, batch)?;
    let mut y = vec![0.0; batch * engine.output_shape().elements()?];
    let mut workspace = engine.workspace(batch);
    let mut time = || -> Result<f64> {
        let start = Instant::now();
        engine.run(&mut workspace, &x, &mut y)?;
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
    Ok(Batch { batch, first, times: Times::new(times) })
}
