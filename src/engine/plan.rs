//! From a model to steps over an arena.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::builder::PlanBuilder;
use super::cost;
use super::fuse::{Fused, fuse};
use super::layers::{convolution, linear};
use super::layout::{self, Layout, Layouts};
use super::options::Options;
use super::step::{Pool, Step, StepKind};
use super::transposed::{Transposed, corner};
use super::whole::{Constant, Interpolation, Runs, Whole};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::{Input, Layer, Network, Node, Op, Resize, Shape, Source};
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
        let map =
            |op: &Op| matches!(op, Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::MatMul);
        let maps = network.nodes.iter().any(|node| map(&node.op));
        let most_lanes = if maps { cost::LANES_OF_MAPS } else { cost::LANES_OF_VECTORS };
        let most_lanes = match options.batch {
            Some(batch) => most_lanes.min(batch.next_power_of_two()),
            None => most_lanes,
        };
        let builder = PlanBuilder::new(layouts.values[0]);
        let value_of = vec![0; network.nodes.len()];
        let constants = BTreeMap::new();
        let mut planner = Planner {
            model,
            isa,
            options,
            most_lanes,
            shapes,
            fused,
            layouts,
            builder,
            value_of,
            constants,
        };
        (0..network.nodes.len()).try_for_each(|index| planner.plan(index))?;
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
    /// Those of layers that are values.
    constants: BTreeMap<usize, Arc<Constant>>,
}

