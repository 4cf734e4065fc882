//! Milliseconds of a training step (forward with local reparameterization, KL, backward, Adam) at
//! batch 100 on images of noise: `cargo bench --bench train_step -- RECIPE THREADS STEPS`. Prints the
//! median as one number, for `benches/peers/torch_step.sh` to set beside PyTorch's.

use svdo::train::dataset::Dataset;
use svdo::train::noise::{EXPERIMENT, Stream};
use svdo::train::recipe;
use svdo::train::trainer::Trainer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let name = arguments.first().map_or("lenet-300-100", String::as_str);
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |a| a.parse());
    let (threads, steps) = (number(1, 1)?, number(2, 40)?);
    let (network, config) = recipe::find(name, 1.0)?;
    let mut pixels = vec![0; 1000 * 784];
    Stream { seed: 1, purpose: EXPERIMENT, step: 0, index: 0 }.integers(&mut pixels);
    let raw: Vec<f32> = pixels.iter().map(|p| (p % 256) as f32).collect();
    let labels = (0..1000).map(|i| i % 10).collect();
    let mut trainer = Trainer::new(network, config)?;
    let (flat, classes) = (trainer.net.is_flat(), trainer.net.classes());
    let data = Dataset::new(&raw, labels, &trainer.network.input, flat, classes)?;
    let nothing = Dataset::new(&[], Vec::new(), &trainer.network.input, flat, classes)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut times = pool.install(|| {
        let mut times = Vec::new();
        for _ in 0..steps + 5 {
            let begun = std::time::Instant::now();
            trainer.step(&data, &nothing)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok::<_, svdo::Error>(times.split_off(5))
    })?;
    times.sort_by(f64::total_cmp);
    println!("{:.3}", times[times.len() / 2]);
    Ok(())
}
