//! Streams: networks run on parts of a sequence as on all of it, because what looks back goes on from where it was.
//!
//! Cells keep their states, attention that is causal the keys and values of the steps before ([`CachedAttention`]),
//! and constants that have values of their own for each step count on ([`Passing`]). Everything else has to be
//! computed step by step, which is checked here.

mod attention;
mod kept;
mod passing;

use super::attention::{Attention, Found, find};
use super::step::{Step, StepKind};
use super::whole::{Constant, Whole};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::{FreeSize, Layer, Network, Node, Op, Place, Polynomial, Shape, Source};
pub(super) use attention::CachedAttention;
pub(super) use passing::Passing;

/// Steps of the sequence on which a network of free time is checked: with one, there would be no other to be read.
const CHECKED: usize = 3;

/// A mask at or below this leaves a key out: beside any other its exponential is 0.
const BLOCKED: f32 = -1e4;

/// Which steps the elements of a value belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steps {
    /// It is the same at every step.
    Same,
    /// Element `e` belongs to step `e / stride % steps`.
    Each(usize),
    /// All of it belongs to the last step.
    Last,
    /// A constant whose rows are steps and whose columns are the steps that these look at.
    Pairs,
}

/// Checks that steps are computed one by one: that the network run on parts of a sequence, what looks back going on
/// from where it was, gives the parts of what it gives for the whole; or, if it gives the last step alone, that of each
/// part. Whether masks of attention leave out all steps to come is seen when the weights are planned.
///
/// # Errors
/// [`Error::Network`] names the first node that looks at several steps in another way, or says that nothing looks back.
pub fn check_stream(network: &Network) -> Result<()> {
    follow(network).map(|_| ())
}

/// How the steps of each node's output lie in the network on which it was checked, and that network's attention.
fn follow(network: &Network) -> Result<(Vec<Steps>, Found)> {
    let short;
    let part = match &network.time {
        Some(time) => {
            short = network.at(CHECKED.min(time.longest))?;
            &short
        }
        None => network,
    };
    let shapes = part.shapes()?;
    let found = match network.time {
        // What attention looks back at is kept for the longest sequence.
        Some(_) => find(part, &shapes),
        None => Found::none(part.nodes.len()),
    };
    let cell = |node: &Node| matches!(node.op, Op::Recurrent { .. });
    let attention = found.ends.iter().any(Option::is_some);
    if !attention && !part.nodes.iter().any(cell) {
        return Err(Error::network(
            "there is neither a recurrent cell nor, in a network over sequences of any length, attention that looks \
             back: a stream would keep nothing",
        ));
    }
    let free = network.time.as_ref().map_or(&[][..], |time| &time.sizes);
    let walk = |stride, steps| {
        Walk { network: part, shapes: &shapes, free, found: &found, steps }.all(stride)
    };
    let Shape { channels, height, width } = part.input.shape;
    let steps = if network.time.is_some() {
        let mut own = free.iter().filter(|free| free.of == Place::Input).map(|free| free.number);
        match (own.next(), own.next()) {
            (Some(0), None) => walk(height * width, channels),
            (Some(1), None) => walk(width, height),
            (Some(2), None) => walk(1, width),
            _ => Err(Error::network(
                "a network of several inputs cannot run as a stream: its steps lie in several places",
            )),
        }
    } else {
        // Steps are the columns; or, as graphs have them, the channels of `[steps, 1, features]`.
        let by_column = walk(1, width);
        match by_column {
            Err(_) if channels > 1 => walk(height * width, channels).or(by_column),
            found => found,
        }
    }?;
    Ok((steps, found))
}

struct Walk<'a> {
    network: &'a Network,
    shapes: &'a [Shape],
    free: &'a [FreeSize],
    found: &'a Found,
    steps: usize,
}