impl Planner<'_> {
    /// Adds the steps of a node, if it has any of its own.
    fn plan(&mut self, index: usize) -> Result<()> {
        let network = &self.model.network;
        let node = &network.nodes[index];
        if self.fused.owner[index] != index {
            self.value_of[index] = self.value_of[self.fused.owner[index]];
            return Ok(());
        }
        let value = |source: &Source| match *source {
            Source::Input => 0,
            Source::Node(i) => self.value_of[i],
        };
        let mut inputs: Vec<usize> =
            node.inputs.iter().chain(&self.fused.residual[index]).map(value).collect();
        if let Some(whole) = self.whole(index) {
            return self.without_gaps(index, whole, inputs);
        }
        let x = self.builder.layout(inputs[0]);
        let y = self.layouts.values[index + 1];
        let mut then = self.fused.activation[index];
        let kind = match node.op {
            Op::Linear { layer } => {
                inputs[0] = self.builder.contiguous(index, inputs[0]);
                let weights = &self.model.weights[layer];
                let kind =
                    StepKind::Linear(linear(weights, self.isa, self.most_lanes, self.options));
                self.push_plain(index, kind, inputs);
                return Ok(());
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
                return Ok(());
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
            Op::ConvTranspose2d { layer, stride, cut, groups } => {
                return self.transposed(index, inputs, layer, (stride, cut, groups));
            }
            Op::Resize(resize) => return self.resized(index, inputs[0], &resize),
            _ => return Err(Error::network(format!("node {index} cannot be run"))),
        };
        self.value_of[index] = self.builder.push(index, kind, inputs, y, then);
        Ok(())
    }

    /// What a node does with values without gaps.
    fn whole(&mut self, index: usize) -> Option<Whole> {
        Some(match self.model.network.nodes[index].op {
            Op::LogSoftmax => Whole::LogSoftmax,
            Op::LayerNorm { eps, centered } => Whole::LayerNorm { eps, centered },
            Op::Reduce(reduction) => Whole::Reduce(reduction),
            Op::Binary(binary) => Whole::Binary(binary),
            Op::Where => Whole::Where,
            Op::MatMul => Whole::MatMul,
            Op::Constant { layer } => {
                let constant = self.constants.entry(layer);
                let new = || Arc::new(Constant::new(&self.model.weights[layer]));
                Whole::Constant(constant.or_insert_with(new).clone())
            }
            Op::Rearrange(view) => Whole::Rearrange(Runs::new(&view)),
            Op::Pad(pad) => Whole::Pad(pad),
            _ => return None,
        })
    }

    /// A step on copies without gaps, where there are gaps.
    fn without_gaps(&mut self, index: usize, whole: Whole, mut inputs: Vec<usize>) -> Result<()> {
        for input in &mut inputs {
            *input = self.builder.contiguous(index, *input);
        }
        let shape = self.shapes[index];
        if let Whole::Rearrange(runs) = &whole {
            let from = self.builder.layout(inputs[0]).shape;
            if runs.is_identity(from.elements()?) {
                let value = self.builder.reshaped(inputs[0], shape);
                self.settle(index, value);
                return Ok(());
            }
        }
        self.push_plain(index, StepKind::Whole(whole), inputs);
        Ok(())
    }

    /// A step that leaves no gaps in its output; a convolution that reads it may want some.
    fn push_plain(&mut self, index: usize, kind: StepKind, inputs: Vec<usize>) {
        let y = Layout::contiguous(self.shapes[index]);
        if self.layouts.values[index + 1] == y {
            let then = self.fused.activation[index];
            self.value_of[index] = self.builder.push(index, kind, inputs, y, then);
        } else {
            let value = self.builder.push(index, kind, inputs, y, None);
            self.settle(index, value);
        }
    }

    /// A map interpolated along its rows, then along its columns.
    fn resized(&mut self, index: usize, mut value: usize, resize: &Resize) -> Result<()> {
        for axis in [0, 1] {
            let shape = self.builder.layout(value).shape;
            if let Some(along) = Interpolation::new(resize, axis, shape) {
                let mut sizes = [shape.height, shape.width];
                sizes[axis] = resize.size[axis];
                let y = Layout::contiguous(Shape::new(shape.channels, sizes[0], sizes[1]));
                let x = self.builder.contiguous(index, value);
                let kind = StepKind::Whole(Whole::Interpolate(along));
                value = self.builder.push(index, kind, vec![x], y, None);
            }
        }
        self.settle(index, value);
        Ok(())
    }

    /// Makes a value that of a node, as it is to lie and with the node's activation.
    fn settle(&mut self, index: usize, value: usize) {
        let (y, then) = (self.layouts.values[index + 1], self.fused.activation[index]);
        self.value_of[index] = match then.is_none() && self.builder.layout(value) == y {
            true => value,
            false => self.builder.push(index, StepKind::Copy, vec![value], y, then),
        };
    }

    /// A transposed convolution: one of stride 1, whose channels are then put in between each other.
    fn transposed(
        &mut self,
        index: usize,
        inputs: Vec<usize>,
        layer: usize,
        (stride, cut, groups): ([usize; 2], [i32; 4], usize),
    ) -> Result<()> {
        let (x, shape) = (self.builder.layout(inputs[0]), self.shapes[index]);
        let then = self.fused.activation[index];
        let dims = &self.model.network.layers[layer].shape;
        let transposed = Transposed::new(dims, stride, cut, (x.shape, shape));
        let [out, seen, kh, kw] = dims[..] else { return Ok(()) };
        let (weights, dims) =
            transposed.weights(&self.model.weights[layer], [out, seen, kh, kw])?;
        let z = self.layouts.split[index].unwrap_or(self.layouts.values[index + 1]);
        let parts =
            convolution(&weights, &dims, [1, 1], groups, (&x, &z), self.most_lanes, self.options);
        let [top, left, ..] = transposed.zeros();
        let kind = StepKind::Conv2d { parts, padding: [top, left] };
        if stride == [1, 1] {
            self.value_of[index] = self.builder.push(index, kind, inputs, z, then);
            return Ok(());
        }
        let mut value = self.builder.push(index, kind, inputs, z, None);
        let (whole, runs) = transposed.interleaved(&z);
        let mut runs = vec![(whole, runs)];
        if whole != shape {
            runs.push((shape, corner(whole, shape)));
        }
        for (shape, runs) in runs {
            let kind = StepKind::Whole(Whole::Rearrange(runs));
            let y = Layout::contiguous(shape);
            value = self.builder.push(index, kind, vec![value], y, None);
        }
        self.settle(index, value);
        Ok(())
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
