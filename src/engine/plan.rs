//! From a model to steps over an arena.

use std::ops::Range;

use super::kernels::{Geometry, Matrix};
use super::{Tier, memory};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::{Activation, Input, Network, Op, Shape, Source, Window};

/// Most elements of all activations of one sample that are alive at once.
const MOST_ACTIVATIONS: usize = 1 << 28;

/// A model ready to run. Immutable: one engine serves many threads, each with its own
/// [`super::Workspace`].
#[derive(Debug)]
pub struct Engine {
    pub(super) input: Input,
    pub(super) input_range: Range<usize>,
    pub(super) output: Shape,
    pub(super) output_range: Range<usize>,
    pub(super) steps: Vec<Step>,
    pub(super) arena: usize,
    pub(super) tier: Tier,
}

/// One operation, reading and writing ranges of the arena.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) work: Work,
    pub(super) inputs: Vec<Range<usize>>,
    pub(super) output: Range<usize>,
    /// Applied to every element of the output at the end.
    pub(super) then: Option<Activation>,
}

#[derive(Debug)]
pub(super) enum Work {
    Linear(Matrix),
    Conv2d(Matrix, Geometry),
    Pool { pool: Pool, window: Window, input: Shape, output: Shape },
    GlobalAvgPool { area: usize },
    Copy,
    Add,
    Softmax { shape: Shape },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Max,
    Average { count_include_pad: bool },
}

impl Engine {
    /// Plans a model for this CPU.
    ///
    /// # Errors
    /// [`Error::Network`] if the network does not fit its weights, [`Error::Limit`] if the
    /// activations of one sample are more than 2^28 numbers.
    pub fn new(model: &Model, tier: Tier) -> Result<Self> {
        let network = &model.network;
        let shapes = network.shapes()?;
        check_weights(model)?;
        let fused = fuse(network);
        let made_by = |node: usize| fused.owner[node];

        // Values: the input first, then one for each node that is a step of its own.
        let mut values =
            vec![memory::Value { elements: elements(network.input.shape)?, made: 0, last_read: 0 }];
        let mut value_of = vec![0; network.nodes.len()];
        for (index, node) in network.nodes.iter().enumerate() {
            if made_by(index) != index {
                value_of[index] = value_of[made_by(index)];
                continue;
            }
            for source in &node.inputs {
                let read = source_value(*source, &value_of);
                values[read].last_read = index + 1;
            }
            value_of[index] = values.len();
            values.push(memory::Value {
                elements: elements(shapes[index])?,
                made: index + 1,
                last_read: index + 1,
            });
        }
        let last = network.nodes.len() - 1;
        values[value_of[last]].last_read = usize::MAX;
        let (ranges, arena) = memory::place(&values);
        if arena > MOST_ACTIVATIONS {
            return Err(Error::Limit {
                what: "the activations of one sample".into(),
                needed: arena as u64,
                limit: MOST_ACTIVATIONS as u64,
            });
        }

        let shape_of = |source: Source| match source {
            Source::Input => network.input.shape,
            Source::Node(i) => shapes[i],
        };
        let mut steps = Vec::new();
        for (index, node) in network.nodes.iter().enumerate() {
            if made_by(index) != index {
                continue;
            }
            let input = shape_of(node.inputs[0]);
            let mut then = fused.activation[index];
            let work = match node.op {
                Op::Linear { layer } => Work::Linear(matrix(&model.weights[layer])),
                Op::Conv2d { layer, stride, padding, groups } => {
                    let dims = &network.layers[layer].shape;
                    let geometry = Geometry {
                        input: [input.height, input.width],
                        output: [shapes[index].height, shapes[index].width],
                        kernel: [dims[2], dims[3]],
                        stride,
                        before: [padding[0], padding[1]],
                        channels: dims[1],
                        outputs_per_group: dims[0] / groups,
                    };
                    Work::Conv2d(matrix(&model.weights[layer]), geometry)
                }
                Op::MaxPool2d(window) => {
                    Work::Pool { pool: Pool::Max, window, input, output: shapes[index] }
                }
                Op::AvgPool2d { window, count_include_pad } => Work::Pool {
                    pool: Pool::Average { count_include_pad },
                    window,
                    input,
                    output: shapes[index],
                },
                Op::GlobalAvgPool2d => Work::GlobalAvgPool { area: input.area() },
                Op::Activation(activation) => {
                    then = Some(activation);
                    Work::Copy
                }
                Op::Flatten => Work::Copy,
                Op::Add => Work::Add,
                Op::Softmax => Work::Softmax { shape: input },
            };
            let inputs = node
                .inputs
                .iter()
                .map(|&source| ranges[source_value(source, &value_of)].clone())
                .collect();
            steps.push(Step { work, inputs, output: ranges[value_of[index]].clone(), then });
        }
        Ok(Self {
            input: network.input.clone(),
            input_range: ranges[0].clone(),
            output: shapes[last],
            output_range: ranges[value_of[last]].clone(),
            steps,
            arena,
            tier,
        })
    }

