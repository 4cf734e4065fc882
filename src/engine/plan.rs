//! From a model to steps over an arena.

use std::ops::Range;

use super::fuse::fuse;
use super::kernels::{DenseRows, SlicedRows, TapRows};
use super::layers::{convolution, linear};
use super::layout::{self, Layout};
use super::{Isa, cost, memory};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::{Activation, Input, Network, Op, Shape, Source, Window};

/// Most elements of all activations of one sample that are alive at once.
const MOST_ACTIVATIONS: usize = 1 << 28;

/// What a plan is made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Which kernels may be chosen.
    pub kernel: Kernel,
    /// The number of samples that will be run at a time, if it is known: layouts for other
    /// numbers are left out where that saves memory. Any number still runs.
    pub batch: Option<usize>,
    /// Threads that may share the rows of a layer when there are fewer panels than threads, see
    /// [`Engine::run_parallel`]. The sums are the same for any number; 0 is 1.
    pub threads: usize,
}

/// Which kernels a plan may choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kernel {
    /// The one that should be the fastest for a layer's shape and density.
    #[default]
    Auto,
    /// The dense one, zeros and all: what sparsity is compared to.
    Dense,
    /// The sparse one, however few zeros there are: what a choice is calibrated by.
    Sparse,
}

/// A model ready to run. Immutable: one engine serves many threads, each with its own
/// [`super::Workspace`].
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

/// One operation, reading and writing ranges of the arena.
#[derive(Debug)]
pub(super) struct Step {
    /// The node it belongs to.
    pub(super) node: usize,
    pub(super) work: Work,
    pub(super) inputs: Vec<(Range<usize>, Layout)>,
    pub(super) output: (Range<usize>, Layout),
    /// Applied to every element of the output at the end.
    pub(super) then: Option<Activation>,
}

#[derive(Debug)]
pub(super) enum Work {
    /// The rows in order, a part for each thread; so for convolutions.
    Linear(Vec<Rows>),
    Conv2d {
        parts: Vec<TapRows>,
        padding: [usize; 2],
    },
    /// The input of a convolution with a stride, by remainders of row and column.
    Split {
        stride: [usize; 2],
        phases: [usize; 2],
        padding: [usize; 2],
    },
    Pool {
        pool: Pool,
        window: Window,
    },
    GlobalAvgPool,
    Copy,
    Add,
    /// The first input has the output's shape.
    Mul,
    Concat,
    Softmax,
}

/// Rows of a linear layer: single samples by one kernel, panels of samples by another.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) count: usize,
    pub(super) single: Option<Vector>,
    pub(super) panel: Option<TapRows>,
}

#[derive(Debug)]
pub(super) enum Vector {
    Sliced(SlicedRows),
    Dense(DenseRows),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Max,
    Average { count_include_pad: bool },
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
    /// activations of one sample are more than 2^28 numbers.
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
        let layouts = layout::choose(network, &shapes, &fused.owner, &fused.onto)?;
        let maps = network.nodes.iter().any(|node| matches!(node.op, Op::Conv2d { .. }));
        let most_lanes = if maps { cost::LANES_OF_MAPS } else { cost::LANES_OF_VECTORS };
        let most_lanes = match options.batch {
            Some(batch) => most_lanes.min(batch.next_power_of_two()),
            None => most_lanes,
        };

        let mut draft = Draft { values: vec![layouts.values[0]], steps: Vec::new() };
        let mut value_of = vec![0; network.nodes.len()];
        for (index, node) in network.nodes.iter().enumerate() {
            if fused.owner[index] != index {
                value_of[index] = value_of[fused.owner[index]];
                continue;
            }
            let value = |source: &Source| match *source {
                Source::Input => 0,
                Source::Node(i) => value_of[i],
            };
            let mut inputs: Vec<usize> =
                node.inputs.iter().chain(&fused.onto[index]).map(value).collect();
            let x = draft.values[inputs[0]];
            let mut then = fused.activation[index];
            let y = layouts.values[index + 1];
            let work = match node.op {
                Op::Linear { layer } => {
                    inputs[0] = draft.contiguous(index, inputs[0]);
                    Work::Linear(linear(&model.weights[layer], isa, most_lanes, options))
                }
                Op::Conv2d { layer, stride, padding, groups } => {
                    let dims = &network.layers[layer].shape;
                    let padding = [padding[0], padding[1]];
                    let phases = [stride[0].min(dims[2]), stride[1].min(dims[3])];
                    let mut x = x;
                    if let Some(split) = layouts.split[index] {
                        x = split;
                        let work = Work::Split { stride, phases, padding };
                        inputs[0] = draft.push(index, work, inputs[0..1].to_vec(), split, None);
                    }
                    let parts = convolution(
                        &model.weights[layer],
                        dims,
                        stride,
                        groups,
                        (&x, &y),
                        most_lanes,
                        options,
                    );
                    let padding = if stride == [1, 1] { padding } else { [0, 0] };
                    Work::Conv2d { parts, padding }
                }
                Op::MaxPool2d(window) => Work::Pool { pool: Pool::Max, window },
                Op::AvgPool2d { window, count_include_pad } => {
                    Work::Pool { pool: Pool::Average { count_include_pad }, window }
                }
                Op::GlobalAvgPool2d => Work::GlobalAvgPool,
                Op::Activation(activation) => {
                    then = Some(activation);
                    Work::Copy
                }
                Op::Flatten
                    if then.is_none()
                        && x.is_contiguous()
                        && y.is_contiguous()
                        && read_by_linear(network, index) =>
                {
                    value_of[index] = inputs[0];
                    continue;
                }
                Op::Flatten => Work::Copy,
                Op::Add => Work::Add,
                Op::Mul => {
                    let whole = |&value: &usize| draft.values[value].shape == shapes[index];
                    let first = inputs.iter().position(whole).unwrap_or(0);
                    inputs.swap(0, first);
                    Work::Mul
                }
                Op::Concat => Work::Concat,
                Op::Softmax => Work::Softmax,
            };
            value_of[index] = draft.push(index, work, inputs, y, then);
        }
        draft.place(network, value_of[network.nodes.len() - 1], isa, most_lanes)
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
        let bytes = |step: &Step| match &step.work {
            Work::Linear(parts) => parts.iter().map(Rows::bytes).sum(),
            Work::Conv2d { parts, .. } => parts.iter().map(TapRows::bytes).sum(),
            _ => 0,
        };
        self.steps.iter().map(bytes).sum()
    }

    /// What each step does, in order. `model` is the one that the engine was made from.
    pub fn steps(&self, model: &Model) -> Vec<StepInfo> {
        let info = |step: &Step| {
            let layer = match step.work {
                Work::Linear(_) | Work::Conv2d { .. } => model.network.nodes[step.node].op.layer(),
                _ => None,
            };
            let entries = layer.map_or(0, |layer| model.weights[layer].pattern.len());
            let all = layer.map_or(1, |layer| {
                model.network.layers[layer].rows() * model.network.layers[layer].cols()
            });
            StepInfo {
                node: step.node,
                layer,
                kernel: step.work.name(),
                multiply_adds: entries * step.output.1.shape.area(),
                density: if layer.is_some() { entries as f64 / all as f64 } else { 1.0 },
            }
        };
        self.steps.iter().map(info).collect()
    }
}

