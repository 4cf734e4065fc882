//! From a model and its variances to a plan.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::options::Options;
use super::super::plan::{Engine, check_weights};
use super::rules::{Rule, Values};
use super::{Uncertainty, blocks, linear, pooled, rules};
use crate::engine::kernels::Workers;
use crate::engine::shared::LayerKernels;
use crate::engine::step::{Step, StepKind};
use crate::error::{Error, Result};
use crate::model::{Model, Variances};
use crate::network::{Activation, Op, Shape, Source};
use crate::simd::Isa;
use crate::uncertainty::table::{GROUP, Table};

/// A model and its posterior ready to run; like an [`Engine`], immutable and shared by callers.
///
/// ```
/// # fn main() -> svdo::Result<()> {
/// use svdo::engine::uncertain::{UncertainEngine, Uncertainty};
/// use svdo::engine::{Isa, Options};
/// use svdo::model::{LayerVariances, LayerWeights, Model, Pattern, Values, Variances};
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
/// let layer = LayerVariances { weights: vec![0.25, 1.0], ..LayerVariances::default() };
/// let variances = Variances { layers: vec![layer] };
///
/// let engine = UncertainEngine::new(&model, &variances, Uncertainty::Moments, Isa::best(), Options::default())?;
/// let mut moments = [0.0; 2];
/// engine.infer(&[1.0, 5.0, 3.0], &mut moments)?;
/// assert_eq!(moments, [-1.0, 0.25 + 9.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UncertainEngine {
    pub(super) engine: Engine,
    pub(super) steps: Vec<UncertainStep>,
    pub(super) how: Uncertainty,
    pub(super) outputs: usize,
    /// Positions of each arena behind the first, of the means.
    pub(super) variances: usize,
    pub(super) first: Option<First>,
    /// The noise of samples.
    pub(super) table: Option<Table>,
    /// Stretches of it that a panel reads, at most.
    pub(super) starts: usize,
}

/// A step and its rule.
#[derive(Debug)]
pub(super) struct UncertainStep {
    /// On means, or on sampled values; without the activation that `then` is.
    pub(super) means: Step,
    pub(super) rule: Rule,
    /// Of what has variances, at the end.
    pub(super) then: Option<Activation>,
}

/// The first step that adds noise: what is before is run once for all samples.
#[derive(Debug)]
pub(super) struct First {
    pub(super) step: usize,
    /// Ranges of what steps behind it read of what is before, and they may write to.
    pub(super) kept: Vec<std::ops::Range<usize>>,
    /// The pool behind it, some channels at a time, each read where the first ones are; none if there is none.
    pub(super) pools: Vec<Step>,
    /// Whether that can be had while the step is drawn.
    pub(super) pooled: bool,
}

impl UncertainEngine {
    /// Plans a model. A softmax at its end is left out: logits are what is given.
    ///
    /// # Errors
    /// [`Error::Network`] if the variances are not those of the model, or an operation has no rule; and as
    /// [`Engine::new`].
    pub fn new(
        model: &Model,
        variances: &Variances,
        how: Uncertainty,
        isa: Isa,
        options: Options,
    ) -> Result<Self> {
        variances.check(model)?;
        if options.stream {
            return Err(Error::network("a stream has no uncertainty: cells would have to keep it"));
        }
        let model = &logits(model)?;
        check_layers(model, variances)?;
        // Samples come in panels, however few inputs do.
        let batch = if how == Uncertainty::Moments { options.batch } else { None };
        let options = Options { batch, ..options };
        check_weights(model)?;
        let workers = Arc::new(Workers::new(options.threads.saturating_sub(1)));
        let parts = (&mut LayerKernels::default(), workers);
        let mut engine = Engine::planned(model, isa, options, (false, None), parts)?;
        let mut steps = std::mem::take(&mut engine.steps);
        if how == Uncertainty::Moments {
            blocks::move_pools(&mut engine, &mut steps);
        }
        let mut plan = Planned { values: Values::default(), scratch: 0, blocks: 0 };
        let samples = how != Uncertainty::Moments;
        let build = rules::Build { model, variances, engine: &engine, options, samples };
        let planned = steps.into_iter().map(|step| plan.step(&build, step));
        let mut steps = planned.collect::<Result<Vec<_>>>()?;
        if !samples {
            let room = 2 * build.engine.arena;
            steps = blocks::join(&build, steps, (room, &mut plan.scratch))?;
        }
        let Planned { scratch, blocks, .. } = plan;
        let (first, variances) = match how {
            Uncertainty::Moments => {
                let mut end = 2 * engine.arena + scratch;
                linear::join(&build, &mut steps, &mut end);
                (None, end)
            }
            Uncertainty::MonteCarlo { .. } => {
                let first = First::of(&steps, engine.most_lanes);
                let kept = first.as_ref().map_or(0, |first| {
                    let ranges = first.kept.iter().map(std::ops::Range::len).sum::<usize>();
                    ranges + 2 * steps[first.step].means.output.0.len()
                });
                (first, scratch + kept)
            }
        };
        let outputs = engine.output.elements()?;
        let table = match how {
            Uncertainty::Moments => None,
            Uncertainty::MonteCarlo { seed, .. } => Some(Table::new(seed)),
        };
        let starts = blocks * engine.most_lanes.div_ceil(GROUP);
        Ok(Self { engine, steps, how, outputs, variances, first, table, starts })
    }

