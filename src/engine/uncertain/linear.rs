//! Linear layers on means and variances, and what the next one inherits from units that share inputs.
//!
//! Units of a hidden layer read the same inputs: their values are not independent, and what a logit adds up of them
//! varies more, or less, than the sum of their variances. Of two linear layers in a row with an activation between, the
//! second one's variances have that difference: for activations f of normal x and y,
//! `Cov(f(x), f(y))` is near `E f'(x) E f'(y) Cov(x, y)`, and `Cov(x, y)` is that of the first layer's inputs, taken
//! to be independent. Later ones see no further back.

use std::ops::Range;

use super::blocks::is_read_by_next;
use super::moments::slope;
use super::plan::UncertainStep;
use super::propagate::floats;
use super::rules::{Build, Rule, doubled};
use crate::engine::cost;
use crate::engine::execute::Panel;
use crate::engine::kernels::{
    Inputs, Lane, MOST_OUTPUTS, MomentRows, Rows, SUMS, SquaredSums, Weight, pairs,
};
use crate::engine::memory;
use crate::engine::options::KernelChoice;
use crate::engine::parallel::in_parts;
use crate::engine::step::{Step, StepKind};
use crate::model::LayerWeights;
use crate::network::Activation;
use crate::simd::{Isa, Kernel, MAX_LANES, Vector};

/// Products of two layers' weights for each weight of them that their difference may cost.
const MOST_PRODUCTS: usize = 16;

/// A linear layer.
#[derive(Debug)]
pub(super) struct Linear {
    layer: usize,
    /// The rows in order, a part for each thread; behind them, for weights that are not in the pattern, a row of the
    /// factors of all columns.
    parts: Vec<MomentRows>,
    /// Whether inputs have variances.
    both: bool,
    /// Scratch memory, `[part][sum][row]`.
    sums: Range<usize>,
    /// The same for inputs as pairs.
    pairs: Range<usize>,
    /// Factors of rows, for weights that are not in the pattern.
    pruned: Option<Vec<f32>>,
    /// For the next layer.
    units: Option<Units>,
    /// What the layer before says of its units.
    difference: Option<Range<usize>>,
}

/// What a layer's units have in common, in scratch memory.
#[derive(Debug)]
struct Units {
    layers: SquaredSums,
    gates: Range<usize>,
    /// Variances that units inherit, times squares of gates; behind the gates.
    inherited: Range<usize>,
    difference: Range<usize>,
    scratch: Range<usize>,
    /// The variances of inputs, kept where nothing comes behind the next layer.
    inputs: Option<Range<usize>>,
}

/// The logits of two linear layers at the end, and what makes them vary together.
pub(super) struct Logits<'a> {
    units: &'a Units,
    /// The variances of units behind their activation.
    behind: Range<usize>,
}

impl<'a> Logits<'a> {
    /// Of a plan that ends with two linear layers.
    pub(super) fn of(steps: &'a [UncertainStep], outputs: usize) -> Option<Self> {
        let [.., UncertainStep { rule: Rule::Linear(first), .. }, last] = steps else {
            return None;
        };
        let units = first.units.as_ref().filter(|units| units.inputs.is_some())?;
        let fit = outputs <= MOST_OUTPUTS && last.then.is_none() && last.means.then.is_none();
        fit.then(|| Self { units, behind: doubled(&last.means.inputs[0].0) })
    }

    /// The covariances of all logits of a lane, each with each, from the memory of variances behind a run. An
    /// output's covariance with itself is not all of its variance.
    pub(super) fn covariances(
        &self,
        isa: Isa,
        variances: &mut [f32],
        (lane, lanes): (usize, usize),
        y: &mut [f32],
    ) {
        let Units { layers, gates, inherited, inputs, .. } = self.units;
        let Some(inputs) = inputs else { return };
        if lane == 0 {
            // What is not inherited is a unit's own.
            let (behind, own) = (floats(&self.behind, lanes), floats(inherited, lanes));
            let ([behind], own) = memory::borrow(variances, [behind], own);
            own.iter_mut().zip(behind).for_each(|(own, all)| *own = (all - *own).max(0.0));
        }
        let [gates, own, d] =
            [gates, inherited, inputs].map(|range| &variances[floats(range, lanes)]);
        layers.covariances(isa, Lane { gates, own, d, lane, lanes }, y);
    }
}

