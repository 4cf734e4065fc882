//! `svdo inspect`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::inspect_report::{
    CheckpointLayer, InspectedCheckpoint, InspectedModel, Inspection, ModelLayer, Tensor,
};
use super::{Outcome, import, output};
use crate::checkpoint::open_source;
use crate::container;
use crate::error::{Error, IoContext};
use crate::model::{Model, Values};
use crate::network::Network;
use crate::network::describe::Description;
use crate::report::{json, text};

const EXAMPLES: &str = "\
Examples:
  svdo inspect model.svdo
  svdo inspect checkpoint.pt --profile variance-networks
  svdo inspect model.safetensors --json";

/// Show what is in a file: a compressed model, or a checkpoint in any container that is read
///
/// No weight of a checkpoint is read. If it cannot be compressed as it is, the reason is shown and
/// the exit code is 0: the file was inspected.
#[derive(Debug, Parser)]
#[command(name = "svdo-inspect", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// The file or folder, or the prefix of a TensorFlow checkpoint
    file: PathBuf,

    /// Print as JSON
    #[arg(long, help_heading = "Reports")]
    json: bool,

    #[command(flatten)]
    import: import::Import,

    /// Network description, if the checkpoint carries none (see formats/network.md)
    #[arg(long, value_name = "FILE", help_heading = "Import")]
    network: Option<PathBuf>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut claims = output::claims()?;
        output::reads(&mut claims, "the file", &self.file)?;
        let template = self.import.network_template();
        output::claim(
            &mut claims,
            &[("--network", &self.network)],
            &[("--network-template", template)],
        )?;
        if self.import.write_template(&self.file)? {
            return Ok(Outcome::Passed);
        }
        let found = match starts_as_model(&self.file)? {
            true => Inspection::Model(model(&self.file)?),
            false => Inspection::Checkpoint(self.checkpoint()?),
        };
        let text = match self.json {
            true => json::stamped("inspect.schema.json", &found)?,
            false => text::document(&found.document()),
        };
        output::write(Path::new("-"), text.as_bytes())?;
        Ok(Outcome::Passed)
    }

    fn checkpoint(&self) -> anyhow::Result<InspectedCheckpoint> {
        let source = open_source(&self.file)?;
        let tensor = |t: &crate::checkpoint::TensorInfo| Tensor {
            name: t.name.clone(),
            shape: t.shape.clone(),
            dtype: t.dtype.to_string(),
        };
        let mut found = InspectedCheckpoint {
            container: source.format().into(),
            file: self.file.display().to_string(),
            tensors: source.tensors().iter().map(tensor).collect(),
            ..InspectedCheckpoint::default()
        };
        match self.import.open(&self.file, self.network.as_deref()) {
            Ok(checkpoint) => {
                let network = checkpoint.network();
                let layers = network.layers.iter().enumerate().map(|(i, layer)| CheckpointLayer {
                    name: layer.name.clone(),
                    shape: layer.shape.clone(),
                    variance: checkpoint.variance(i).map(|kind| format!("{kind:?}")),
                });
                found.layers = Some(layers.collect());
                found.network = Some(description(network)?);
                found.notes = Some(checkpoint.notes().to_vec());
            }
            Err(error) => found.problem = Some(super::one_line(&error)),
        }
        Ok(found)
    }
}

fn starts_as_model(path: &Path) -> anyhow::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    std::fs::File::open(path).at(path)?.take(4).read_to_end(&mut head).at(path)?;
    Ok(head == container::MAGIC)
}

fn model(path: &Path) -> anyhow::Result<InspectedModel> {
    let bytes = std::fs::read(path).at(path)?;
    let model: Model = container::read(&bytes).map_err(|e| e.in_file(path))?;
    let layers = model.network.layers.iter().zip(&model.weights).map(|(layer, weights)| {
        let (stored, total) =
            (weights.pattern.len(), weights.pattern.rows() * weights.pattern.cols());
        ModelLayer {
            bias: weights.bias.is_some(),
            density: stored as f64 / total.max(1) as f64,
            name: layer.name.clone(),
            shape: layer.shape.clone(),
            stored,
            values: match &weights.values {
                Values::F32(_) => "f32",
                Values::F16(_) => "f16",
                #[allow(unreachable_patterns)]
                _ => "levels",
            },
        }
    });
    Ok(InspectedModel {
        bytes: bytes.len(),
        container: format!("svdo version {}", bytes[4]),
        file: path.display().to_string(),
        layers: layers.collect(),
        network: description(&model.network)?,
        threshold: model.threshold.map(f64::from),
    })
}

fn description(network: &Network) -> crate::Result<serde_json::Value> {
    let value = serde_json::to_value(Description::of(network));
    value.map_err(|e| Error::Format { format: "JSON", problem: e.to_string() })
}
