//! The smallest file of a checkpoint that holds a bound, with progress, and the report as a page.
//!
//!     cargo run --release --example compress_search -- fixtures/lenet300_mnist.safetensors \
//!         fixtures/t10k-images-idx3-ubyte.gz fixtures/t10k-labels-idx1-ubyte.gz

use std::ops::ControlFlow;
use std::path::PathBuf;

use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::{Goal, Job, Samples};
use svdo::data;
use svdo::progress::Event;
use svdo::report::{Report, text};

fn main() -> svdo::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [checkpoint, images, labels] = &paths[..] else {
        eprintln!("usage: compress_search CHECKPOINT IMAGES LABELS");
        std::process::exit(2);
    };
    let checkpoint = Checkpoint::open(checkpoint, &Options::default())?;
    // Images that the network was not trained on; those of the test set only to report, never to choose.
    let images =
        data::read_samples(std::slice::from_ref(images), None, checkpoint.network().input.shape)?;
    let labels = data::read_labels(labels)?;
    let samples = Samples { values: &images.values, labels: Some(&labels) };
    let show = |event: Event| {
        if let Event::Searching { tried, about, bytes } = event {
            eprintln!("{tried} of about {about}: {bytes} bytes");
        }
        ControlFlow::Continue(())
    };
    let done = Job::new(&checkpoint)
        .validate(samples)
        .goal(Goal::ErrorIncrease(0.001))
        .effort(1)
        .observe(&show)
        .run()?;
    svdo::files::write(std::path::Path::new("model.svdo"), done.file.bytes())?;
    println!("{}", text::render(&Report::Compress(Box::new(done.report))));
    Ok(())
}
