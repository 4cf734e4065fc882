//! What a batch costs: negative log likelihoods of the outputs, and their gradients.

use super::aligned_buffer::padded;
use super::config::{Config, Distillation, Task};
use super::vector::Real;

/// What a batch cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    /// Sum of negative log likelihoods, in nats; in training with what smoothing and a teacher add, and by the
    /// samples' weights.
    pub nll: f64,
    /// Samples whose largest output is not their label's (NaN counts as an error). With several labels
    /// the sum of shares of wrong ones, in regression that of mean squared errors.
    pub errors: f64,
}

/// What the samples of a batch are to give.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Targets<'a> {
    /// A class each.
    Classes(&'a [u32]),
    /// A number for each output of each, in rows without padding.
    Values(&'a [f32]),
}

/// How outputs are compared to targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Objective<'a> {
    pub task: Task,
    /// Of a target around the output, in regression.
    pub target_deviation: f64,
    /// Share of a label that is spread over all classes.
    pub label_smoothing: f64,
    /// A teacher's logits, in rows [`padded`], and their part in the loss.
    pub teacher: Option<(&'a [f32], Distillation)>,
    /// What each sample's likelihood is multiplied by; empty for 1.
    pub weights: &'a [f32],
}

impl Objective<'_> {
    /// The likelihood of one class for each sample.
    pub(crate) const CLASSES: Self = Self {
        task: Task::Classes,
        target_deviation: 1.0,
        label_smoothing: 0.0,
        teacher: None,
        weights: &[],
    };

    /// To measure by: nothing but the likelihood.
    pub(crate) fn plain(config: &Config) -> Self {
        let &Config { task, target_deviation, .. } = config;
        Self { task, target_deviation, ..Self::CLASSES }
    }

    /// The loss of a batch, and `scale` times its gradient by the outputs: `width` to a sample, rows
    /// [`padded`]. Computed in f64, sample after sample.
    pub(crate) fn loss<T: Real>(
        &self,
        outputs: &[T],
        width: usize,
        targets: Targets<'_>,
        scale: f64,
        gradient: &mut [T],
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut y, mut slopes) = (vec![0.0; width], vec![0.0; width]);
        let samples = match targets {
            Targets::Classes(labels) => labels.len(),
            Targets::Values(values) => values.len() / width.max(1),
        };
        for sample in 0..samples {
            let (at, mut own) = (sample * padded(width), Outcome::default());
            y.iter_mut().zip(&outputs[at..]).for_each(|(y, output)| *y = output.wide());
            match targets {
                Targets::Classes(labels) => {
                    self.class(&y, labels[sample] as usize, &mut slopes, &mut own);
                    if let Some((logits, how)) = self.teacher {
                        own.nll += distill(&y, &logits[at..], how, &mut slopes);
                    }
                }
                Targets::Values(values) => {
                    let values = &values[sample * width..][..width];
                    match self.task {
                        Task::Regression => self.normal(&y, values, &mut slopes, &mut own),
                        _ => self.sigmoids(&y, values, &mut slopes, &mut own),
                    }
                }
            }
            let weight = self.weights.get(sample).map_or(1.0, |weight| f64::from(*weight));
            outcome.nll += weight * own.nll;
            outcome.errors += own.errors;
            let (gradient, scale) = (gradient[at..at + width].iter_mut(), weight * scale);
            gradient.zip(&slopes).for_each(|(g, slope)| *g = T::of(scale * slope));
        }
        outcome
    }

    /// Cross-entropy of the softmax, times what a teacher leaves to labels.
    fn class(&self, y: &[f64], label: usize, slopes: &mut [f64], outcome: &mut Outcome) {
        let share = self.teacher.map_or(1.0, |(_, how)| 1.0 - how.share);
        let log_sum = softmax(y, 1.0, slopes);
        let (smoothing, classes) = (self.label_smoothing, y.len() as f64);
        let mut nll = log_sum - y[label];
        if smoothing > 0.0 {
            let spread = y.iter().map(|y| log_sum - y).sum::<f64>() / classes;
            nll += smoothing * (spread - nll);
        }
        outcome.nll += share * nll;
        let largest = y.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let first = y.iter().position(|y| *y >= largest);
        outcome.errors += f64::from(u8::from(log_sum.is_nan() || first != Some(label)));
        for (class, slope) in slopes.iter_mut().enumerate() {
            let own = f64::from(u8::from(class == label));
            *slope = share * (*slope - ((1.0 - smoothing) * own + smoothing / classes));
        }
    }

    /// Normal distributions of one deviation around the outputs.
    fn normal(&self, y: &[f64], values: &[f32], slopes: &mut [f64], outcome: &mut Outcome) {
        let deviation = self.target_deviation;
        let constant = libm::log(deviation) + 0.5 * libm::log(2.0 * std::f64::consts::PI);
        let mut squares = 0.0;
        for ((y, value), slope) in y.iter().zip(values).zip(slopes) {
            let off = y - f64::from(*value);
            squares += off * off;
            *slope = off / (deviation * deviation);
        }
        outcome.nll += 0.5 * squares / (deviation * deviation) + constant * y.len() as f64;
        outcome.errors += squares / y.len() as f64;
    }

    /// A sigmoid and its cross-entropy for each output.
    fn sigmoids(&self, y: &[f64], values: &[f32], slopes: &mut [f64], outcome: &mut Outcome) {
        let mut wrong = 0;
        for ((y, value), slope) in y.iter().zip(values).zip(slopes) {
            let own = f64::from(*value);
            let target = own + self.label_smoothing * (0.5 - own);
            // log(1 + e^y), which is y + log(1 + e^-y).
            let softplus = y.max(0.0) + libm::log1p(libm::exp(-y.abs()));
            outcome.nll += if y.is_nan() { f64::NAN } else { softplus - target * y };
            *slope = 1.0 / (1.0 + libm::exp(-y)) - target;
            wrong += usize::from(y.is_nan() || (*y > 0.0) != (own > 0.5));
        }
        outcome.errors += wrong as f64 / y.len() as f64;
    }
}

