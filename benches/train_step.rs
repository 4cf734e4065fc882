//! Milliseconds of a training step (forward with local reparameterization, KL, backward, Adam) at
//! batch 100.
//!
//! `cargo bench --bench train_step -- RECIPE THREADS STEPS [WIDTH]` prints the median as one number, for
//! `benches/peers/torch_step.sh` to set beside PyTorch's: on MNIST's test images where the recipe reads
//! such, four of five pixels of which are zero; with `NOISE=1`, and for other recipes, on images of noise
//! without zeros. A recipe more than the trainer's is `mlp-4096`, of layers of 784, 4096, 4096 and 10.
//! `-- scaling` prints how the time of an epoch grows with weights and with samples, `-- sparsity` how the
//! step of fine-tuning falls with the weights that pruning left.

use std::path::Path;
use std::time::Instant;

use safetensors::tensor::{Dtype, TensorView};

use svdo::network::describe::Description;
use svdo::network::{Layer, Network};
use svdo::train::dataset::Dataset;
use svdo::train::family::Draw;
use svdo::train::recipe::{self, Config};
use svdo::train::trainer::Trainer;
use svdo::train::warm_start;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let name = arguments.first().map_or("lenet-300-100", String::as_str);
    match name {
        "scaling" => return scaling(),
        "sparsity" => return sparsity(),
        _ => {}
    }
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |a| a.parse());
    let (threads, steps) = (number(1, 1)?, number(2, 40)?);
    let width = arguments.get(3).map_or(Ok(1.0), |a| a.parse())?;
    let mut trainer = trainer(name, width)?;
    let mnist = name.starts_with("lenet") && std::env::var_os("NOISE").is_none();
    let data = if mnist { digits(&trainer, 1000)? } else { noise(&trainer, 1000)? };
    println!("{:.3}", median(&mut trainer, &data, threads, steps)?);
    Ok(())
}

/// Of a recipe, or a wide network of linear layers.
fn trainer(name: &str, width: f64) -> Result<Trainer> {
    let (network, config) = match name {
        "mlp-4096" => (layers(&[784, 4096, 4096, 10])?, Config::named(name)),
        _ => recipe::find(name, width)?,
    };
    Ok(Trainer::new(network, config)?)
}

/// Linear layers of these sizes with ReLUs in between.
fn layers(sizes: &[usize]) -> Result<Network> {
    let mut nodes = Vec::new();
    let mut layers = Vec::new();
    for (index, pair) in sizes.windows(2).enumerate() {
        let name = format!("fc{}", index + 1);
        nodes.push(format!(r#"{{"op": "linear", "layer": "{name}"}}"#));
        layers.push(Layer { name, shape: vec![pair[1], pair[0]] });
    }
    let nodes = nodes.join(r#", {"op": "relu"}, "#);
    let json = format!(r#"{{"version": 1, "input": {{"shape": [784]}}, "nodes": [{nodes}]}}"#);
    Ok(Description::from_json(&json)?.resolve(layers)?)
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
        let weights: usize = sizes.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let mut trainer = Trainer::new(layers(&sizes)?, Config::named("scaling"))?;
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

/// Milliseconds of a step of fine-tuning, the kept weights drawn at random, beside that of the posterior.
fn sparsity() -> Result<()> {
    println!("recipe,kept,ms,of_the_posterior_step");
    let folder = std::env::temp_dir().join(format!("svdo-train-step-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for (name, width) in [("lenet-300-100", 1.0), ("mlp-4096", 1.0), ("vgg-like", 0.25)] {
        let mut whole = trainer(name, width)?;
        let data = noise(&whole, 1000)?;
        let posterior = median(&mut whole, &data, 1, 20)?;
        println!("{name},posterior,{posterior:.2},1");
        for kept in [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01] {
            let path = folder.join("pruned.safetensors");
            std::fs::write(&path, pruned(&whole.network, kept)?)?;
            let config = Config { batch_norm: name == "vgg-like", ..Config::named(name) };
            let mut tuned = warm_start::from_survivors(&path, Some(&whole.network), config)?;
            let time = median(&mut tuned, &data, 1, 20)?;
            println!("{name},{kept},{time:.2},{:.3}", time / posterior);
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A checkpoint of random weights, a share of which is not zero.
fn pruned(network: &Network, kept: f64) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (layer, Layer { name, shape }) in network.layers.iter().enumerate() {
        let mut draws = vec![0.0; 2 * shape.iter().product::<usize>()];
        Draw { seed: 1, step: 0, layer: layer as u32 }.uniforms(0, &mut draws);
        let weights = draws.chunks_exact(2).map(|pair| {
            let value = (pair[0] - 0.5) * 0.1;
            if pair[1] < kept { value as f32 } else { 0.0 }
        });
        let bytes: Vec<u8> = weights.flat_map(f32::to_le_bytes).collect();
        tensors.push((format!("{name}.weight"), shape.clone(), bytes));
        let bias = vec![0u8; 4 * shape[0]];
        tensors.push((format!("{name}.bias"), vec![shape[0]], bias));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None)?)
}
