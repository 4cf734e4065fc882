//! `svdo export`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

use super::{Outcome, output};
use crate::error::IoContext;
use crate::{container, export};

const EXAMPLES: &str = "\
Examples:
  svdo export model.svdo -o model.safetensors
  svdo export model.svdo -o model.onnx --sparse";

/// Write a .svdo file as a dense model: .safetensors, .onnx or .npz
///
/// The weights are bit for bit those that svdo-infer runs with. safetensors and .npz hold
/// LAYER.weight and LAYER.bias; safetensors also the network description; .onnx is a whole
/// network, preprocessing included.
#[derive(Debug, Parser)]
#[command(name = "svdo-export", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// The compressed model
    model: PathBuf,

    /// The file to write; its extension says what
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// For .onnx: weights as sparse initializers
    #[arg(long)]
    sparse: bool,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let extension = self.output.extension().and_then(|e| e.to_str()).unwrap_or_default();
        anyhow::ensure!(
            matches!(extension, "safetensors" | "npz" | "onnx"),
            "{}: expected a name that ends in .safetensors, .onnx or .npz",
            self.output.display()
        );
        anyhow::ensure!(!self.sparse || extension == "onnx", "--sparse is for .onnx");
        let mut claims = output::claims()?;
        claims.reads("the model", &self.model)?;
        claims.writes("--output", &self.output)?;
        let bytes = std::fs::read(&self.model).at(&self.model)?;
        let model = container::read(&bytes).map_err(|e| e.in_file(&self.model))?;
        let written = match extension {
            "safetensors" => export::safetensors(&model),
            "npz" => export::npz(&model),
            _ => export::onnx(&model, self.sparse),
        };
        let written = written.with_context(|| self.output.display().to_string())?;
        output::write(&self.output, &written)?;
        Ok(Outcome::Passed)
    }
}