/// The softmax of `y / temperature`; the logarithm of its denominator comes back.
fn softmax(y: &[f64], temperature: f64, to: &mut [f64]) -> f64 {
    let largest = y.iter().copied().fold(f64::NEG_INFINITY, f64::max) / temperature;
    to.iter_mut().zip(y).for_each(|(p, y)| *p = libm::exp(y / temperature - largest));
    let sum: f64 = to.iter().sum();
    to.iter_mut().for_each(|p| *p /= sum);
    largest + libm::log(sum)
}

/// KL from the student's softened classes to the teacher's, times share and squared temperature; its
/// gradient joins `slopes`.
fn distill(y: &[f64], logits: &[f32], how: Distillation, slopes: &mut [f64]) -> f64 {
    let Distillation { share, temperature } = how;
    let logits: Vec<f64> = logits[..y.len()].iter().map(|l| f64::from(*l)).collect();
    let (mut student, mut teacher) = (vec![0.0; y.len()], vec![0.0; y.len()]);
    let (own, others) =
        (softmax(y, temperature, &mut student), softmax(&logits, temperature, &mut teacher));
    let mut kl = 0.0;
    for ((((y, l), p), q), slope) in y.iter().zip(&logits).zip(student).zip(teacher).zip(slopes) {
        kl += q * ((l - y) / temperature - others + own);
        *slope += share * temperature * (p - q);
    }
    share * temperature * temperature * kl
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Objective<'_> = Objective { target_deviation: 0.7, ..Objective::CLASSES };

    fn values() -> (Vec<f64>, Vec<f32>) {
        let wide = padded(3);
        let outputs = (0..2 * wide).map(|i| libm::sin(3.0 * i as f64)).collect();
        let logits = (0..2 * wide).map(|i| 2.0 * libm::cos(5.0 * i as f64) as f32).collect();
        (outputs, logits)
    }

    /// Every loss by finite differences.
    #[test]
    fn gradients_are_slopes() {
        let (outputs, logits) = values();
        let how = Distillation { share: 0.6, temperature: 3.0 };
        let targets = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0];
        let (classes, numbers) = (Targets::Classes(&[2, 0]), Targets::Values(&targets));
        let (several, regression) = (Task::MultiLabel, Task::Regression);
        for (objective, targets) in [
            (PLAIN, classes),
            (Objective { label_smoothing: 0.2, ..PLAIN }, classes),
            (Objective { teacher: Some((&logits, how)), ..PLAIN }, classes),
            (Objective { label_smoothing: 0.1, teacher: Some((&logits, how)), ..PLAIN }, classes),
            (Objective { task: several, label_smoothing: 0.1, ..PLAIN }, numbers),
            (Objective { task: regression, ..PLAIN }, numbers),
            (Objective { weights: &[0.25, 3.0], ..PLAIN }, classes),
            (Objective { task: regression, weights: &[0.0, 2.0], ..PLAIN }, numbers),
        ] {
            let mut gradient = vec![0.0; outputs.len()];
            let mut unused = gradient.clone();
            objective.loss(&outputs, 3, targets, 2.0, &mut gradient);
            for at in (0..outputs.len()).filter(|at| at % padded(3) < 3) {
                let mut nll = |by: f64| {
                    let mut moved = outputs.clone();
                    moved[at] += by;
                    objective.loss(&moved, 3, targets, 1.0, &mut unused).nll
                };
                let slope = 2.0 * (nll(1e-6) - nll(-1e-6)) / 2e-6;
                assert!((slope - gradient[at]).abs() < 1e-8, "{objective:?} {at}");
            }
        }
    }

    /// By the definitions, written another way.
    #[test]
    fn likelihoods_and_errors_are_those_of_the_definitions() {
        let wide = padded(2);
        let mut outputs = vec![0.0; 2 * wide];
        (outputs[0], outputs[1], outputs[wide], outputs[wide + 1]) = (1.0, -2.0, 0.5, 3.0);
        let mut gradient = outputs.clone();
        let mut loss = |objective: Objective<'_>, targets: Targets<'_>| {
            objective.loss(&outputs, 2, targets, 1.0, &mut gradient)
        };
        let softmax = |own: f64, other: f64| libm::log(1.0 + libm::exp(other - own));
        let Outcome { nll, errors } = loss(PLAIN, Targets::Classes(&[0, 0]));
        assert!((nll - softmax(1.0, -2.0) - softmax(0.5, 3.0)).abs() < 1e-14 && errors == 1.0);
        let several = Objective { task: Task::MultiLabel, ..PLAIN };
        let Outcome { nll, errors } = loss(several, Targets::Values(&[1.0, 0.0, 0.0, 0.0]));
        let sigmoid = |y: f64| 1.0 / (1.0 + libm::exp(-y));
        let by_hand = [sigmoid(1.0), 1.0 - sigmoid(-2.0), 1.0 - sigmoid(0.5), 1.0 - sigmoid(3.0)];
        let by_hand: f64 = by_hand.iter().map(|p| -libm::log(*p)).sum();
        assert!((nll - by_hand).abs() < 1e-14 && errors == 1.0);
        let regression = Objective { task: Task::Regression, ..PLAIN };
        let Outcome { nll, errors } = loss(regression, Targets::Values(&[0.0, 0.0, 0.5, 1.0]));
        let density = |off: f64| {
            libm::exp(-off * off / (2.0 * 0.49)) / libm::sqrt(2.0 * std::f64::consts::PI * 0.49)
        };
        let by_hand: f64 = [1.0, 2.0, 0.0, 2.0].iter().map(|off| -libm::log(density(*off))).sum();
        assert!((nll - by_hand).abs() < 1e-13 && errors == 0.5 * (1.0 + 4.0 + 4.0));
        // A teacher that says what the student says costs nothing.
        let logits: Vec<f32> = outputs.iter().map(|y| *y as f32).collect();
        let how = Distillation { share: 1.0, temperature: 2.0 };
        let taught = Objective { teacher: Some((&logits, how)), ..PLAIN };
        assert!(loss(taught, Targets::Classes(&[0, 1])).nll.abs() < 1e-15);
    }

    /// A sample of weight 2 is two samples, but one error.
    #[test]
    fn weights_count_samples() {
        let (outputs, _) = values();
        let wide = padded(3);
        let twice = [&outputs[..], &outputs[wide..]].concat();
        let mut slopes = vec![0.0; 3 * wide];
        let mut loss = |outputs: &[f64], labels: &[u32], weights: &[f32]| {
            let objective = Objective { weights, ..PLAIN };
            objective.loss(outputs, 3, Targets::Classes(labels), 1.0, &mut slopes)
        };
        let (weighted, each) =
            (loss(&outputs, &[0, 1], &[1.0, 2.0]), loss(&twice, &[0, 1, 1], &[]));
        assert!((weighted.nll - each.nll).abs() < 1e-14);
        assert_eq!(weighted.errors, loss(&outputs, &[0, 1], &[]).errors);
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        let mut outputs = vec![0.0; padded(2)];
        outputs[1] = f64::NAN;
        let mut gradient = outputs.clone();
        for (task, targets) in [
            (Task::Classes, Targets::Classes(&[0])),
            (Task::MultiLabel, Targets::Values(&[0.0, 0.0])),
            (Task::Regression, Targets::Values(&[0.0, 0.0])),
        ] {
            let objective = Objective { task, ..PLAIN };
            let Outcome { nll, errors } = objective.loss(&outputs, 2, targets, 1.0, &mut gradient);
            assert!(nll.is_nan() && errors != 0.0, "{task:?}");
        }
    }
}