    /// The shape of one input sample.
    pub fn input_shape(&self) -> Shape {
        self.engine.input_shape()
    }

    /// Logits of a sample.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Threads that share a run.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// The instruction set whose kernels run.
    pub fn isa(&self) -> Isa {
        self.engine.isa()
    }

    /// Floats that a run gives for each input: the means and then the variances of its logits, or the logits
    /// of each sample of the posterior.
    pub fn row(&self) -> usize {
        match self.how {
            Uncertainty::Moments => 2 * self.outputs,
            Uncertainty::MonteCarlo { samples, .. } => samples.max(1) * self.outputs,
        }
    }
}

/// What is known while steps are planned.
struct Planned {
    values: Values,
    /// Positions of memory behind that of the values.
    scratch: usize,
    /// Blocks of places of the table of normals.
    blocks: usize,
}

impl Planned {
    fn step(&mut self, build: &rules::Build<'_>, mut step: Step) -> Result<UncertainStep> {
        let rule = match build.samples {
            true => build.samples(&step, (&mut self.scratch, &mut self.blocks))?,
            false => {
                let room = 2 * build.engine.arena;
                build.moments(&step, &self.values, (room, &mut self.scratch))?
            }
        };
        let random = !matches!(rule, Rule::Means);
        if !build.samples {
            self.values.set(&step.output.0, random);
        }
        let then = if random { step.then.take() } else { None };
        Ok(UncertainStep { means: step, rule, then })
    }
}

impl First {
    fn of(steps: &[UncertainStep], lanes: usize) -> Option<Self> {
        let step = steps.iter().position(|step| !matches!(step.rule, Rule::Means))?;
        // Who wrote last where a value begins: steps up to the first noisy one, or later ones.
        let mut later = HashMap::new();
        let mut kept: Vec<std::ops::Range<usize>> = Vec::new();
        for step in &steps[step..] {
            for (range, _) in &step.means.inputs {
                if !later.contains_key(&range.start) && !kept.contains(range) {
                    kept.push(range.clone());
                }
            }
            later.insert(step.means.output.0.start, ());
        }
        // What the first one reads is read before any sample.
        let own = &steps[step].means.inputs;
        let read_later = |range: &std::ops::Range<usize>| {
            let inputs = steps[step + 1..].iter().flat_map(|step| &step.means.inputs);
            inputs.map(|(range, _)| range).any(|other| other == range)
        };
        kept.retain(|range| read_later(range) || !own.iter().any(|(own, _)| own == range));
        let pools = blocks::pools(&steps[step..], lanes);
        let pooled = !pools.is_empty() && pooled::fits(&steps[step], &steps[step + 1].means);
        Some(Self { step, kept, pools, pooled })
    }
}

/// The model without a softmax at its end.
fn logits(model: &Model) -> Result<Model> {
    let mut model = model.clone();
    let nodes = &mut model.network.nodes;
    while let [.., _, last] = &nodes[..] {
        if !matches!(last.op, Op::Softmax | Op::LogSoftmax) {
            break;
        }
        if last.inputs != [Source::Node(nodes.len() - 2)] {
            let problem = "the softmax at the end does not read the node before it";
            return Err(Error::network(problem));
        }
        nodes.pop();
    }
    Ok(model)
}

/// Refuses posteriors of layers that are no products of their node's input.
fn check_layers(model: &Model, variances: &Variances) -> Result<()> {
    for (at, node) in model.network.nodes.iter().enumerate() {
        let Some(layer) = node.op.layer() else { continue };
        let known = matches!(node.op, Op::Linear { .. } | Op::Conv2d { .. });
        if !known && !variances.layers[layer].is_empty() {
            return Err(Error::network(format!(
                "node {at}: the posterior of layer {} has no rule there; those of linear and conv2d have",
                model.network.layers[layer].name
            )));
        }
    }
    Ok(())
}

/// Whether a step is a product with the weights of a linear layer or a convolution.
pub(super) fn product_of(model: &Model, step: &Step) -> Option<usize> {
    let op = &model.network.nodes[step.node].op;
    match (&step.kind, op) {
        (StepKind::Linear(_), Op::Linear { layer })
        | (StepKind::Conv2d { .. }, Op::Conv2d { layer, .. }) => Some(*layer),
        _ => None,
    }
}
