//! Steps over numbered values, before these have ranges of the arena.

use std::ops::Range;

use super::cost::{self, Cost};
use super::layout::Layout;
use super::memory;
use super::step::{Step, StepKind};
use crate::error::{Error, Result};
use crate::network::{Activation, Shape};
use crate::simd::Isa;

/// Most elements of all activations of one sample that are alive at once.
const MOST_ACTIVATIONS: usize = 1 << 28;

/// Steps that all activations together are alive for.
const MOST_ALIVE: usize = 1 << 21;

/// A plan in the making. Value 0 is the input.
pub(super) struct PlanBuilder {
    values: Vec<Layout>,
    /// The value whose memory each is.
    memory: Vec<usize>,
    /// Values that stay from run to run.
    kept: Vec<usize>,
    steps: Vec<UnplacedStep>,
}

struct UnplacedStep {
    node: usize,
    kind: StepKind,
    inputs: Vec<usize>,
    output: usize,
    then: Option<Activation>,
}

/// Steps over an arena of some length, in elements of a sample.
pub(super) struct PlacedSteps {
    pub(super) steps: Vec<Step>,
    /// For each step, whether threads go on from parts of it to the same ones of the next.
    pub(super) chained: Vec<bool>,
    pub(super) input: (Range<usize>, Layout),
    pub(super) output: (Range<usize>, Layout),
    pub(super) arena: usize,
}

impl PlanBuilder {
    /// Nothing but the input.
    pub(super) fn new(input: Layout) -> Self {
        Self { values: vec![input], memory: vec![0], kept: Vec::new(), steps: Vec::new() }
    }

    /// How a value lies in memory.
    pub(super) fn layout(&self, value: usize) -> Layout {
        self.values[value]
    }

    /// Adds a step; the number of its output.
    pub(super) fn push(
        &mut self,
        node: usize,
        kind: StepKind,
        inputs: Vec<usize>,
        layout: Layout,
        then: Option<Activation>,
    ) -> usize {
        let output = self.values.len();
        self.values.push(layout);
        self.memory.push(output);
        self.steps.push(UnplacedStep { node, kind, inputs, output, then });
        output
    }

    /// Gives a value memory of its own, which no other has in any run.
    pub(super) fn keep(&mut self, value: usize) {
        self.kept.push(value);
    }

    /// A value without gaps as one of another shape with as many elements, or fewer: the first of them.
    pub(super) fn reshaped(&mut self, value: usize, shape: Shape) -> usize {
        self.values.push(Layout::contiguous(shape));
        self.memory.push(self.memory[value]);
        self.values.len() - 1
    }

    /// The value, or a copy of it without gaps.
    pub(super) fn contiguous(&mut self, node: usize, value: usize) -> usize {
        let layout = self.values[value];
        if layout.is_contiguous() {
            return value;
        }
        self.push(node, StepKind::Copy, vec![value], Layout::contiguous(layout.shape), None)
    }

    /// Gives every value its range of the arena; `last` is the output. `chain` if steps may go on to the
    /// next one part by part.
    ///
    /// # Errors
    /// [`Error::Limit`] if the values alive at once are more than 2^28 elements.
    pub(super) fn place(self, isa: Isa, last: usize, chain: bool) -> Result<PlacedSteps> {
        let chains = |pair: &[UnplacedStep]| {
            let [step, next] = pair else { return false };
            chain && step.kind.chains(&next.kind) && next.inputs[0] == step.output
        };
        let chained: Vec<bool> = self.steps.windows(2).map(chains).chain([false]).collect();
        let mut lives: Vec<memory::Value> = Vec::with_capacity(self.values.len());
        for (value, layout) in self.values.iter().enumerate() {
            layout.shape.elements()?;
            let elements = if self.memory[value] == value { layout.positions() } else { 0 };
            lives.push(memory::Value { elements, made: 0, last_read: 0 });
        }
        for (at, step) in self.steps.iter().enumerate() {
            for &input in &step.inputs {
                // The next step may begin while others still read.
                lives[self.memory[input]].last_read = at + 1 + usize::from(chained[at]);
            }
            lives[step.output].made = at + 1;
            lives[step.output].last_read = at + 1;
        }
        lives[self.memory[last]].last_read = usize::MAX;
        for value in self.kept {
            (lives[value].made, lives[value].last_read) = (0, usize::MAX);
        }
        let alive = lives.iter().map(|v| v.last_read.min(lives.len()).saturating_sub(v.made));
        let needed = alive.sum::<usize>();
        if needed > MOST_ALIVE {
            return Err(Error::Limit {
                what: "planning activations, by the steps that each is kept for,".into(),
                needed: needed as u64,
                limit: MOST_ALIVE as u64,
            });
        }
        let (ranges, arena) = memory::place(&lives);
        if arena > MOST_ACTIVATIONS {
            return Err(Error::Limit {
                what: "the activations of one sample".into(),
                needed: arena as u64,
                limit: MOST_ACTIVATIONS as u64,
            });
        }
        let at = |value: usize| (ranges[self.memory[value]].clone(), self.values[value]);
        let cost = |step: &UnplacedStep| {
            let layouts: Vec<_> = step.inputs.iter().map(|&input| self.values[input]).collect();
            cost::of(isa, &step.kind, &layouts, &self.values[step.output], step.then)
        };
        let costs: Vec<Cost> = self.steps.iter().map(cost).collect();
        let steps = self.steps.into_iter().zip(costs).map(|(step, cost)| Step {
            cost,
            node: step.node,
            kind: step.kind,
            inputs: step.inputs.iter().map(|&input| at(input)).collect(),
            output: at(step.output),
            then: step.then,
        });
        let (steps, input, output) = (steps.collect(), at(0), at(last));
        Ok(PlacedSteps { steps, chained, input, output, arena })
    }
}
