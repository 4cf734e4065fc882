//! The end of an epoch: what is settled, measured and decided then.

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::magnitude;
use super::pass::Pass;
use super::recipe::{Config, Method};
use super::trainer::{Progress, Trainer};
use super::weights::Weights;
use crate::posterior::log_alpha;
use crate::prune::Histogram;

/// An epoch in numbers, one line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Epoch {
    /// Epochs done.
    pub epoch: u32,
    /// Mean negative log likelihood over the epoch's steps, in nats, with noise.
    pub nll: f64,
    /// Share of errors over the epoch's steps, with noise; in regression the mean square.
    pub error: f64,
    /// KL from the prior, in nats; in L0 regularization the expected number of weights left.
    pub kl: f64,
    /// The KL's weight in the last step.
    pub kl_weight: f64,
    /// Share of pruned weights of each layer, in percent.
    pub sparsity: Vec<(String, f64)>,
    /// All weights over those kept.
    pub weight_ratio: f64,
    /// The same of the pruned network on the validation split, without noise.
    pub validation_error: Option<f64>,
    /// Its mean negative log likelihood there, in nats.
    pub validation_nll: Option<f64>,
    /// Weights by log alpha: below -20, in 80 bins of 0.5, and at 20 or more; without a posterior there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_alpha: Vec<u64>,
    /// Whether the checkpoint of this epoch is to be kept: always, unless the training waits for a
    /// better bound and this one is not.
    #[serde(skip)]
    pub keep: bool,
}

impl Trainer {
    /// The numbers of the epoch whose last step is done, and on to the next.
    pub(super) fn end_epoch(
        &mut self,
        kl_weight: f64,
        data: &Dataset,
        validation: &Dataset,
    ) -> Epoch {
        let Progress { epoch, nll, errors, .. } = self.progress;
        let samples = data.len();
        self.progress =
            Progress { epoch: epoch + 1, step: 0, nll: 0.0, errors: 0.0, ..self.progress };
        if self.config.method == Method::Magnitude {
            magnitude::cut(&self.config, &mut self.net.weights, f64::from(epoch + 1));
        }
        self.settle(data);
        let mut numbers = Epoch {
            epoch: epoch + 1,
            nll: nll / samples as f64,
            error: errors / samples as f64,
            kl: self.kl(),
            kl_weight,
            sparsity: Vec::new(),
            weight_ratio: 0.0,
            validation_error: None,
            validation_nll: None,
            log_alpha: self.log_alpha().counts,
            keep: true,
        };
        let (mut total, mut kept) = (0, 0);
        for (name, left, all) in self.kept() {
            (total, kept) = (total + all, kept + left);
            numbers.sparsity.push((name.into(), 100.0 * (all - left) as f64 / all as f64));
        }
        numbers.weight_ratio = total as f64 / kept.max(1) as f64;
        if !validation.is_empty() {
            let (outcome, samples) = (self.evaluate(validation), validation.len() as f64);
            numbers.validation_error = Some(outcome.errors / samples);
            numbers.validation_nll = Some(outcome.nll / samples);
        }
        self.judge(&mut numbers, samples);
        self.steer(&numbers);
        self.history.push(numbers.clone());
        numbers
    }

    /// What the KL's weight multiplies: the KL of all weights, or the expected number left by gates.
    fn kl(&self) -> f64 {
        let weights = self.net.weights.iter();
        match self.config.method {
            Method::Svdo => weights.map(|weights| weights.kl(self.config.kl)).sum(),
            Method::HardConcrete => weights.map(Weights::expected_kept).sum(),
            _ => 0.0,
        }
    }

    /// How many weights have which log alpha, none without a posterior.
    fn log_alpha(&self) -> Histogram {
        let mut histogram = Histogram::default();
        if self.config.posterior() {
            let mut count =
                |theta: f64, log: f64| histogram.add(log_alpha(theta as f32, log as f32));
            self.net.weights.iter().for_each(|weights| weights.for_each(&mut count));
        }
        histogram
    }

    /// The end of an epoch: averages its parameters if they are to be, and settles those of the last.
    fn settle(&mut self, data: &Dataset) {
        let Progress { epoch, .. } = self.progress;
        let Config { epochs, average, recalibrate, .. } = self.config;
        if epoch + average > epochs {
            self.average.get_or_insert_default().add(&mut self.net);
            self.progress.averaged += 1;
        }
        if epoch < epochs {
            return;
        }
        if let Some(average) = self.average.take() {
            average.replace(&mut self.net);
            self.progress.averaged = 0;
        }
        if recalibrate {
            self.recalibrate(data);
        }
    }

    /// Measures batch normalization's statistics again, in the pruned network without noise: the mean
    /// over the batches of all samples. A unit that pruning has made a constant keeps its variance:
    /// folded by one of zero, its noise would be hundreds of times what it was.
    fn recalibrate(&mut self, data: &Dataset) {
        let (theta, size) = (self.pruned(), self.net.batch());
        let before: Vec<_> = self.net.norms.iter().map(|norm| norm.variance.clone()).collect();
        for (index, first) in (0..data.len()).step_by(size).enumerate() {
            let batch = size.min(data.len() - first);
            self.gather(data, first..first + batch);
            let statistics = Some(1.0 / (index + 1) as f64);
            self.net.forward(Pass { statistics, ..Pass::plain(self.isa) }, Some(&theta), batch);
        }
        for (norm, before) in self.net.norms.iter_mut().zip(before) {
            norm.keep_scale_of_constants(&before);
        }
    }

    /// Turns the KL's weight up or down for the next epoch, if a sparsity is to be reached: by how the
    /// share of weights left would stand to the one that is planned, a few epochs on as in the last.
    fn steer(&mut self, epoch: &Epoch) {
        const AHEAD: f64 = 3.0;
        const GAIN: f64 = 0.3;
        let Some(target) = self.config.sparsity_goal.filter(|_| self.config.penalized()) else {
            return;
        };
        let ramp = self.config.ramp_at(epoch.epoch.into());
        if ramp == 0.0 {
            return;
        }
        let left = |ratio: f64| -libm::log(ratio.max(1.0));
        let now = left(epoch.weight_ratio);
        let before = self.history.last().map_or(now, |last| left(last.weight_ratio));
        let planned = ramp * libm::log1p(-target / 100.0);
        let off = now + AHEAD * (now - before) - planned;
        let factor = &mut self.progress.kl_log_factor;
        *factor = (*factor + GAIN * off.clamp(-1.0, 1.0)).clamp(-7.0, 7.0);
    }

    /// Early stopping: the bound that training lowers, `N NLL + w KL`, with the likelihood of samples
    /// held out, is to fall. Errors alone would stop long before the weights are sparse.
    fn judge(&mut self, epoch: &mut Epoch, samples: usize) {
        let (Some(_), Some(nll)) = (self.config.patience, epoch.validation_nll) else { return };
        let full = self.config.kl_scale * libm::exp(self.progress.kl_log_factor);
        let pruning = self.config.method == Method::Magnitude
            && self.config.ramp_at(epoch.epoch.into()) < 1.0;
        if pruning || self.config.penalized() && epoch.kl_weight < full {
            return;
        }
        let bound = samples as f64 * nll + epoch.kl_weight * epoch.kl;
        epoch.keep = self.progress.best.is_none_or(|best| bound < best);
        if epoch.keep {
            (self.progress.best, self.progress.waited) = (Some(bound), 0);
        } else {
            self.progress.waited += 1;
        }
    }
}