impl Walk<'_> {
    /// Follows the steps, which lie `stride` apart in the input, through all nodes.
    fn all(&self, stride: usize) -> Result<Vec<Steps>> {
        let nodes = &self.network.nodes;
        let mut steps = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let of = |source: &Source| match *source {
                Source::Input => (Steps::Each(stride), self.network.input.shape),
                Source::Node(at) => (steps[at], self.shapes[at]),
            };
            let inputs = |sources: &[Source]| sources.iter().map(of).collect::<Vec<_>>();
            let out = match &self.found.ends[index] {
                _ if self.found.inside[index] => Ok(Steps::Same),
                Some(attention) => self.attention(&inputs(&attention.inputs), self.shapes[index]),
                None => self.node(node.op, &inputs(&node.inputs), self.shapes[index]),
            };
            let out = out.map_err(|reason| {
                let name = match node.label() {
                    "" => format!("node {index}"),
                    name => format!("node {index} ({name})"),
                };
                Error::network(format!("{name} {reason}, so the network cannot run as a stream"))
            })?;
            steps.push(out);
        }
        match steps.last() {
            Some(Steps::Each(_) | Steps::Last) => Ok(steps),
            _ => Err(Error::network(
                "the output has no steps, so the network cannot run as a stream",
            )),
        }
    }

    /// Queries, keys and values step by step, and a mask of every step to every one.
    fn attention(
        &self,
        inputs: &[(Steps, Shape)],
        out: Shape,
    ) -> std::result::Result<Steps, &'static str> {
        let &[(q, of_q), (k, of_k), (v, of_v), ref mask @ ..] = inputs else { return Err(SEVERAL) };
        let by_row =
            |steps, shape: Shape| steps == Steps::Each(shape.width) && shape.height == self.steps;
        let step_by_step =
            by_row(q, of_q) && by_row(v, of_v) && k == Steps::Each(1) && of_k.width == self.steps;
        match (step_by_step, mask) {
            (false, _) => Err("is attention between what are no steps"),
            (true, [(Steps::Pairs, _)]) => Ok(Steps::Each(out.width)),
            (true, _) => Err("is attention that looks at steps to come"),
        }
    }

    /// Where the steps of an operation's output lie, or why it is not one of single steps.
    fn node(
        &self,
        op: Op,
        inputs: &[(Steps, Shape)],
        out: Shape,
    ) -> std::result::Result<Steps, &'static str> {
        if let Op::Constant { layer } = op
            && let Some(steps) = self.constant(layer)?
        {
            return Ok(steps);
        }
        let steps = self.steps;
        let ours = |(own, _): &&(Steps, Shape)| *own != Steps::Same;
        let Some(&(own, shape)) = inputs.iter().find(ours) else {
            return match op {
                // It would go on from part to part where the whole has it once.
                Op::Recurrent { .. } => Err("is a cell over what has no steps"),
                _ if out.area() == 1 => Ok(Steps::Same),
                // A constant for each step is another in each part.
                _ => Err("has values of its own for each step"),
            };
        };
        let stride = match own {
            Steps::Each(stride) => stride,
            // Whatever is made of one step.
            Steps::Last if matches!(op, Op::Recurrent { .. }) => {
                return Err("is a cell over what has no steps");
            }
            Steps::Last if inputs.iter().filter(ours).all(|(other, _)| *other == own) => {
                return Ok(Steps::Last);
            }
            _ => return Err(SEVERAL),
        };
        let aligned = inputs.iter().all(|(other, of)| match other {
            Steps::Same => of.area() == 1,
            other => *other == own && of.area() == shape.area(),
        });
        // With a single step there is nothing else to be read, but for what lies around it.
        let among_positions = stride * steps <= shape.area() && aligned;
        let alone = |fine: bool, reason| if fine { Ok(own) } else { Err(reason) };
        match op {
            Op::Activation(_) => Ok(own),
            Op::Recurrent { recurrence, .. } if recurrence.reverse => {
                Err("is a cell that reads its sequence from the end")
            }
            Op::Recurrent { .. } if inputs.len() > 1 => Err("is a cell with first states"),
            Op::Recurrent { .. } => alone(stride == 1 && shape.width == steps, SEVERAL),
            Op::Conv2d { layer, stride: [1, 1], padding: [0, 0, 0, 0], .. } => {
                let dims = &self.network.layers[layer].shape;
                alone(dims[2..] == [1, 1] && among_positions, SEVERAL)
            }
            Op::Add
            | Op::Mul
            | Op::Binary(_)
            | Op::Where
            | Op::Concat
            | Op::Softmax
            | Op::LogSoftmax
            | Op::LayerNorm { .. }
            | Op::Reduce(_)
            | Op::Embedding { .. } => alone(among_positions, SEVERAL),
            Op::Linear { .. } => alone(steps == 1, SEVERAL),
            Op::Flatten => Ok(own),
            Op::Rearrange(view) => {
                let step = |element: usize| view.source(element) / stride % steps;
                let all = out.channels * out.area();
                if steps > 1 && (0..all).all(|element| step(element) == steps - 1) {
                    return Ok(Steps::Last);
                }
                // Elements of one step, until those of the next.
                let after = (1..all).find(|&element| step(element) != step(0)).unwrap_or(1);
                let each = (0..all).all(|element| step(element) == element / after % steps);
                alone_at(each && all.is_multiple_of(after * steps), after)
            }
            _ => Err(SEVERAL),
        }
    }

    /// Where the steps of a constant lie whose size follows from their number.
    fn constant(&self, layer: usize) -> std::result::Result<Option<Steps>, &'static str> {
        let own = |size: &&FreeSize| size.of == Place::Layer(layer);
        let free: Vec<&FreeSize> = self.free.iter().filter(own).collect();
        if free.iter().any(|free| free.size != Polynomial::STEPS) {
            return Err("is a constant of other sizes than its steps");
        }
        let (of, mut numbers) = (&self.network.layers[layer], Vec::new());
        numbers.extend(free.iter().map(|free| free.number));
        Ok(match numbers[..] {
            [] => None,
            [at] => Some(Steps::Each(after(of, at))),
            // Nothing lies between rows and columns, or behind these.
            [row, column] if after(of, column) == 1 && after(of, row) == of.shape[column] => {
                Some(Steps::Pairs)
            }
            _ => return Err("is a constant of other sizes than its steps"),
        })
    }
}

