//! Shapes of values: each node checked against its inputs and its layer.

use super::maps::{self, MOST_PLANNED};
use super::{Layer, Network, Node, Op, Shape, Source, Window, combined, tokens};
use crate::error::{Error, Result};

/// Nodes of a network, and layers: far more than any has, and few enough to plan.
pub(crate) const MOST_PARTS: usize = 1 << 16;

impl Network {
    /// Checks every node against its inputs and layer, and gives the shape of each node's output.
    ///
    /// # Errors
    /// [`Error::Network`] names the first node that does not fit.
    pub fn shapes(&self) -> Result<Vec<Shape>> {
        if self.input.shape.elements()? == 0 {
            return Err(Error::network("the input is empty"));
        }
        for layer in &self.layers {
            layer.check()?;
        }
        if self.nodes.is_empty() {
            return Err(Error::network("there are no nodes"));
        }
        if self.nodes.len().max(self.layers.len()) > MOST_PARTS {
            return Err(Error::network("too many nodes or layers"));
        }
        let channels = self.input.shape.channels;
        for (what, values) in [("mean", &self.input.mean), ("std", &self.input.std)] {
            if values.len() > 1 && values.len() != channels {
                return Err(Error::network(format!(
                    "input {what} has {} values for {channels} channels",
                    values.len()
                )));
            }
        }
        let input = &self.input;
        let usable = |v: f32| v.is_finite() && v != 0.0;
        let each = input.mean.len().max(input.std.len()).max(1);
        // A std that is all but zero would make infinite factors, and NaN of a zero.
        let all = |index| {
            let (factor, offset) = input.affine(index);
            usable(factor) && offset.is_finite()
        };
        let all_usable = input.std.iter().all(|&v| usable(v));
        if !usable(input.scale) || !all_usable || !(0..each).all(all) {
            return Err(Error::network(
                "input scale, mean and std must be finite, and scale / std and mean / std, scale \
                 and std not zero",
            ));
        }
        let mut shapes = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let shape = self
                .output_shape(node, &shapes)
                .and_then(|shape| shape.elements().map(|_| shape))
                .map_err(|e| e.at_node(index, node.label()))?;
            shapes.push(shape);
        }
        self.check_planned()?;
        self.domains()?;
        self.check_time()?;
        Ok(shapes)
    }

    /// Checks how much a plan has for nodes that few bytes describe.
    fn check_planned(&self) -> Result<()> {
        let planned = |node: &Node| match node.op {
            Op::ConvTranspose2d { layer, stride, .. } => {
                self.layers[layer].rows().saturating_mul(stride[0]).saturating_mul(stride[1])
            }
            Op::Resize(resize) => resize.size[0].saturating_add(resize.size[1]),
            _ => 0,
        };
        let all = self.nodes.iter().map(planned).fold(0, usize::saturating_add);
        if all <= MOST_PLANNED {
            return Ok(());
        }
        Err(Error::network("too many phases of transposed convolutions and resized rows"))
    }

    /// The shape of the network's output.
    pub fn output_shape_of_all(&self) -> Result<Shape> {
        self.shapes()?.pop().ok_or_else(|| Error::network("there are no nodes"))
    }

    /// The shape of a node's output, given those of all nodes before it.
    pub(crate) fn output_shape(&self, node: &Node, earlier: &[Shape]) -> Result<Shape> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for source in &node.inputs {
            inputs.push(match *source {
                Source::Input => self.input.shape,
                Source::Node(i) => match earlier.get(i) {
                    Some(shape) => *shape,
                    None => {
                        return Err(Error::network("reads a node that does not come before it"));
                    }
                },
            });
        }
        match node.op {
            Op::Add => combined::sum(&inputs),
            Op::Mul => combined::product("mul", &inputs),
            Op::Binary(op) => combined::binary(op, &inputs),
            Op::Where => combined::choice(&inputs),
            Op::MatMul => combined::matmul(&inputs),
            Op::Concat => combined::concatenation(&inputs),
            Op::Recurrent { recurrence, .. } if !recurrence.is_usable() => {
                Err(Error::network("slope or offset of its hard sigmoid is no number"))
            }
            Op::Recurrent { layer, recurrence } => {
                recurrence.output(&self.layer(layer, 2)?.shape, &inputs)
            }
            Op::Constant { layer } if inputs.is_empty() => maps::constant(self.layer(layer, 4)?),
            op => match inputs[..] {
                [x] => self.output_of_one(op, x),
                _ => Err(Error::network(format!("takes one input, has {}", inputs.len()))),
            },
        }
    }

    /// The shape that an operation with one input makes of it.
    fn output_of_one(&self, op: Op, x: Shape) -> Result<Shape> {
        match op {
            Op::Linear { layer } => self.linear(layer, x),
            Op::Embedding { layer } => tokens::embedded(self.layer(layer, 2)?, x),
            Op::Conv2d { layer, stride, padding, groups } => {
                let layer = self.grouped(layer, groups, x)?;
                let kernel = [layer.shape[2], layer.shape[3]];
                maps::windowed(&Window { kernel, stride, padding }, layer.rows(), x)
            }
            Op::ConvTranspose2d { layer, stride, cut, groups } => {
                maps::transposed(self.grouped(layer, groups, x)?, stride, cut, x)
            }
            Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => maps::pooled(&window, x),
            Op::GlobalAvgPool2d => Ok(Shape::vector(x.channels)),
            Op::Flatten => Ok(Shape::vector(x.elements()?)),
            Op::Activation(activation) if !activation.is_usable() => {
                Err(Error::network("its slope, alpha or bounds are not numbers"))
            }
            Op::LayerNorm { eps, .. } if !(eps.is_finite() && eps >= 0.0) => {
                Err(Error::network(format!("eps {eps} is no number of 0 or more")))
            }
            Op::Activation(_) | Op::Softmax | Op::LogSoftmax | Op::LayerNorm { .. } => Ok(x),
            Op::Reduce(_) => Ok(Shape { channels: 1, ..x }),
            Op::Rearrange(view) => maps::rearranged(&view, x),
            Op::Pad(pad) => maps::padded(&pad, x),
            Op::Resize(resize) => maps::resized(&resize, x),
            Op::Constant { .. } => Err(Error::network("takes no input")),
            Op::Add
            | Op::Mul
            | Op::Concat
            | Op::Binary(_)
            | Op::Where
            | Op::MatMul
            | Op::Recurrent { .. } => Err(Error::network("takes several inputs")),
        }
    }

    /// The layer of a convolution that fits its input.
    fn grouped(&self, layer: usize, groups: usize, x: Shape) -> Result<&Layer> {
        let layer = self.layer(layer, 4)?;
        let fits = groups > 0
            && layer.shape[0].is_multiple_of(groups)
            && layer.shape[1].checked_mul(groups) == Some(x.channels);
        if fits {
            return Ok(layer);
        }
        Err(Error::network(format!(
            "layer {:?} of shape {:?} with {groups} groups does not fit an input of shape {x}",
            layer.name, layer.shape
        )))
    }

    fn linear(&self, layer: usize, x: Shape) -> Result<Shape> {
        let layer = self.layer(layer, 2)?;
        if x.area() != 1 {
            return Err(Error::network(format!(
                "linear layer {:?} reads a map of shape {x}: put a flatten before it",
                layer.name
            )));
        }
        if layer.cols() != x.channels {
            return Err(Error::network(format!(
                "layer {:?} of shape {:?} takes {} inputs, its input has {}",
                layer.name,
                layer.shape,
                layer.cols(),
                x.channels
            )));
        }
        Ok(Shape::vector(layer.rows()))
    }

    fn layer(&self, index: usize, dimensions: usize) -> Result<&Layer> {
        match self.layers.get(index) {
            Some(layer) if layer.shape.len() == dimensions => Ok(layer),
            Some(layer) => Err(Error::network(format!(
                "layer {:?} has shape {:?}, this operation needs {dimensions} dimensions",
                layer.name, layer.shape
            ))),
            None => Err(Error::network(format!("there is no layer number {index}"))),
        }
    }
}

impl Error {
    fn at_node(self, index: usize, name: &str) -> Self {
        match self {
            Self::Network { problem } if name.is_empty() => {
                Self::network(format!("node {index}: {problem}"))
            }
            Self::Network { problem } => Self::network(format!("node {index} ({name}): {problem}")),
            other => other,
        }
    }
}
