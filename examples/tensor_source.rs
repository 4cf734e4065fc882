//! A checkpoint in a container of one's own: all that is needed is names, shapes and elements.
//!
//!     cargo run --release --example tensor_source

use std::path::Path;

use svdo::checkpoint::{Checkpoint, DType, Options, TensorInfo, TensorSource};
use svdo::compress::Job;
use svdo::container;
use svdo::engine::{Engine, Isa};

/// Tensors that lie in memory: theta and log sigma^2 of two layers, every third weight kept.
struct Arrays {
    tensors: Vec<TensorInfo>,
    values: Vec<Vec<f32>>,
}

impl Arrays {
    fn new() -> Self {
        let mut arrays = Self { tensors: Vec::new(), values: Vec::new() };
        for (layer, shape) in [("fc1", [32, 64]), ("fc2", [10, 32])] {
            let count = shape[0] * shape[1];
            let theta = (0..count).map(|at| (at as f32 * 0.7).sin()).collect();
            let log_sigma2 = (0..count).map(|at| if at % 3 == 0 { -8.0 } else { 6.0 }).collect();
            arrays.add(format!("{layer}.theta"), &shape, theta);
            arrays.add(format!("{layer}.log_sigma2"), &shape, log_sigma2);
            arrays.add(format!("{layer}.bias"), &shape[..1], vec![0.1; shape[0]]);
        }
        arrays
    }

    fn add(&mut self, name: String, shape: &[usize], values: Vec<f32>) {
        self.tensors.push(TensorInfo { name, dtype: DType::F32, shape: shape.to_vec() });
        self.values.push(values);
    }
}

impl TensorSource for Arrays {
    fn format(&self) -> &'static str {
        "arrays in memory"
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> svdo::Result<()> {
        out.copy_from_slice(&self.values[tensor][start..][..out.len()]);
        Ok(())
    }

    fn metadata(&self, _key: &str) -> Option<&str> {
        None
    }
}

fn main() -> svdo::Result<()> {
    let checkpoint =
        Checkpoint::from_source(Path::new("arrays"), Box::new(Arrays::new()), &Options::default())?;
    checkpoint.notes().iter().for_each(|note| println!("note: {note}"));
    let done = Job::new(&checkpoint).run()?;
    println!("{} bytes, {:.1} times smaller", done.file.bytes().len(), done.report.size_ratio);

    let model = container::read(done.file.bytes())?;
    let engine = Engine::new(&model, Isa::best())?;
    let mut outputs = [0.0; 10];
    engine.infer(&[0.5; 64], &mut outputs)?;
    println!("{outputs:?}");
    Ok(())
}