const SEVERAL: &str = "reads several steps";

fn alone_at(fine: bool, stride: usize) -> std::result::Result<Steps, &'static str> {
    if fine { Ok(Steps::Each(stride)) } else { Err("takes steps apart") }
}

/// Elements from one of a dimension to the next.
fn after(layer: &Layer, dimension: usize) -> usize {
    layer.shape[dimension + 1..].iter().product()
}

/// How long a stream may be.
#[derive(Debug)]
pub(super) struct Limit {
    /// Where in the arena the number of the step stands with which the next part begins.
    next: usize,
    part: usize,
    longest: usize,
}

impl Limit {
    /// Refuses so many more parts if they would make the stream of this memory too long.
    pub(super) fn check(&self, memory: &[f32], parts: usize) -> Result<()> {
        let (now, more) = (memory[self.next] as usize, parts.saturating_mul(self.part));
        if now.saturating_add(more) <= self.longest {
            return Ok(());
        }
        Err(Error::data(format!(
            "a stream of {now} steps and {more} more: the network takes {} at most",
            self.longest
        )))
    }
}

/// What a plan for parts of a stream of free time needs to know of the whole.
pub(super) struct Stream<'a> {
    model: &'a Model,
    longest: usize,
    /// Steps of a part.
    pub(super) part: usize,
    steps: Vec<Steps>,
    pub(super) attention: Found,
}

impl<'a> Stream<'a> {
    /// Of the model for the longest sequences, if it is of free time, in parts of so many steps, else of the longest.
    ///
    /// # Errors
    /// As [`check_stream`].
    pub(super) fn of(model: &'a Model, part: Option<usize>) -> Result<Option<Self>> {
        let network = &model.network;
        let (steps, attention) = follow(network)?;
        let longest = network.time.as_ref().map(|time| time.longest);
        Ok(longest.map(|longest| {
            let part = part.unwrap_or(longest);
            Self { model, longest, part, steps, attention }
        }))
    }

    /// How long the stream may be, if a step of its plan has to know where it is.
    pub(super) fn limit(&self, steps: &[Step]) -> Option<Limit> {
        let position = |step: &&Step| matches!(step.kind, StepKind::Whole(Whole::Position(_)));
        let step = steps.iter().find(position)?;
        Some(Limit { next: step.output.0.start + 1, part: self.part, longest: self.longest })
    }

    /// Whether a node is a mask, which attention has taken in.
    pub(super) fn is_mask(&self, index: usize) -> bool {
        self.steps[index] == Steps::Pairs
    }

    /// The layer of a constant with values of its own for each step.
    fn own_for_each(&self, index: usize, node: &Node) -> Option<usize> {
        match (node.op, self.steps[index]) {
            (Op::Constant { layer }, Steps::Each(_)) => Some(layer),
            _ => None,
        }
    }

    /// The same as what its next steps are taken from.
    pub(super) fn passing(&self, index: usize, node: &Node) -> Option<Passing> {
        let layer = self.own_for_each(index, node)?;
        let dims = &self.model.network.layers[layer];
        let sizes = self.model.network.time.as_ref().map_or(&[][..], |time| &time.sizes);
        let free = sizes.iter().find(|free| free.of == Place::Layer(layer))?;
        let values = Constant::new(&self.model.weights[layer]).values(dims.shape.iter().product());
        Some(Passing::new(values, after(dims, free.number), self.longest))
    }

    /// Attention over parts of so many steps.
    ///
    /// # Errors
    /// [`Error::Network`] if its mask lets steps see those to come.
    pub(super) fn cached(
        &self,
        index: usize,
        attention: &Attention,
        [queries, values]: [Shape; 2],
    ) -> Result<CachedAttention> {
        let mask = match attention.inputs.get(3) {
            Some(&Source::Node(at)) => self.model.network.nodes[at].op.layer(),
            _ => None,
        };
        let mask = mask.map(|layer| {
            let shape = &self.model.network.layers[layer].shape;
            Constant::new(&self.model.weights[layer]).values(shape.iter().product())
        });
        let mask = mask.unwrap_or_default();
        let rows = mask.chunks_exact(self.longest).enumerate();
        for (row, keys) in rows {
            let to_come = &keys[row % self.longest + 1..];
            if !to_come.iter().all(|&key| key <= BLOCKED) {
                return Err(Error::network(format!(
                    "node {index} is attention whose mask lets step {} see steps to come, so the network cannot run \
                     as a stream",
                    row % self.longest
                )));
            }
        }
        Ok(CachedAttention::new(attention.scale(), mask, self.longest, [queries, values]))
    }
}
