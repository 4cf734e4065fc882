//! Levels under the rate of the adaptive coder: what it would spend on each, there and then.

use std::sync::LazyLock;

use crate::entropy::adaptive::{Context, Models};
use crate::entropy::code_columns;
use crate::entropy::range_coder::{AdaptiveBit, BitCoder, DryRunCoder};
use crate::entropy::spec::Geometry;
use crate::model::{Scale, Values};
use crate::prune::PrunedLayer;
use crate::quantize::RateDistortion;
use crate::quantize::calibrate::Fit;
use crate::quantize::gap_rate;
use crate::quantize::rate_distortion::is_adaptive;
use crate::quantize::reconstruction::{ReconstructionLevels, even_level, even_value};

/// Times the weights are gone through; the models begin each with what they learned before.
const PASSES: usize = 3;

impl RateDistortion {
    /// The levels of a layer, and of a bias that is fitted.
    pub(super) fn levels(
        &self,
        layer: &PrunedLayer,
        geometry: Geometry,
        scale: Scale,
        mut bias: Option<&mut Values>,
        mut distortion: Distortion<'_>,
    ) -> Vec<i32> {
        let reconstruction = ReconstructionLevels::new(scale);
        let weights = layer.weights.data().iter();
        let mut levels: Vec<i32> = weights.map(|&v| reconstruction.nearest(v)).collect();
        let mut learned = None;
        for _ in 0..PASSES {
            let (bias, distortion) = (bias.as_deref_mut(), &mut distortion);
            let coding = Coding { geometry, reconstruction: &reconstruction, costs: &COSTS };
            learned = Some(self.pass(layer, &coding, &mut levels, bias, distortion, learned));
        }
        levels
    }

    /// Goes through the weights once, with models that may have learned from a pass before.
    fn pass(
        &self,
        layer: &PrunedLayer,
        &Coding { geometry, reconstruction, costs }: &Coding<'_>,
        levels: &mut [i32],
        mut bias: Option<&mut Values>,
        distortion: &mut Distortion<'_>,
        learned: Option<Models>,
    ) -> Models {
        let matrix = &layer.weights;
        let starts = matrix.indptr();
        let starts = starts.raw_storage();
        let columns_of = |row: usize| &matrix.indices()[starts[row]..starts[row + 1]];
        let mut used = vec![false; matrix.cols()];
        for (&column, &level) in matrix.indices().iter().zip(&*levels) {
            used[column as usize] |= level != 0;
        }
        let columns = code_columns(&mut DryRunCoder, geometry, &mut used);
        let models = learned.unwrap_or_else(|| {
            let kept = levels.iter().filter(|level| **level != 0).count();
            Models::new(matrix.rows() * columns.len(), kept)
        });
        let mut context = Context::new(geometry, columns, models);
        let mut first = 0;
        for (number, row) in matrix.outer_iterator().enumerate() {
            context.next_row();
            let entries = first..first + row.nnz();
            let exact = &matrix.data()[entries.clone()];
            if let Distortion::Outputs(fit) = distortion {
                let values = levels[entries.clone()].iter().map(|&l| reconstruction.dequantize(l));
                let weights = exact.iter().map(|&w| f64::from(w)).zip(values);
                let bias = layer.bias.as_ref().zip(bias.as_deref());
                let bias =
                    bias.map(|(exact, now)| (f64::from(exact[number]), even_value(now, number)));
                fit.begin(number, columns_of, weights, bias);
            }
            let mut at = 0;
            for (k, (&column, entry)) in row.indices().iter().zip(entries).enumerate() {
                if !used[column as usize] {
                    levels[entry] = 0;
                    if let Distortion::Outputs(fit) = distortion {
                        fit.set(k, 0.0);
                    }
                    continue;
                }
                while context.columns()[at] < column {
                    let absent = context.predict(at);
                    context.learn(absent, false);
                    at += 1;
                }
                let (target, sensitivity) = match distortion {
                    Distortion::Weights(sensitivity) => (f64::from(exact[k]), sensitivity[entry]),
                    Distortion::Outputs(fit) => fit.target(k),
                };
                let weight = Weight {
                    value: target.abs() / reconstruction.step(),
                    negative: target < 0.0,
                    sensitivity,
                };
                let there = context.predict(at);
                let size =
                    self.choose(&mut context, at, there.probability, reconstruction, costs, weight);
                context.learn(there, size > 0);
                levels[entry] = if target < 0.0 { -size } else { size };
                if size > 0 {
                    context.sign(&mut DryRunCoder, at, levels[entry] < 0);
                    context.magnitude(&mut DryRunCoder, at, size as u32);
                    context.place(at, levels[entry]);
                }
                if let Distortion::Outputs(fit) = distortion {
                    fit.set(k, reconstruction.dequantize(levels[entry]));
                }
                at += 1;
            }
            for at in at..context.columns().len() {
                let absent = context.predict(at);
                context.learn(absent, false);
            }
            if let (Distortion::Outputs(fit), Some(Values::Levels { scale, levels })) =
                (&mut *distortion, bias.as_deref_mut())
            {
                levels[number] = even_level(fit.target(row.nnz()).0, *scale);
            }
            first += row.nnz();
        }
        context.into_models()
    }

