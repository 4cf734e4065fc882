//! One engine for many threads: each has a workspace of its own, and nothing is allocated while they run.
//!
//!     svdo-compress fixtures/lenet300_mnist.safetensors -o model.svdo
//!     cargo run --release --example infer_many -- model.svdo

use std::path::PathBuf;

use svdo::container;
use svdo::engine::{Engine, Isa, Options};

const CALLERS: usize = 4;
const SAMPLES: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: infer_many MODEL");
        std::process::exit(2);
    };
    let bytes = std::fs::read(&path)?;
    let model = container::read(&bytes).map_err(|error| error.in_file(&path))?;
    // Callers are threads already: the engine starts none of its own.
    let options = Options { threads: 1, ..Options::default() };
    let engine = Engine::with_options(&model, Isa::best(), options)?;
    let ins = model.network.input.shape.elements()?;
    let outs = engine.output_shape().elements()?;
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let engine = &engine;
            scope.spawn(move || {
                let mut workspace = engine.workspace(SAMPLES);
                let inputs = vec![caller as f32; SAMPLES * ins];
                let mut outputs = vec![0.0; SAMPLES * outs];
                match engine.run(&mut workspace, &inputs, &mut outputs) {
                    Ok(()) => println!("caller {caller}: {:?}", &outputs[..outs]),
                    Err(error) => eprintln!("caller {caller}: {error}"),
                }
            });
        }
    });
    Ok(())
}
