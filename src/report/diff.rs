//! Two compressed files held against each other, by their reports or by themselves.

use std::path::Path;

use serde::Serialize;

use super::document::{Block, Document, Section, Table, row};
use super::gate::Gate;
use super::{Compression, Layer, markdown, text};
use crate::container;
use crate::error::{Error, IoContext, Result};
use crate::model::LayerWeights;
use crate::network;
use crate::text::group;

/// What changed from an old file to a new one.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diff {
    /// Bytes of the old file.
    pub old_bytes: u64,
    /// Bytes of the new file.
    pub new_bytes: u64,
    /// new_bytes / old_bytes - 1.
    pub growth: f64,
    /// Size ratio of the old file; null where a file itself was read, which does not know its checkpoint.
    pub old_size_ratio: Option<f64>,
    /// Size ratio of the new file; likewise.
    pub new_size_ratio: Option<f64>,
    /// Weights that the threshold kept before; if a file itself was read, in both those that are stored.
    pub old_kept: u64,
    /// And now.
    pub new_kept: u64,
    /// Layers of either file, the new one's first.
    pub layers: Vec<LayerDiff>,
    /// Conditions that were asserted.
    pub gates: Vec<Gate>,
}

/// A layer of a [`Diff`]; 0 where a file lacks it.
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

/// What a [`Diff`] compares: a compressed file, by its report or by itself.
#[derive(Debug, Clone)]
pub struct Side {
    bytes: u64,
    size_ratio: Option<f64>,
    layers: Vec<SideLayer>,
}

#[derive(Debug, Clone)]
struct SideLayer {
    name: String,
    bytes: u64,
    /// Weights that the threshold kept, if that is known.
    kept: Option<u64>,
    stored: u64,
}

impl From<&Compression> for Side {
    fn from(report: &Compression) -> Self {
        let layer = |layer: &Layer| SideLayer {
            name: layer.name.clone(),
            bytes: layer.bytes,
            kept: Some(layer.kept),
            stored: layer.stored,
        };
        Self {
            bytes: report.file_bytes,
            size_ratio: Some(report.size_ratio),
            layers: report.layers.iter().map(layer).collect(),
        }
    }
}

impl Side {
    /// Of a compressed file.
    ///
    /// # Errors
    /// As [`container::read`].
    pub fn of_file(bytes: &[u8]) -> Result<Self> {
        let (model, sizes) = container::read_with_sizes(bytes)?;
        let layers = model.network.layers.iter().zip(&model.weights).zip(sizes);
        let layer =
            |((layer, weights), bytes): ((&network::Layer, &LayerWeights), usize)| SideLayer {
                name: layer.name.clone(),
                bytes: bytes as u64,
                kept: None,
                stored: weights.pattern.len() as u64,
            };
        let layers = layers.map(layer).collect();
        Ok(Self { bytes: bytes.len() as u64, size_ratio: None, layers })
    }
}

/// Reads a compressed file, or the JSON report of a compression.
///
/// # Errors
/// I/O, those of [`Side::of_file`], or [`Error::Format`] if it is neither.
pub fn read(path: &Path) -> Result<Side> {
    #[derive(serde::Deserialize)]
    struct Tagged {
        report: String,
    }
    let bytes = std::fs::read(path).at(path)?;
    if bytes.starts_with(&container::MAGIC) {
        return Side::of_file(&bytes).map_err(|e| e.in_file(path));
    }
    let invalid = |problem: String| {
        Error::Format { format: ".svdo file or svdo-compress report", problem }.in_file(path)
    };
    let tagged: Tagged = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    if tagged.report != "compress" {
        return Err(invalid(format!("it is a report of {}", tagged.report)));
    }
    let report: Compression = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    Ok((&report).into())
}

impl Diff {
    /// Compares two files.
    pub fn new(old: &Side, new: &Side) -> Self {
        let mut layers = [old, new].into_iter().flat_map(|side| &side.layers);
        let by_threshold = layers.all(|layer| layer.kept.is_some());
        let kept = |layer: &SideLayer| match layer.kept {
            Some(kept) if by_threshold => kept,
            _ => layer.stored,
        };
        let find = |side: &Side, name: &str| -> (u64, u64) {
            let layer = side.layers.iter().find(|layer| layer.name == name);
            layer.map_or((0, 0), |layer| (layer.bytes, kept(layer)))
        };
        let all = |side: &Side| side.layers.iter().map(kept).sum();
        let gone = |layer: &&SideLayer| !new.layers.iter().any(|l| l.name == layer.name);
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
            old_bytes: old.bytes,
            new_bytes: new.bytes,
            growth: change(old.bytes, new.bytes),
            old_size_ratio: old.size_ratio,
            new_size_ratio: new.size_ratio,
            old_kept: all(old),
            new_kept: all(new),
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
        let ratios = self.old_size_ratio.zip(self.new_size_ratio);
        let ratios = ratios.map(|(old, new)| format!("size ratio {old:.1}x -> {new:.1}x"));
        Document {
            sections: vec![
                Section::new("", "", vec![Block::Table(table)]),
                Section::lines(ratios.into_iter().collect()),
            ],
            gates: self.gates.clone(),
            ..Document::default()
        }
    }
}

fn change(old: u64, new: u64) -> f64 {
    if old == 0 { 0.0 } else { new as f64 / old as f64 - 1.0 }
}