    /// Levels near the weights of a layer, of which those before were `levels`; `learned` is what a call
    /// before has learned of what bits cost.
    pub(super) fn choose_again(
        &self,
        layer: &PrunedLayer,
        geometry: Geometry,
        reconstruction: &ReconstructionLevels,
        sensitivity: Vec<f64>,
        levels: &mut Vec<i32>,
        learned: &mut Option<Models>,
    ) {
        if !is_adaptive(layer.weights.rows(), layer.weights.cols()) {
            let (step, lambda) = (reconstruction.step() as f32, self.lambda);
            *levels = gap_rate::levels(&layer.weights, reconstruction, step, lambda, &sensitivity);
            return;
        }
        let coding = Coding { geometry, reconstruction, costs: &COSTS };
        let mut distortion = Distortion::Weights(sensitivity);
        let models = self.pass(layer, &coding, levels, None, &mut distortion, learned.take());
        *learned = Some(models);
    }

    /// The magnitude to give a weight.
    fn choose(
        &self,
        context: &mut Context,
        at: usize,
        there: u16,
        reconstruction: &ReconstructionLevels,
        costs: &Costs,
        Weight { value, negative, sensitivity }: Weight,
    ) -> i32 {
        let cost = |error: f64, bits: f64| sensitivity * error * error + self.lambda * bits;
        let (mut best, mut least) = (0, cost(value, costs.of(there, false)));
        let below = reconstruction.below(value);
        let mut price = Price { costs, bits: costs.of(there, true) };
        context.sign(&mut price, at, negative);
        let without_magnitude = price.bits;
        for size in (below - 2).max(1)..=below + 1 {
            let Some(dequantize) = reconstruction.value(size) else { break };
            price.bits = without_magnitude;
            context.magnitude(&mut price, at, size as u32);
            let total = cost(value - dequantize, price.bits);
            if total < least {
                (best, least) = (size, total);
            }
        }
        best
    }
}

/// Adds up what bits would cost; models learn nothing from it.
struct Price<'a> {
    costs: &'a Costs,
    bits: f64,
}

impl BitCoder for Price<'_> {
    fn code(&mut self, probability: u16, bit: bool) -> bool {
        self.bits += self.costs.of(probability, bit);
        bit
    }

    fn bit(&mut self, model: &mut AdaptiveBit, bit: bool) -> bool {
        self.code(model.probability(), bit)
    }
}

/// How the levels of a layer are coded.
struct Coding<'a> {
    geometry: Geometry,
    reconstruction: &'a ReconstructionLevels,
    costs: &'a Costs,
}

/// What levels are to come close to.
pub(super) enum Distortion<'u> {
    /// The weights, with what a squared error of each counts.
    Weights(Vec<f64>),
    /// The outputs of the layer.
    Outputs(Box<Fit<'u>>),
}

/// A weight whose level is to be chosen.
struct Weight {
    /// Its magnitude in steps.
    value: f64,
    negative: bool,
    sensitivity: f64,
}

/// The bits that an event of some probability costs.
struct Costs(Vec<f64>);

static COSTS: LazyLock<Costs> = LazyLock::new(Costs::new);

impl Costs {
    fn new() -> Self {
        Self((0..4096).map(|i| -libm::log2((f64::from(i) + 0.5) / 4096.0)).collect())
    }

    fn of(&self, probability: u16, bit: bool) -> f64 {
        let at = usize::from(probability >> 4);
        self.0[if bit { at } else { 4095 - at }]
    }
}
