//! From a model to steps over an arena.

use std::ops::Range;

use super::builder::PlanBuilder;
use super::cost;
use super::fuse::{Fused, fuse};
use super::layers::{convolution, linear};
use super::layout::{self, Layout, Layouts};
use super::options::Options;
use super::step::{Pool, Step, StepKind};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::{Input, Layer, Network, Node, Op, Shape, Source};
use crate::simd::Isa;

/// A model ready to run. Immutable: one engine serves many threads, each with its own
/// [`Workspace`](super::Workspace).
///
/// ```
/// # fn main() -> svdo::Result<()> {
/// use svdo::engine::{Engine, Isa};
/// use svdo::model::{LayerWeights, Model, Pattern, Values};
/// use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};
///
/// let mut pattern = Pattern::with_columns(3);
/// pattern.push_row([0, 2])?;
/// let weights = LayerWeights { pattern, values: Values::F32(vec![2.0, -1.0]), bias: None };
/// let network = Network {
///     input: Input::plain(Shape::vector(3)),
///     layers: vec![Layer { name: "fc".into(), shape: vec![1, 3] }],
///     nodes: vec![Node { name: String::new(), op: Op::Linear { layer: 0 }, inputs: vec![Source::Input] }],
/// };
/// let model = Model { network, threshold: None, weights: vec![weights] };
///
/// let engine = Engine::new(&model, Isa::best())?;
/// let (mut workspace, mut outputs) = (engine.workspace(2), [0.0; 2]);
/// engine.run(&mut workspace, &[1.0, 5.0, 3.0, 0.5, 0.0, 0.0], &mut outputs)?;
/// assert_eq!(outputs, [-1.0, 1.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Engine {
    pub(super) input: Input,
    pub(super) input_range: Range<usize>,
    pub(super) input_layout: Layout,
    pub(super) output: Shape,
    pub(super) output_range: Range<usize>,
    pub(super) output_layout: Layout,
    pub(super) steps: Vec<Step>,
    pub(super) arena: usize,
    pub(super) isa: Isa,
    pub(super) most_lanes: usize,
}

/// What a step is, for a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct StepInfo {
    /// The node it belongs to, in the model's network.
    pub node: usize,
    /// The layer whose weights it uses.
    pub layer: Option<usize>,
    /// What it does, and by which kernel for single samples and for panels.
    pub kernel: &'static str,
    /// Weights that are not zero, each counted as often as it is used for one sample.
    pub multiply_adds: usize,
    /// Share of the layer's weights that are not zero; 1 for other steps.
    pub density: f64,
}

impl Engine {
    /// Plans a model for this CPU and for any batch.
    ///
    /// # Errors
    /// [`Error::Network`] if the network does not fit its weights, [`Error::Limit`] if the
    /// activations of one sample are more than 2^28 floats.
    pub fn new(model: &Model, isa: Isa) -> Result<Self> {
        Self::with_options(model, isa, Options::default())
    }