fn take(scratch: &mut usize, length: usize) -> Range<usize> {
    let start = *scratch;
    *scratch += length;
    start..*scratch
}

/// The weights of rows, by columns.
fn entries(weights: &LayerWeights) -> Rows {
    let (pattern, values) = (&weights.pattern, weights.values.to_f32());
    let row = |row: usize| {
        let values = values[pattern.entries(row)].iter().copied();
        pattern.row(row).iter().copied().zip(values).filter(|entry| entry.1 != 0.0).collect()
    };
    (0..pattern.rows()).map(row).collect()
}

impl Build<'_> {
    /// The rule of a linear layer; none if a column's number does not fit the kernel.
    pub(super) fn linear(
        &self,
        step: &Step,
        layer: usize,
        both: bool,
        (room, scratch): (usize, &mut usize),
    ) -> Option<Linear> {
        let (weights, variances) = (&self.model.weights[layer], &self.variances.layers[layer]);
        let (isa, lanes) = (self.engine.isa, self.engine.most_lanes);
        let (pattern, means) = (&weights.pattern, weights.values.to_f32());
        let (rows, columns) = (pattern.rows(), pattern.cols());
        let known = |values: &[f32], at: usize| values.get(at).copied().unwrap_or(0.0);
        let mut all: Vec<Vec<Weight>> = Vec::new();
        for row in 0..rows {
            let of = pattern.row(row).iter().zip(pattern.entries(row));
            let of = of.map(|(&at, entry)| (at, means[entry], known(&variances.weights, entry)));
            all.push(of.filter(|weight| weight.1 != 0.0 || weight.2 != 0.0).collect());
        }
        let plain = weights.bias.as_ref().map(|bias| bias.to_f32()).unwrap_or_default();
        let mut bias: Vec<[f32; 2]> =
            (0..rows).map(|row| [known(&plain, row), known(&variances.bias, row)]).collect();
        let pairs: Rows =
            all.iter().map(|row| row.iter().map(|&(at, w, _)| (at, w)).collect()).collect();
        let auto = self.options.kernel == KernelChoice::Auto;
        // A row of all columns has three sums to close, while pairs of means and variances are read from here and there
        // at little more than means alone.
        let few = both && 2 * pairs.iter().map(Vec::len).sum::<usize>() < rows * columns;
        let dense = self.options.kernel == KernelChoice::Dense
            || auto && !few && cost::dense_vector(isa, &pairs, columns);
        let mut parts = cost::parts(isa, &pairs, None, lanes, 1, self.options);
        if let Some(pruned) = &variances.pruned {
            let columns = pruned.columns.iter().enumerate();
            all.push(columns.map(|(column, &s)| (column as u32, 0.0, s)).collect());
            bias.push([0.0; 2]);
            parts.push(rows..rows + 1);
        }
        let part = |part: Range<usize>| {
            let bias = bias[part.clone()].to_vec();
            MomentRows::new(isa, columns, &all[part], bias, [dense, lanes > 1])
        };
        let parts = parts.into_iter().map(part).collect::<Option<Vec<_>>>()?;
        let sums = room..room + SUMS * all.len();
        let by_pairs = both && parts.iter().any(|part| part.by_pairs(1));
        let pairs = sums.end..sums.end + if by_pairs { 2 * columns } else { 0 };
        *scratch = (*scratch).max(pairs.end - room);
        let pruned = variances.pruned.as_ref().map(|pruned| pruned.rows.clone());
        debug_assert!(step.inputs.len() == 1, "nothing is added to a linear layer");
        Some(Linear { layer, parts, both, sums, pairs, pruned, units: None, difference: None })
    }
}

/// Whether a step is a linear layer and nothing more.
pub(super) fn is_plain(step: &Step) -> bool {
    matches!(step.kind, StepKind::Linear(_)) && step.inputs.len() == 1
}

