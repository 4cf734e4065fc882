//! Two compressions held against each other.

use std::path::Path;

use serde::Serialize;

use super::document::{Block, Document, Section, Table, row};
use super::gate::Gate;
use super::{Compression, Layer, markdown, text};
use crate::error::{Error, IoContext, Result};
use crate::text::group;

/// What changed from an old report to a new one.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diff {
    /// Bytes of the old file.
    pub old_bytes: u64,
    /// Bytes of the new file.
    pub new_bytes: u64,
    /// new_bytes / old_bytes - 1.
    pub growth: f64,
    /// Size ratio of the old file.
    pub old_size_ratio: f64,
    /// Size ratio of the new file.
    pub new_size_ratio: f64,
    /// Weights that the threshold kept before.
    pub old_kept: u64,
    /// And now.
    pub new_kept: u64,
    /// Layers of either report, the new one's first.
    pub layers: Vec<LayerDiff>,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
}

/// A layer of a [`Diff`]; 0 where a report lacks it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LayerDiff {
    /// Its name.
    pub name: String,
    /// Bytes of its section before.
    pub old_bytes: u64,
    /// And now.
    pub new_bytes: u64,
    /// Weights kept before.
    pub old_kept: u64,
    /// And now.
    pub new_kept: u64,
}

/// Reads the JSON report of a compression.
///
/// # Errors
/// I/O, or [`Error::Format`] if it is no such report.
pub fn read(path: &Path) -> Result<Compression> {
    #[derive(serde::Deserialize)]
    struct Tagged {
        report: String,
    }
    let text = std::fs::read_to_string(path).at(path)?;
    let invalid =
        |problem: String| Error::Format { format: "svdo-compress report", problem }.in_file(path);
    let tagged: Tagged = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    if tagged.report != "compress" {
        return Err(invalid(format!("it is a report of {}", tagged.report)));
    }
    serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))
}

impl Diff {
    /// Compares two reports.
    pub fn new(old: &Compression, new: &Compression) -> Self {
        let find = |report: &Compression, name: &str| -> (u64, u64) {
            let layer = report.layers.iter().find(|layer| layer.name == name);
            layer.map_or((0, 0), |layer: &Layer| (layer.bytes, layer.kept))
        };
        let gone = |layer: &&Layer| !new.layers.iter().any(|l| l.name == layer.name);
        let layers = new
            .layers
            .iter()
            .chain(old.layers.iter().filter(gone))
            .map(|layer| {
                let (old_bytes, old_kept) = find(old, &layer.name);
                let (new_bytes, new_kept) = find(new, &layer.name);
                LayerDiff { name: layer.name.clone(), old_bytes, new_bytes, old_kept, new_kept }
            })
            .collect();
        Self {
            old_bytes: old.file_bytes,
            new_bytes: new.file_bytes,
            growth: change(old.file_bytes, new.file_bytes),
            old_size_ratio: old.size_ratio,
            new_size_ratio: new.size_ratio,
            old_kept: old.weights_kept,
            new_kept: new.weights_kept,
            layers,
            gates: Vec::new(),
        }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        text::document(&self.document())
    }

    /// For a pull request.
    pub fn markdown(&self) -> String {
        markdown::document(&self.document())
    }

    fn document(&self) -> Document {
        let row = |name: &str, kept: [u64; 2], bytes: [u64; 2]| {
            let change = format!("{:+.2} %", 100.0 * change(bytes[0], bytes[1]));
            let change = if bytes[0] == 0 { "new".into() } else { change };
            let ([before, now], [old, new]) = (kept.map(group), bytes.map(group));
            row![name, before, now, old, new, change]
        };
        let layers = self.layers.iter().map(|layer| {
            row(&layer.name, [layer.old_kept, layer.new_kept], [layer.old_bytes, layer.new_bytes])
        });
        let total = row("total", [self.old_kept, self.new_kept], [self.old_bytes, self.new_bytes]);
        let headings = ["layer", "kept", "now", "bytes", "now", "change"];
        let table = Table::new(headings, layers.chain([total]));
        let ratios =
            format!("size ratio {:.1}x -> {:.1}x", self.old_size_ratio, self.new_size_ratio);
        Document {
            sections: vec![
                Section::new("", "", vec![Block::Table(table)]),
                Section::lines(vec![ratios]),
            ],
            gates: self.gates.clone(),
            ..Document::default()
        }
    }
}

fn change(old: u64, new: u64) -> f64 {
    if old == 0 { 0.0 } else { new as f64 / old as f64 - 1.0 }
}