    /// Plans a model as `options` say.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with_options(model: &Model, isa: Isa, options: Options) -> Result<Self> {
        let isa = isa.or_portable();
        let network = &model.network;
        let shapes = network.shapes()?;
        check_weights(model)?;
        let fused = fuse(network);
        let layouts = layout::choose(network, &shapes, &fused.owner, &fused.residual)?;
        let maps = network.nodes.iter().any(|node| matches!(node.op, Op::Conv2d { .. }));
        let most_lanes = if maps { cost::LANES_OF_MAPS } else { cost::LANES_OF_VECTORS };
        let most_lanes = match options.batch {
            Some(batch) => most_lanes.min(batch.next_power_of_two()),
            None => most_lanes,
        };
        let builder = PlanBuilder::new(layouts.values[0]);
        let value_of = vec![0; network.nodes.len()];
        let mut planner =
            Planner { model, isa, options, most_lanes, shapes, fused, layouts, builder, value_of };
        (0..network.nodes.len()).for_each(|index| planner.plan(index));
        let last = planner.value_of[network.nodes.len() - 1];
        let placed = planner.builder.place(last)?;
        Ok(Self {
            input: network.input.clone(),
            input_range: placed.input.0,
            input_layout: placed.input.1,
            output: network.output_shape_of_all()?,
            output_range: placed.output.0,
            output_layout: placed.output.1,
            steps: placed.steps,
            arena: placed.arena,
            isa,
            most_lanes,
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
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of weights, biases and indices in memory.
    pub fn weight_bytes(&self) -> usize {
        self.steps.iter().map(|step| step.kind.weight_bytes()).sum()
    }

    /// What each step does, in order. `model` is the one that the engine was made from.
    pub fn steps(&self, model: &Model) -> Vec<StepInfo> {
        let info = |step: &Step| {
            let layer = match step.kind {
                StepKind::Linear(_) | StepKind::Conv2d { .. } => {
                    model.network.nodes[step.node].op.layer()
                }
                _ => None,
            };
            let entries = layer.map_or(0, |layer| model.weights[layer].pattern.len());
            let all = layer.map_or(1, |layer| {
                model.network.layers[layer].rows() * model.network.layers[layer].cols()
            });
            StepInfo {
                node: step.node,
                layer,
                kernel: step.kind.name(),
                multiply_adds: entries * step.output.1.shape.area(),
                density: if layer.is_some() { entries as f64 / all as f64 } else { 1.0 },
            }
        };
        self.steps.iter().map(info).collect()
    }
}

/// The nodes of a network, one after the other, to steps.
struct Planner<'a> {
    model: &'a Model,
    isa: Isa,
    options: Options,
    most_lanes: usize,
    /// Of each node's output.
    shapes: Vec<Shape>,
    fused: Fused,
    layouts: Layouts,
    builder: PlanBuilder,
    /// The builder's value that each node's output is.
    value_of: Vec<usize>,
}

impl Planner<'_> {
    /// Adds the steps of a node, if it has any of its own.
    fn plan(&mut self, index: usize) {
        let network = &self.model.network;
        let node = &network.nodes[index];
        if self.fused.owner[index] != index {
            self.value_of[index] = self.value_of[self.fused.owner[index]];
            return;
        }
        let value = |source: &Source| match *source {
            Source::Input => 0,
            Source::Node(i) => self.value_of[i],
        };
        let mut inputs: Vec<usize> =
            node.inputs.iter().chain(&self.fused.residual[index]).map(value).collect();
        let x = self.builder.layout(inputs[0]);
        let y = self.layouts.values[index + 1];
        let mut then = self.fused.activation[index];
        let kind = match node.op {
            Op::Linear { layer } => {
                inputs[0] = self.builder.contiguous(index, inputs[0]);
                let weights = &self.model.weights[layer];
                StepKind::Linear(linear(weights, self.isa, self.most_lanes, self.options))
            }
            Op::Conv2d { layer, stride, padding, groups } => {
                self.convolution(index, &mut inputs[0], layer, stride, padding, groups)
            }
            Op::MaxPool2d(window) => StepKind::Pool { pool: Pool::Max, window },
            Op::AvgPool2d { window, count_include_pad } => {
                StepKind::Pool { pool: Pool::Average { count_include_pad }, window }
            }
            Op::GlobalAvgPool2d => StepKind::GlobalAvgPool,
            Op::Activation(activation) => {
                then = Some(activation);
                StepKind::Copy
            }
            Op::Flatten
                if then.is_none()
                    && x.is_contiguous()
                    && y.is_contiguous()
                    && read_by_linear(network, index) =>
            {
                self.value_of[index] = inputs[0];
                return;
            }
            Op::Flatten => StepKind::Copy,
            Op::Add => StepKind::Add,
            Op::Mul => {
                let whole = |&value: &usize| self.builder.layout(value).shape == self.shapes[index];
                let first = inputs.iter().position(whole).unwrap_or(0);
                inputs.swap(0, first);
                StepKind::Mul
            }
            Op::Concat => StepKind::Concat,
            Op::Softmax => StepKind::Softmax,
        };
        // The kernels of linear layers know no gaps: a convolution with padding may read their outputs.
        self.value_of[index] = if matches!(kind, StepKind::Linear(_)) && !y.is_contiguous() {
            let plain = self.builder.push(index, kind, inputs, Layout::contiguous(y.shape), then);
            self.builder.push(index, StepKind::Copy, vec![plain], y, None)
        } else {
            self.builder.push(index, kind, inputs, y, then)
        };
    }

    /// A convolution of a value, which is split first if there is a stride.
    fn convolution(
        &mut self,
        index: usize,
        value: &mut usize,
        layer: usize,
        stride: [usize; 2],
        [top, left, ..]: [usize; 4],
        groups: usize,
    ) -> StepKind {
        let (dims, padding) = (&self.model.network.layers[layer].shape, [top, left]);
        if let Some(split) = self.layouts.split[index] {
            let phases = [stride[0].min(dims[2]), stride[1].min(dims[3])];
            let kind = StepKind::Split { stride, phases, padding };
            *value = self.builder.push(index, kind, vec![*value], split, None);
        }
        let parts = convolution(
            &self.model.weights[layer],
            dims,
            stride,
            groups,
            (&self.builder.layout(*value), &self.layouts.values[index + 1]),
            self.most_lanes,
            self.options,
        );
        let padding = if stride == [1, 1] { padding } else { [0, 0] };
        StepKind::Conv2d { parts, padding }
    }
}

/// Whether only linear layers read a node, to which a map is as good as a vector.
fn read_by_linear(network: &Network, index: usize) -> bool {
    let reads = |node: &&Node| node.inputs.contains(&Source::Node(index));
    network.nodes.iter().filter(reads).all(|node| matches!(node.op, Op::Linear { .. }))
}

fn check_weights(model: &Model) -> Result<()> {
    let fits = |(layer, w): (&Layer, &LayerWeights)| {
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
