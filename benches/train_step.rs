//! Milliseconds of a training step (forward with local reparameterization, KL, backward, Adam) at
//! batch 100.
//!
//! `cargo bench --bench train_step -- RECIPE THREADS STEPS [WIDTH]` prints the median as one number, for
//! `benches/peers/torch_step.sh` to set beside PyTorch's: on MNIST's test images where the recipe reads
//! such, four of five pixels of which are zero; with `NOISE=1`, and for other recipes, on images of noise
//! without zeros. `-- scaling` prints how the time of an epoch grows with weights and with samples.

use std::path::Path;
use std::time::Instant;

use svdo::network::Layer;
use svdo::network::describe::Description;
use svdo::train::dataset::Dataset;
use svdo::train::family::Draw;
use svdo::train::recipe::{self, Config};
use svdo::train::trainer::Trainer;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let name = arguments.first().map_or("lenet-300-100", String::as_str);
    if name == "scaling" {
        return scaling();
    }
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |a| a.parse());
    let (threads, steps) = (number(1, 1)?, number(2, 40)?);
    let width = arguments.get(3).map_or(Ok(1.0), |a| a.parse())?;
    let (network, config) = recipe::find(name, width)?;
    let mut trainer = Trainer::new(network, config)?;
    let mnist =
        trainer.network.input.shape.elements()? == 784 && std::env::var_os("NOISE").is_none();
    let data = if mnist { digits(&trainer, 1000)? } else { noise(&trainer, 1000)? };
    println!("{:.3}", median(&mut trainer, &data, threads, steps)?);
    Ok(())
}

/// The last of MNIST's test images.
fn digits(trainer: &Trainer, samples: usize) -> Result<Dataset> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures"));
    Ok(Dataset::read(folder, true, &trainer.network)?.split_off(samples))
}

/// Median milliseconds of a step, after five to warm up.
fn median(trainer: &mut Trainer, data: &Dataset, threads: usize, steps: usize) -> Result<f64> {
    let nothing = noise(trainer, 0)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut times = pool.install(|| {
        let mut times = Vec::new();
        for _ in 0..steps + 5 {
            let begun = Instant::now();
            trainer.step(data, &nothing)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok::<_, svdo::Error>(times.split_off(5))
    })?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Samples of noise with labels in turn.
fn noise(trainer: &Trainer, samples: usize) -> Result<Dataset> {
    let network = &trainer.network;
    let mut pixels = vec![0.0; samples * network.input.shape.elements()?];
    Draw { seed: 1, step: 0, layer: 0 }.uniforms(0, &mut pixels);
    let raw: Vec<f32> = pixels.iter().map(|p| (256.0 * p).floor() as f32).collect();
    let classes = network.output_shape_of_all()?.channels as u32;
    let labels = (0..samples as u32).map(|i| i % classes).collect();
    Ok(Dataset::new(&raw, labels, network)?)
}

fn scaling() -> Result<()> {
    println!("  weights  ms of a step  ns a weight");
    for factor in [1, 2, 4, 8, 16] {
        let sizes = [784, 300 * factor, 100, 10];
        let mut nodes = Vec::new();
        let mut layers = Vec::new();
        for (index, pair) in sizes.windows(2).enumerate() {
            let name = format!("fc{}", index + 1);
            nodes.push(format!(r#"{{"op": "linear", "layer": "{name}"}}"#));
            layers.push(Layer { name, shape: vec![pair[1], pair[0]] });
        }
        let nodes = nodes.join(r#", {"op": "relu"}, "#);
        let json = format!(r#"{{"version": 1, "input": {{"shape": [784]}}, "nodes": [{nodes}]}}"#);
        let weights: usize = sizes.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let network = Description::from_json(&json)?.resolve(layers)?;
        let mut trainer = Trainer::new(network, Config::named("scaling"))?;
        let data = noise(&trainer, 1000)?;
        let time = median(&mut trainer, &data, 1, 40)?;
        println!("{weights:9}  {time:12.2}  {:11.2}", time * 1e6 / weights as f64);
    }
    println!("\n  samples  seconds of an epoch  microseconds a sample");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    for samples in [5_000, 10_000, 20_000, 40_000, 60_000] {
        let (network, config) = recipe::find("lenet-300-100", 1.0)?;
        let mut trainer = Trainer::new(network, config)?;
        let (data, nothing) = (noise(&trainer, samples)?, noise(&trainer, 0)?);
        let begun = Instant::now();
        pool.install(|| {
            while trainer.step(&data, &nothing)?.is_none() {}
            Ok::<_, svdo::Error>(())
        })?;
        let time = begun.elapsed().as_secs_f64();
        println!("{samples:9}  {time:19.2}  {:21.1}", time * 1e6 / samples as f64);
    }
    Ok(())
}