impl Rows {
    fn bytes(&self) -> usize {
        let single = self.single.as_ref().map_or(0, |vector| match vector {
            Vector::Sliced(rows) => rows.bytes(),
            Vector::Dense(rows) => rows.bytes(),
        });
        single + self.panel.as_ref().map_or(0, TapRows::bytes)
    }

    fn name(&self) -> &'static str {
        let grouped = self.panel.as_ref().is_some_and(TapRows::grouped);
        match (&self.single, grouped) {
            (Some(Vector::Sliced(_)), false) => "sliced rows / taps",
            (Some(Vector::Sliced(_)), true) => "sliced rows / shared taps",
            (Some(Vector::Dense(_)), false) => "dense rows / taps",
            (Some(Vector::Dense(_)), true) => "dense rows / shared taps",
            (None, false) => "taps",
            (None, true) => "shared taps",
        }
    }
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Linear(parts) => parts.first().map_or("taps", Rows::name),
            Self::Conv2d { .. } => "convolution, taps",
            Self::Split { .. } => "split by stride",
            Self::Pool { pool: Pool::Max, .. } => "max pool",
            Self::Pool { .. } => "average pool",
            Self::GlobalAvgPool => "global average pool",
            Self::Copy => "copy",
            Self::Add => "add",
            Self::Mul => "multiply",
            Self::Concat => "concatenate",
            Self::Softmax => "softmax",
        }
    }
}

/// Steps over numbered values, before these have places.
struct Draft {
    values: Vec<Layout>,
    steps: Vec<DraftStep>,
}

struct DraftStep {
    node: usize,
    work: Work,
    inputs: Vec<usize>,
    output: usize,
    then: Option<Activation>,
}

impl Draft {
    fn push(
        &mut self,
        node: usize,
        work: Work,
        inputs: Vec<usize>,
        layout: Layout,
        then: Option<Activation>,
    ) -> usize {
        let output = self.values.len();
        self.values.push(layout);
        self.steps.push(DraftStep { node, work, inputs, output, then });
        output
    }

    /// The value, or a copy of it without gaps.
    fn contiguous(&mut self, node: usize, value: usize) -> usize {
        let layout = self.values[value];
        if layout.is_contiguous() {
            return value;
        }
        self.push(node, Work::Copy, vec![value], Layout::contiguous(layout.shape), None)
    }

    fn place(self, network: &Network, last: usize, isa: Isa, most_lanes: usize) -> Result<Engine> {
        let mut lives: Vec<memory::Value> = Vec::with_capacity(self.values.len());
        for layout in &self.values {
            layout.shape.elements()?;
            lives.push(memory::Value { elements: layout.places(), made: 0, last_read: 0 });
        }
        for (at, step) in self.steps.iter().enumerate() {
            for &input in &step.inputs {
                lives[input].last_read = at + 1;
            }
            lives[step.output].made = at + 1;
            lives[step.output].last_read = at + 1;
        }
        lives[last].last_read = usize::MAX;
        let (ranges, arena) = memory::place(&lives);
        if arena > MOST_ACTIVATIONS {
            return Err(Error::Limit {
                what: "the activations of one sample".into(),
                needed: arena as u64,
                limit: MOST_ACTIVATIONS as u64,
            });
        }
        let at = |value: usize| (ranges[value].clone(), self.values[value]);
        let steps = self.steps.into_iter().map(|step| Step {
            node: step.node,
            work: step.work,
            inputs: step.inputs.iter().map(|&input| at(input)).collect(),
            output: at(step.output),
            then: step.then,
        });
        Ok(Engine {
            steps: steps.collect(),
            input: network.input.clone(),
            input_range: ranges[0].clone(),
            input_layout: self.values[0],
            output: network.output_shape_of_all()?,
            output_range: ranges[last].clone(),
            output_layout: self.values[last],
            arena,
            isa,
            most_lanes,
        })
    }
}

/// Whether only linear layers read a node, to which a map is as good as a vector.
fn read_by_linear(network: &Network, index: usize) -> bool {
    let reads = |node: &&crate::network::Node| node.inputs.contains(&Source::Node(index));
    network.nodes.iter().filter(reads).all(|node| matches!(node.op, Op::Linear { .. }))
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
