//! `svdo inspect`.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::{Value, json};

use super::{Outcome, import};
use crate::checkpoint::{Checkpoint, open_source};
use crate::container;
use crate::error::IoContext;
use crate::model::{Model, Values};
use crate::network::describe::Description;

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
        let found = match starts_as_model(&self.file)? {
            true => model(&self.file)?,
            false => self.checkpoint()?,
        };
        let text = match self.json {
            true => serde_json::to_string_pretty(&found)? + "\n",
            false => render(&found),
        };
        std::io::stdout().lock().write_all(text.as_bytes())?;
        Ok(Outcome::Passed)
    }

    fn checkpoint(&self) -> anyhow::Result<Value> {
        let source = open_source(&self.file)?;
        let tensors: Vec<Value> = source
            .tensors()
            .iter()
            .map(|t| json!({"name": t.name, "type": t.dtype.to_string(), "shape": t.shape}))
            .collect();
        let mut found = json!({
            "file": self.file.display().to_string(),
            "container": source.format(),
            "tensors": tensors,
        });
        match self.import.open(&self.file, self.network.as_deref()) {
            Ok(checkpoint) => {
                found["layers"] = layers(&checkpoint);
                found["network"] = serde_json::to_value(Description::of(checkpoint.network()))?;
                found["notes"] = json!(checkpoint.notes());
            }
            Err(error) => found["problem"] = json!(format!("{error:#}")),
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

fn layers(checkpoint: &Checkpoint) -> Value {
    let layers = checkpoint.network().layers.iter().enumerate();
    layers
        .map(|(i, layer)| {
            let variance = checkpoint.variance(i).map(|kind| format!("{kind:?}"));
            json!({"name": layer.name, "shape": layer.shape, "variance": variance})
        })
        .collect()
}

fn model(path: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(path).at(path)?;
    let model: Model = container::read(&bytes).map_err(|e| e.in_file(path))?;
    let layers: Vec<Value> = model
        .network
        .layers
        .iter()
        .zip(&model.weights)
        .map(|(layer, weights)| {
            let total = weights.pattern.rows() * weights.pattern.cols();
            let values = match &weights.values {
                Values::F32(_) => "f32".to_owned(),
                Values::F16(_) => "f16".to_owned(),
                #[allow(unreachable_patterns)]
                _ => "levels".to_owned(),
            };
            json!({
                "name": layer.name,
                "shape": layer.shape,
                "stored": weights.pattern.len(),
                "density": weights.pattern.len() as f64 / total.max(1) as f64,
                "values": values,
                "bias": weights.bias.is_some(),
            })
        })
        .collect();
    Ok(json!({
        "file": path.display().to_string(),
        "container": format!("svdo version {}", bytes[4]),
        "bytes": bytes.len(),
        "threshold": model.threshold,
        "layers": layers,
        "network": Description::of(&model.network),
    }))
}

/// The same for people.
fn render(found: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = format!("{}: {}\n", text(&found["file"]), text(&found["container"]));
    for key in ["bytes", "threshold"] {
        if !found[key].is_null() {
            let _ = writeln!(out, "{key}: {}", text(&found[key]));
        }
    }
    for (title, items) in [("tensors", list(&found["tensors"])), ("layers", list(&found["layers"]))]
    {
        if items.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{title}:");
        for item in items.iter().filter_map(Value::as_object) {
            let rest = item
                .iter()
                .filter(|(key, _)| *key != "name")
                .map(|(key, value)| match value.as_f64() {
                    Some(share) if key == "density" => format!("density {:.3} %", 100.0 * share),
                    _ => format!("{key} {}", text(value)),
                })
                .collect::<Vec<_>>()
                .join(", ");
            let _ = writeln!(out, "  {}: {rest}", text(&item["name"]));
        }
    }
    let nodes = list(&found["network"]["nodes"]);
    if !nodes.is_empty() {
        let ops: Vec<String> = nodes.iter().map(|node| text(&node["op"])).collect();
        let _ = writeln!(
            out,
            "network: {} -> {}",
            found["network"]["input"]["shape"],
            ops.join(" -> ")
        );
    }
    for note in list(&found["notes"]) {
        let _ = writeln!(out, "note: {}", text(&note));
    }
    if !found["problem"].is_null() {
        let _ = writeln!(out, "cannot be compressed as it is: {}", text(&found["problem"]));
    }
    out
}