    /// The shape of one input sample.
    pub fn input_shape(&self) -> Shape {
        self.input.shape
    }

    /// The shape of one output sample.
    pub fn output_shape(&self) -> Shape {
        self.output
    }

    /// The factor by which raw input values are scaled.
    pub fn input_scale(&self) -> f32 {
        self.input.scale
    }

    /// The instruction set whose kernels run.
    pub fn tier(&self) -> Tier {
        self.tier
    }
}

/// The value that a source reads: 0 is the input, others were numbered as their steps came.
fn source_value(source: Source, value_of: &[usize]) -> usize {
    match source {
        Source::Input => 0,
        Source::Node(i) => value_of[i],
    }
}

/// Which node's step makes each node's value, and the activation fused into each step.
struct Fused {
    owner: Vec<usize>,
    activation: Vec<Option<Activation>>,
}

/// A flatten is no work at all. An activation joins the step before it if nothing else reads that
/// step's value.
fn fuse(network: &Network) -> Fused {
    let n = network.nodes.len();
    let mut readers = vec![0usize; n];
    for source in network.nodes.iter().flat_map(|node| &node.inputs) {
        if let Source::Node(i) = source {
            readers[*i] += 1;
        }
    }
    let mut fused = Fused { owner: (0..n).collect(), activation: vec![None; n] };
    for (index, node) in network.nodes.iter().enumerate() {
        let [Source::Node(before)] = node.inputs[..] else { continue };
        let owner = fused.owner[before];
        match node.op {
            Op::Flatten => fused.owner[index] = owner,
            Op::Activation(activation) if readers[before] == 1 => {
                let alone = (owner..=before).all(|i| fused.owner[i] != owner || readers[i] == 1);
                let linear = !matches!(network.nodes[owner].op, Op::Activation(_));
                if alone && linear && fused.activation[owner].is_none() {
                    fused.owner[index] = owner;
                    fused.activation[owner] = Some(activation);
                }
            }
            _ => {}
        }
    }
    fused
}

fn elements(shape: Shape) -> Result<usize> {
    shape.elements()
}

fn check_weights(model: &Model) -> Result<()> {
    let fits = |(layer, w): (&crate::network::Layer, &LayerWeights)| {
        w.pattern.rows() == layer.rows()
            && w.pattern.cols() == layer.cols()
            && w.values.len() == w.pattern.len()
            && w.bias.as_ref().is_none_or(|b| b.len() == layer.rows())
    };
    let layers = &model.network.layers;
    if layers.len() == model.weights.len() && layers.iter().zip(&model.weights).all(fits) {
        return Ok(());
    }
    Err(Error::network("the weights do not have the shapes of the network's layers"))
}

fn matrix(weights: &LayerWeights) -> Matrix {
    let rows = weights.pattern.rows();
    Matrix {
        row_starts: weights.pattern.row_starts().to_vec(),
        columns: weights.pattern.columns().to_vec(),
        values: weights.values.to_f32(),
        bias: weights.bias.as_ref().map_or_else(|| vec![0.0; rows], |b| b.to_f32()),
    }
}
