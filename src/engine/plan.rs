//! From a model to steps over an arena.

use std::ops::Range;
use std::sync::Arc;

use super::builder::PlacedSteps;
use super::cost;
use super::kernels::Workers;
use super::layers::Samples;
use super::layout::Layout;
use super::lengths::Lengths;
use super::options::Options;
use super::planner::Planner;
use super::shared::LayerKernels;
use super::split::Split;
use super::step::{Step, StepKind};
use super::stream::{Limit, Stream};
use super::winograd;
use crate::error::{Error, Result};
#[cfg(feature = "int8")]
use crate::model::ActivationRanges;
use crate::model::{LayerWeights, Model};
use crate::network::{Domain, Input, Layer, Op, Shape};
use crate::simd::Isa;

/// A model ready to run, with the threads that share its runs. Immutable: one engine serves many callers
/// at a time, each with its own [`Workspace`](super::Workspace).
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
///     time: None,
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
    pub(super) domains: Vec<Domain>,
    pub(super) vocabulary: Option<usize>,
    pub(super) stream: bool,
    pub(super) limit: Option<Limit>,
    pub(super) input_range: Range<usize>,
    pub(super) input_layout: Layout,
    pub(super) output: Shape,
    pub(super) output_range: Range<usize>,
    pub(super) output_layout: Layout,
    pub(super) steps: Vec<Step>,
    /// For each step, whether threads go on from parts of it to the same ones of the next: each of them
    /// finds what it has just made in its caches.
    pub(super) chained: Vec<bool>,
    pub(super) arena: usize,
    /// What single samples run by, if that is another plan.
    pub(super) singles: Option<Box<Engine>>,
    pub(super) isa: Isa,
    pub(super) most_lanes: usize,
    pub(super) split: Split,
    pub(super) workers: Arc<Workers>,
    /// Where sequences have any length up to that of the plan, what the others are made of.
    pub(super) lengths: Option<Arc<Lengths>>,
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
    /// Whether it multiplies in 8 bits.
    pub int8: bool,
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
        Self::with_kernels(model, isa, options, LayerKernels::default())
    }

    /// The same with the layers in 8 bits that are faster so, of those that these ranges let be: linear layers
    /// and convolutions in one group whose weights are levels at even distances, from -127 to 127
    /// ([`StepInfo::kernel`] says which are). Outputs then differ by what activations are rounded; in these layers
    /// they are the same bits on every CPU.
    ///
    /// # Errors
    /// As [`Engine::new`]; [`Error::Network`] if the ranges are not those of the network's nodes.
    #[cfg(feature = "int8")]
    pub fn in_int8(
        model: &Model,
        ranges: &ActivationRanges,
        isa: Isa,
        options: Options,
    ) -> Result<Self> {
        ranges.check(&model.network)?;
        let ranges = Some(Arc::new(ranges.clone()));
        Self::with_kernels(model, isa, options, LayerKernels { ranges, ..LayerKernels::default() })
    }

    fn with_kernels(
        model: &Model,
        isa: Isa,
        options: Options,
        mut kernels: LayerKernels,
    ) -> Result<Self> {
        let workers = Arc::new(Workers::new(options.threads.saturating_sub(1)));
        check_weights(model)?;
        let stream = if options.stream { Stream::of(model, options.steps)? } else { None };
        let short = options.steps.map(|steps| model.at(steps)).transpose()?;
        let how = (true, stream.as_ref());
        let model_of_run = short.as_ref().unwrap_or(model);
        let engine = match Self::in_two(model_of_run, isa, options, (&mut kernels, &workers))? {
            Some(engine) => engine,
            None => {
                let parts = (&mut kernels, workers.clone());
                Self::planned(model_of_run, isa, options, how, parts)?
            }
        };
        let lengths = Lengths::new(model, engine.isa, options, (kernels, workers));
        Ok(Self { lengths: lengths.map(Arc::new), ..engine })
    }

    /// One stream by several plans, for parts of so many steps each: [`Engine::take_over`] goes from one to the other.
    /// They have tables and threads in common.
    ///
    /// # Errors
    /// As [`Engine::with_options`]; [`Error::Network`] if the network's time is not free.
    pub fn of_parts(
        model: &Model,
        isa: Isa,
        options: Options,
        parts: &[usize],
    ) -> Result<Vec<Self>> {
        check_weights(model)?;
        let mut kernels = LayerKernels::default();
        let workers = Arc::new(Workers::new(options.threads.saturating_sub(1)));
        let plan = |&steps: &usize| {
            let options = Options { stream: true, steps: Some(steps), ..options };
            let stream = Stream::of(model, options.steps)?;
            let how = (true, stream.as_ref());
            let parts = (&mut kernels, workers.clone());
            Self::planned(&model.at(steps)?, isa, options, how, parts)
        };
        parts.iter().map(plan).collect()
    }

    /// A plan for panels and one for single samples, if the number of samples is not known and some convolutions are
    /// best done in another way for one than for many. What is the same in both is there once.
    fn in_two(
        model: &Model,
        isa: Isa,
        options: Options,
        (kernels, workers): (&mut LayerKernels, &Arc<Workers>),
    ) -> Result<Option<Self>> {
        #[cfg(feature = "int8")]
        if kernels.ranges.is_some() {
            return Ok(None);
        }
        // Without tiles, of which one sample has few, the two ways are too close to be worth the code.
        if !winograd::HERE
            || options.batch.is_some()
            || options.stream
            || model.network.time.is_some()
        {
            return Ok(None);
        }
        let isa = isa.or_portable();
        let sizes = sizes(model, options)?;
        let planner = Planner::new(model, isa, options, sizes.clone(), (true, None, kernels))?;
        if !planner.wants_two() {
            return Ok(None);
        }
        let most_lanes = planner.most_lanes();
        let singles = planner.only(Samples::ONE, &[]).all()?;
        let planner = Planner::new(model, isa, options, sizes, (true, None, kernels))?;
        let panels = planner.only(Samples::panels(most_lanes), &singles.steps).all()?;
        let of = |placed| Self::of(model, (isa, options, most_lanes), placed, workers.clone());
        let (singles, mut engine) = (of(singles)?, of(panels)?);
        engine.arena = engine.arena.max(singles.arena);
        engine.split = Split::new((&singles.steps, &engine.steps), engine.values(), most_lanes);
        engine.singles = Some(Box::new(singles));
        Ok(Some(engine))
    }

    /// One plan at one length, perhaps with the same sums in all panels, perhaps for parts of a stream of free time; of
    /// layers that have kernels already, weights are not asked for.
    pub(super) fn planned(
        model: &Model,
        isa: Isa,
        options: Options,
        (free, stream): (bool, Option<&Stream<'_>>),
        (kernels, workers): (&mut LayerKernels, Arc<Workers>),
    ) -> Result<Self> {
        let isa = isa.or_portable();
        let sizes = sizes(model, options)?;
        let planner = Planner::new(model, isa, options, sizes, (free, stream, kernels))?;
        let most_lanes = planner.most_lanes();
        let placed = planner.all()?;
        let limit = stream.and_then(|stream| stream.limit(&placed.steps));
        let engine = Self::of(model, (isa, options, most_lanes), placed, workers)?;
        Ok(Self { limit, ..engine })
    }

    /// An engine of steps, by which single samples and panels run.
    fn of(
        model: &Model,
        (isa, options, most_lanes): (Isa, Options, usize),
        placed: PlacedSteps,
        workers: Arc<Workers>,
    ) -> Result<Self> {
        let network = &model.network;
        let engine = Self {
            input: network.input.clone(),
            domains: network.domains()?,
            vocabulary: network.vocabulary()?,
            stream: options.stream,
            limit: None,
            input_range: placed.input.0,
            input_layout: placed.input.1,
            output: network.output_shape_of_all()?,
            output_range: placed.output.0,
            output_layout: placed.output.1,
            split: Split::default(),
            steps: placed.steps,
            chained: placed.chained,
            arena: placed.arena,
            singles: None,
            isa,
            most_lanes,
            workers,
            lengths: None,
        };
        let split = Split::new((&engine.steps, &engine.steps), engine.values(), most_lanes);
        Ok(Self { split, ..engine })
    }

    /// Elements of an input and its output.
    fn values(&self) -> usize {
        let (ins, outs) = self.lengths();
        ins + outs
    }

    /// What the network takes.
    pub fn input(&self) -> &Input {
        &self.input
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

    /// What the values of a sample may be.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// How many token ids there are, if all of the input is such.
    pub fn vocabulary(&self) -> Option<usize> {
        self.vocabulary
    }

    /// The instruction set whose kernels run.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of weights, biases and indices in memory.
    pub fn weight_bytes(&self) -> usize {
        let own = |step: &&Step| !self.steps.iter().any(|of| of.kind.shares_rows(&step.kind));
        let singles = self.singles.iter().flat_map(|singles| &singles.steps).filter(own);
        self.steps.iter().chain(singles).map(|step| step.kind.weight_bytes()).sum()
    }

    /// What each step does, in order, with so many samples to run; the others of a batch that end it one by one may
    /// have steps of their own. `model` is the one that the engine was made from.
    pub fn steps_of(&self, model: &Model, samples: usize) -> Vec<StepInfo> {
        self.plan(self.lanes(samples)).steps(model)
    }

    /// What each step does, in order, with many samples to run. `model` is the one that the engine was made from.
    pub fn steps(&self, model: &Model) -> Vec<StepInfo> {
        let info = |step: &Step| {
            let layer = match step.kind {
                StepKind::Linear(_) | StepKind::Conv2d { .. } => {
                    model.network.nodes[step.node].op.layer()
                }
                #[cfg(feature = "int8")]
                StepKind::Int8 { .. } => model.network.nodes[step.node].op.layer(),
                _ => None,
            };
            let entries = layer.map_or(0, |layer| model.weights[layer].pattern.len());
            let all = layer.map_or(1, |layer| {
                model.network.layers[layer].rows() * model.network.layers[layer].cols()
            });
            let outputs =
                if let StepKind::Conv2d { outputs, .. } = step.kind { outputs } else { 1 };
            StepInfo {
                node: step.node,
                layer,
                kernel: step.kind.name(),
                multiply_adds: entries * step.output.1.shape.area() * outputs,
                int8: step.kind.is_int8(),
                density: if layer.is_some() { entries as f64 / all as f64 } else { 1.0 },
            }
        };
        self.steps.iter().map(info).collect()
    }
}

/// Of all nodes' outputs, and of the widest panel.
fn sizes(model: &Model, options: Options) -> Result<(Vec<Shape>, usize)> {
    let network = &model.network;
    let map = |op: &Op| matches!(op, Op::Conv2d { .. } | Op::ConvTranspose2d { .. } | Op::MatMul);
    let maps = network.nodes.iter().any(|node| map(&node.op));
    let most_lanes = if maps { cost::LANES_OF_MAPS } else { cost::LANES_OF_VECTORS };
    let most_lanes = match options.batch {
        _ if options.stream => 1,
        Some(batch) => most_lanes.min(batch.next_power_of_two()),
        None => most_lanes,
    };
    Ok((network.shapes()?, most_lanes))
}

pub(super) fn check_weights(model: &Model) -> Result<()> {
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