/// Lets linear layers behind others know what the units between have in common.
pub(super) fn join(build: &Build<'_>, steps: &mut [UncertainStep], scratch: &mut usize) {
    let mut usual = None;
    for at in 0..steps.len() {
        let (here, later) = steps[at..].split_at(1);
        let layers = match (&here[0].rule, later.first().map(|next| &next.rule)) {
            (Rule::Linear(first), Some(Rule::Linear(second))) if first.both => {
                Some((first.layer, second.layer))
            }
            _ => None,
        };
        let layer = match &here[0].rule {
            Rule::Linear(linear) => Some(linear.layer),
            Rule::Product(product) => Some(product.layer),
            Rule::Blocks(blocks) => Some(blocks.layer()),
            _ => None,
        };
        if let Some(layers) = layers.filter(|_| is_read_by_next(&steps[at..])) {
            let mut units = Units::new(build, layers, usual.as_deref(), scratch);
            if let Some(units) = units.as_mut().filter(|_| at + 2 == steps.len()) {
                let inputs = build.model.weights[layers.0].pattern.cols();
                units.inputs = Some(take(scratch, inputs));
            }
            let difference = units.as_ref().map(|units| units.difference.clone());
            if let Rule::Linear(first) = &mut steps[at].rule {
                first.units = units;
            }
            if let Rule::Linear(second) = &mut steps[at + 1].rule {
                second.difference = difference;
            }
        }
        if let Some(layer) = layer {
            usual = Some(own_variances(build, layer));
        }
    }
}

/// What each row's weights vary by together.
fn own_variances(build: &Build<'_>, layer: usize) -> Vec<f32> {
    let (pattern, variances) =
        (&build.model.weights[layer].pattern, &build.variances.layers[layer]);
    let row = |row: usize| {
        variances.weights.get(pattern.entries(row)).map_or(0.0, |own| own.iter().sum())
    };
    (0..pattern.rows()).map(row).collect()
}

impl Units {
    /// Of two layers whose inputs were made by one with rows of such variances; `None` if it costs too much.
    fn new(
        build: &Build<'_>,
        (first, second): (usize, usize),
        usual: Option<&[f32]>,
        scratch: &mut usize,
    ) -> Option<Self> {
        let weights = &build.model.weights;
        let inputs = weights[first].pattern.cols();
        let [first, second] = [first, second].map(|layer| entries(&weights[layer]));
        let all = first.iter().chain(&second).map(Vec::len).sum::<usize>();
        if SquaredSums::products(&second, &first) > MOST_PRODUCTS * all {
            return None;
        }
        // Maps are flattened channel by channel.
        let usual = match usual {
            Some(rows) if !rows.is_empty() && inputs.is_multiple_of(rows.len()) => {
                (0..inputs).map(|at| rows[at / (inputs / rows.len())]).collect()
            }
            _ => vec![1.0; inputs],
        };
        let layers = SquaredSums::new(&second, &first, &usual);
        let [gates, inherited] = [0, 1].map(|_| take(scratch, first.len()));
        let difference = take(scratch, second.len());
        // Rows of vectors begin where lines of the cache do.
        *scratch = scratch.next_multiple_of(MAX_LANES);
        let scratch = take(scratch, layers.scratch());
        Some(Self { layers, gates, inherited, difference, scratch, inputs: None })
    }
}

