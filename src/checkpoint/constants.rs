//! Values that a graph has and a checkpoint's layers have not: positions, masks, tokens.

use super::conventions::{Found, LayerTensors};
use super::tensor::{DType, TensorInfo, TensorSource};
use super::view::View;
use crate::error::{Error, Result};
use crate::network::Op;
use crate::onnx;

/// A value of a graph: `[channels, 1, height, width]`.
#[derive(Clone)]
pub(super) struct Constant {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Takes from a graph the values of its `constant` nodes.
pub(super) fn constants_of(graph: &mut onnx::Imported) -> Vec<Constant> {
    let mut constants = Vec::new();
    let layers = &graph.network.layers;
    for node in &graph.network.nodes {
        let Op::Constant { layer } = node.op else { continue };
        let weights = &mut graph.weights[layer];
        // Used again, it was taken already.
        if !weights.values.is_empty() {
            let values = std::mem::take(&mut weights.values);
            let (name, shape) = (layers[layer].name.clone(), layers[layer].shape.clone());
            constants.push(Constant { name, shape, values });
        }
    }
    constants
}

impl Constant {
    /// Whether a checkpoint has it as a layer.
    pub(super) fn is_layer_of(&self, source: &dyn TensorSource) -> bool {
        let of_layer = |tensor: &TensorInfo| {
            tensor.name.strip_prefix(self.name.as_str()).is_some_and(|role| {
                role.strip_prefix(['.', '/']).is_some_and(super::roles::is_mean)
            })
        };
        source.tensors().iter().any(of_layer)
    }

    /// That the checkpoint's parameter of that name, if it has one, is the graph's.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the parameter.
    pub(super) fn check(&self, source: &dyn TensorSource) -> Result<()> {
        let same = |t: &TensorInfo| t.name == self.name && t.dtype.is_float();
        let Some(tensor) = source.tensors().iter().position(same) else { return Ok(()) };
        let info = &source.tensors()[tensor];
        let mut values = vec![0.0; self.values.len()];
        let count = info.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        if count == Some(values.len()) {
            View::of(source, tensor).read(source, 0, &mut values)?;
            if values == self.values {
                return Ok(());
            }
        }
        Err(Error::Tensor {
            tensor: info.name.clone(),
            problem: format!(
                "shape {:?}, is not what the graph has under that name: export the graph of this checkpoint",
                info.shape
            ),
        })
    }
}

/// A checkpoint's tensors, and behind them a graph's values.
pub(super) struct WithConstants {
    source: Box<dyn TensorSource>,
    tensors: Vec<TensorInfo>,
    values: Vec<Vec<f32>>,
}

impl WithConstants {
    pub(super) fn new(source: Box<dyn TensorSource>, constants: Vec<Constant>) -> Self {
        let mut tensors = source.tensors().to_vec();
        let mut values = Vec::with_capacity(constants.len());
        for Constant { name, shape, values: of } in constants {
            tensors.push(TensorInfo { name, dtype: DType::F32, shape });
            values.push(of);
        }
        Self { source, tensors, values }
    }

    /// The number among the graph's values.
    fn own(&self, tensor: usize) -> Option<usize> {
        tensor.checked_sub(self.source.tensors().len())
    }
}

impl TensorSource for WithConstants {
    fn format(&self) -> &'static str {
        self.source.format()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn strides(&self, tensor: usize) -> Option<&[usize]> {
        if self.own(tensor).is_some() { None } else { self.source.strides(tensor) }
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()> {
        let Some(own) = self.own(tensor) else { return self.source.read(tensor, start, out) };
        out.copy_from_slice(&self.values[own][start..start + out.len()]);
        Ok(())
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.source.metadata(key)
    }

    fn accuracy(&self) -> Option<(&'static str, f64)> {
        self.source.accuracy()
    }

    fn first_of(&self, tensor: usize) -> usize {
        if self.own(tensor).is_some() { tensor } else { self.source.first_of(tensor) }
    }

    fn notes(&self) -> &[String] {
        self.source.notes()
    }
}

impl Found {
    /// Adds the values that a graph has beside the layers found.
    pub(super) fn add_constants(&mut self, of_graph: &[TensorInfo]) {
        for info in of_graph {
            let theta = self.names.len();
            self.names.push(info.name.clone());
            let (name, shape) = (info.name.clone(), info.shape.clone());
            self.layers.push(LayerTensors::of_constant(name, shape, theta));
            self.notes.push(format!("{} is a value of the graph: kept as it is there", info.name));
        }
    }
}
