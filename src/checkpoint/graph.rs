//! ONNX models as checkpoints without posterior.

use std::path::Path;

use super::layout::LayerViews;
use super::spread::Spread;
use super::tensor::{DType, TensorInfo, TensorSource};
use super::view::View;
use super::{Checkpoint, Options};
use crate::error::Result;
use crate::onnx;

/// The tensors of a graph, in memory.
pub(super) struct Initializers {
    tensors: Vec<TensorInfo>,
    values: Vec<Vec<f32>>,
}

/// The numbers of a layer's weights and bias among the tensors, and the zeros between the weights.
type Numbers = (usize, Option<usize>, Option<Spread>);

impl Initializers {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self::of(onnx::open(path)?).map_err(|e| e.in_file(path))?.0)
    }

    /// The tensors, and where each layer's are.
    fn of(mut graph: onnx::Imported) -> Result<(Self, Vec<Numbers>)> {
        graph.fold()?;
        let mut all = Self { tensors: Vec::new(), values: Vec::new() };
        let mut numbers = Vec::new();
        for (layer, weights) in graph.network.layers.iter().zip(graph.weights) {
            let (mut shape, mut values) = (layer.shape.clone(), weights.values);
            let spread = match shape[..] {
                [_, _, height, width] => Spread::of([height, width], weights.dilation),
                _ => None,
            };
            if let Some(spread) = spread {
                values = spread.gathered(&values);
                shape[2..].copy_from_slice(&spread.kernel);
            }
            let weight = all.push(format!("{}.weight", layer.name), &shape, values);
            let bias = weights
                .bias
                .map(|bias| all.push(format!("{}.bias", layer.name), &[layer.rows()], bias));
            numbers.push((weight, bias, spread));
        }
        Ok((all, numbers))
    }

    fn push(&mut self, name: String, shape: &[usize], values: Vec<f32>) -> usize {
        self.tensors.push(TensorInfo { name, dtype: DType::F32, shape: shape.into() });
        self.values.push(values);
        self.values.len() - 1
    }
}

impl TensorSource for Initializers {
    fn format(&self) -> &'static str {
        "ONNX"
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.values[tensor][start..start + out.len()]);
        Ok(())
    }

    fn metadata(&self, _: &str) -> Option<&str> {
        None
    }
}

/// An ONNX model as a checkpoint of which no layer has a posterior.
pub(super) fn open(path: &Path, options: &Options) -> Result<Checkpoint> {
    let mut graph = onnx::open_as(path, &options.reading(false))?;
    let mut notes = std::mem::take(&mut graph.notes);
    notes.insert(
        0,
        "ONNX graph without posterior: every weight that is not zero is kept, whatever the \
         threshold"
            .into(),
    );
    let network = graph.network.clone();
    let (source, numbers) = Initializers::of(graph).map_err(|e| e.in_file(path))?;
    let named = numbers.iter().zip(&network.layers);
    let layers = named.map(|(&(weight, bias, spread), layer)| LayerViews {
        shape: layer.shape.clone(),
        theta: Some(View::of(&source, weight).spread(spread)),
        variance: None,
        bias: bias.map(|bias| View::of(&source, bias)),
        bias_variance: None,
        mask: None,
        bias_mask: None,
        group: None,
        fold: None,
    });
    let layers: Vec<LayerViews> = layers.collect();
    let (path, source) = (path.into(), Box::new(source));
    let mut checkpoint = Checkpoint { path, source, layers, network, notes, ignore_masks: false };
    checkpoint.find_classes();
    Ok(checkpoint)
}