impl Linear {
    /// Runs the layer, without its activation, on means and variances.
    pub(super) fn run(
        &self,
        panel: Panel<'_>,
        (step, then): (&Step, Option<Activation>),
        (means, variances): (&mut [f32], &mut [f32]),
    ) {
        let Panel { isa, lanes, .. } = panel;
        let team = panel.team.filter(|_| cost::worth_workers(step.cost, lanes));
        let (input, output) = (&step.inputs[0].0, &step.output.0);
        let [into, sums] = [doubled(output), self.sums.clone()].map(|range| floats(&range, lanes));
        let d = floats(&doubled(input), lanes);
        let m = &means[floats(input, lanes)];
        let by_pairs = self.both && self.parts.iter().any(|part| part.by_pairs(lanes));
        if by_pairs {
            let ([v], y) = memory::borrow(variances, [d.clone()], self.pairs.clone());
            pairs(isa, (m, v), y);
        }
        let ([v, pairs], y) =
            memory::borrow(variances, [d.clone(), floats(&self.pairs, lanes)], sums.clone());
        let x = match (self.both, by_pairs) {
            (false, _) => Inputs::Known(m),
            (true, false) => Inputs::Random(m, v),
            (true, true) => Inputs::Pairs(pairs),
        };
        let rows = |part: usize| self.parts[part].rows();
        in_parts(self.parts.len(), &rows, [(y, SUMS * lanes)], team, &|part, _, [y]| {
            self.parts[part].run(isa, x, y, lanes);
        });
        let ([sums], v) = memory::borrow(variances, [sums], into.clone());
        let m = &mut means[floats(output, lanes)];
        self.gather(sums, (m, v), lanes);
        if let Some(range) = &self.difference {
            let ([difference], v) = memory::borrow(variances, [floats(range, lanes)], into.clone());
            let both = v.iter_mut().zip(difference);
            both.for_each(|(v, difference)| *v = (*v + difference).max(0.0));
        }
        if let Some(units) = &self.units {
            let inherited = self.inherited().map(|range| floats(&range, lanes));
            let both = units.gates.start..units.inherited.end;
            let ([v, sums], to) =
                memory::borrow(variances, [into, floats(&self.sums, lanes)], floats(&both, lanes));
            let (gates, own) = to.split_at_mut(units.gates.len() * lanes);
            let mut first = 0;
            for range in inherited {
                let c = &sums[range];
                let at = first..first + c.len();
                first = at.end;
                own[at].copy_from_slice(c);
            }
            isa.run(Gates { then, m: &means[floats(output, lanes)], v, gates, own });
            if let Some(inputs) = &units.inputs {
                let ([d], kept) = memory::borrow(variances, [d.clone()], floats(inputs, lanes));
                kept.copy_from_slice(&d[..kept.len()]);
            }
            let reads = [floats(&units.gates, lanes), floats(&units.inherited, lanes), d];
            let writes = [&units.difference, &units.scratch].map(|range| floats(range, lanes));
            let ([gates, own, d], [y, scratch]) = memory::borrow_two(variances, reads, writes);
            y.fill(0.0);
            units.layers.add(isa, (gates, own, d), (y, scratch), lanes);
        }
    }

    /// Rows of the layer in each part.
    fn parts(&self) -> impl Iterator<Item = usize> + '_ {
        let own = self.parts.len() - usize::from(self.pruned.is_some());
        self.parts[..own].iter().map(MomentRows::rows)
    }

    /// Where inherited variances are among the sums, in positions.
    fn inherited(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.parts().scan(0, |first, rows| {
            let start = *first + rows;
            *first += SUMS * rows;
            Some(start..start + rows)
        })
    }

    /// Means and variances from all sums.
    fn gather(&self, sums: &[f32], (m, v): (&mut [f32], &mut [f32]), lanes: usize) {
        let (mut at, mut row) = (0, 0);
        for rows in self.parts() {
            let count = rows * lanes;
            let [mean, inherited, own] = [0, 1, 2].map(|sum| &sums[at + sum * count..][..count]);
            m[row..row + count].copy_from_slice(mean);
            let both = inherited.iter().zip(own);
            v[row..row + count].iter_mut().zip(both).for_each(|(v, (a, b))| *v = a + b);
            at += SUMS * count;
            row += count;
        }
        if let Some(factors) = &self.pruned {
            let sum = &sums[at + 2 * lanes..][..lanes];
            for (v, factor) in v.chunks_exact_mut(lanes).zip(factors) {
                v.iter_mut().zip(sum).for_each(|(v, sum)| *v += factor * sum);
            }
        }
    }
}

/// The mean slopes of an activation, and what passes through it of inherited variances.
struct Gates<'a> {
    then: Option<Activation>,
    m: &'a [f32],
    v: &'a [f32],
    gates: &'a mut [f32],
    own: &'a mut [f32],
}

impl Kernel for Gates<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { then, m, v, gates, own } = self;
        let each = gates.iter_mut().zip(own).zip(m.iter().zip(v));
        macro_rules! all {
            ($x:ident => $slope:expr) => {
                for ((gate, own), (m, v)) in each {
                    let $x = (*m, *v);
                    *gate = $slope;
                    *own *= *gate * *gate;
                }
            };
        }
        match then {
            None => all!(_x => 1.0),
            Some(Activation::Relu) => all!(x => slope::<V>(Activation::Relu, x)),
            Some(other) => all!(x => slope::<V>(other, x)),
        }
    }
}
