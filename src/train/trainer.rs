//! The loop over steps and epochs.

use serde::{Deserialize, Serialize};

use super::aligned_buffer::Buffer;
use super::average::Average;
use super::dataset::{Batch, Dataset, targets};
pub use super::epoch::Epoch;
use super::loss::Objective;
pub use super::loss::Outcome;
use super::magnitude;
use super::net::Net;
use super::noise::shuffled;
use super::optimizer::{Optimizer, Update};
use super::pass::{MOMENTUM, Pass, SPARSE};
use super::recipe::{Config, Task};
use super::vector::Isa;
use crate::error::{Error, Result};
use crate::network::Network;

/// A training under way.
pub struct Trainer {
    /// What is trained.
    pub network: Network,
    /// How.
    pub config: Config,
    /// The parameters and working memory.
    pub(crate) net: Net<f32>,
    /// How far it is.
    pub progress: Progress,
    /// The epochs so far.
    pub history: Vec<Epoch>,
    /// Names of the classes, where the data has them; a checkpoint keeps them.
    pub classes: Vec<String>,
    /// Over the last epochs, as soon as there is one of them.
    pub(crate) average: Option<Average>,
    /// Whom it learns from beside the labels.
    teacher: Option<Box<Trainer>>,
    /// Its pruned means, where it is itself a teacher.
    lesson: Option<Vec<Buffer<f32>>>,
    pub(super) isa: Isa,
    order: Vec<u32>,
    labels: Vec<u32>,
    targets: Vec<f32>,
    weights: Vec<f32>,
}

/// How far a training is. The next step is `step` of `epoch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the next one.
    pub step: u32,
    /// Steps done of all.
    pub count: u64,
    /// Sum of negative log likelihoods of this epoch's steps, with noise.
    pub nll: f64,
    /// Errors of this epoch's steps, with noise.
    pub errors: f64,
    /// The best bound on the validation split since the KL has its full weight, where the training
    /// waits for one.
    pub best: Option<f64>,
    /// Epochs since.
    pub waited: u32,
    /// Logarithm of what the KL's weight is multiplied by to reach a sparsity in time.
    #[serde(default)]
    pub kl_log_factor: f64,
    /// Epochs whose parameters are averaged so far.
    #[serde(default)]
    pub averaged: u32,
}

impl Trainer {
    /// A training from its beginning.
    ///
    /// # Errors
    /// If the network cannot be trained or a setting makes no sense.
    pub fn new(network: Network, config: Config) -> Result<Self> {
        config.check()?;
        let isa = Isa::best();
        let mut net = Net::new(&network, &config)?;
        net.initialize(isa, config.seed);
        let progress = Progress::default();
        Ok(Self {
            network,
            config,
            net,
            progress,
            history: Vec::new(),
            classes: Vec::new(),
            average: None,
            teacher: None,
            lesson: None,
            isa,
            order: Vec::new(),
            labels: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
        })
    }

    /// Whom to learn from, by the share and temperature of [`Config::distillation`].
    ///
    /// # Errors
    /// If the teacher's network does not take the same samples or tells other classes apart.
    pub fn learn_from(&mut self, teacher: Self) -> Result<()> {
        let shapes = |of: &Self| -> Result<_> {
            Ok((of.network.input.clone(), of.network.output_shape_of_all()?))
        };
        if shapes(self)? != shapes(&teacher)? || !teacher.net.reads_as(&self.net) {
            return Err(Error::network(
                "the teacher has to take the same input, scaled and laid out the same, and to give as \
                 many outputs",
            ));
        }
        self.teacher = Some(Box::new(teacher));
        Ok(())
    }

    /// For weights that began as a checkpoint's, into which batch normalization is folded: here it begins
    /// as the identity, by the statistics of some samples, so that the network is the checkpoint's; if
    /// `pruned`, as pruning leaves it, which is to be where the variances are the checkpoint's, too: the
    /// means of a unit whose weights were all pruned say nothing of its scale.
    pub fn init_bn_identity(&mut self, data: &Dataset, pruned: bool) {
        let batch = self.config.batch.min(data.len());
        self.gather(data, 0..batch);
        let theta = pruned.then(|| self.pruned());
        self.net.init_bn_identity(self.isa, theta.as_deref(), batch);
    }

    /// Steps of an epoch: every sample once, the last batch may be smaller.
    pub fn steps(&self, data: &Dataset) -> u32 {
        data.len().div_ceil(self.config.batch) as u32
    }

    /// Whether all epochs are done.
    pub fn is_done(&self) -> bool {
        self.progress.epoch >= self.config.epochs
            || self.config.patience.is_some_and(|most| self.progress.waited >= most)
    }

    /// Fills the network's input with samples, and what they are to give.
    pub(super) fn gather(&mut self, data: &Dataset, indices: impl Iterator<Item = usize>) {
        let row = self.net.row();
        let (labels, targets, weights) = (&mut self.labels, &mut self.targets, &mut self.weights);
        let mut batch = Batch { rows: &mut self.net.input, row, labels, targets, weights };
        data.gather(indices, &mut batch);
    }

    /// One step; at the end of an epoch its numbers come back.
    ///
    /// # Errors
    /// If the loss or a weight is not finite, with the layer and the step.
    pub fn step(&mut self, data: &Dataset, validation: &Dataset) -> Result<Option<Epoch>> {
        let (steps, config) = (self.steps(data), &self.config);
        if steps == 0 {
            return Err(Error::data("there is no training data left beside the validation split"));
        }
        if data.has_classes() != (config.task == Task::Classes) {
            return Err(Error::data(format!(
                "the samples have {}, which is not what the task {:?} is about",
                if data.has_classes() { "a class each" } else { "numbers to give" },
                config.task
            )));
        }
        let Progress { epoch, step, .. } = self.progress;
        if step >= steps {
            return Err(Error::data(format!(
                "the state stands at step {step} of an epoch, this data has {steps}: is it the data \
                 that the training began with?"
            )));
        }
        if self.order.len() != data.len() || step == 0 {
            self.order = shuffled(config.seed, epoch, data.len());
        }
        let first = step as usize * config.batch;
        let batch = config.batch.min(data.len() - first);
        let indices = self.order[first..first + batch].iter().map(|i| *i as usize);
        let row = self.net.row();
        let (labels, targets, weights) = (&mut self.labels, &mut self.targets, &mut self.weights);
        let mut samples = Batch { rows: &mut self.net.input, row, labels, targets, weights };
        data.gather(indices.clone(), &mut samples);
        if config.augmentation.changes() {
            let moment = [config.seed, epoch.into()];
            samples.augment(config.augmentation, data.image(), moment, indices);
        }

        if magnitude::is_due(config, self.progress.count) {
            let epochs = f64::from(epoch) + f64::from(step) / f64::from(steps);
            magnitude::cut(config, &mut self.net.weights, epochs);
        }
        let update = self.update(data.len(), steps);
        let outcome = self.descend(&update, batch, data.len())?;
        self.progress.nll += outcome.nll;
        self.progress.errors += outcome.errors;
        self.progress.step += 1;
        self.progress.count += 1;
        if self.progress.step < steps {
            return Ok(None);
        }
        Ok(Some(self.end_epoch(update.kl_weight, data, validation)))
    }

    /// Rates, weight of the KL and optimizer of the next step.
    fn update(&self, samples: usize, steps: u32) -> Update {
        let (Progress { epoch, step, count, .. }, config) = (self.progress, &self.config);
        let epochs = f64::from(epoch) + f64::from(step) / f64::from(steps);
        let factor = config.rate_at(epochs / f64::from(config.epochs));
        let (optimizer, rate) = match config.momentum {
            Some(momentum) => (Optimizer::Nesterov { momentum }, config.rate / samples as f64),
            None => (Optimizer::Adam { beta1: 0.9, beta2: 0.999 }, config.rate),
        };
        Update {
            rate: rate * factor,
            log_sigma2_rate: rate * config.log_sigma2_rate * factor,
            kl_weight: config.kl_at(epochs) * libm::exp(self.progress.kl_log_factor),
            optimizer,
            count: count + 1,
            clip: config.clip.map_or(f64::INFINITY, |most| most * samples as f64),
            posterior: config.posterior().then_some(config.kl),
        }
    }

    /// A forward and a backward pass of the batch that the network's input holds.
    fn descend(&mut self, update: &Update, batch: usize, samples: usize) -> Result<Outcome> {
        let (Progress { epoch, count, .. }, config) = (self.progress, &self.config);
        let (isa, seed, sampled) = (self.isa, config.seed, config.posterior());
        let (training, statistics, sparse) = (true, Some(MOMENTUM), SPARSE);
        let pass = Pass { isa, seed, step: count as u32, sampled, training, statistics, sparse };
        self.net.draw_gates(pass);
        self.net.forward(pass, None, batch);
        let taught = config.distillation.zip(self.teacher.as_mut());
        let teacher = taught.map(|(how, teacher)| (teacher.teach(&self.net.input, batch), how));
        let label_smoothing = config.label_smoothing;
        let weights = &self.weights;
        let objective = Objective { label_smoothing, teacher, weights, ..Objective::plain(config) };
        let targets = targets(&self.labels, &self.targets);
        let outcome = self.net.loss(&objective, targets, samples as f64 / batch as f64);
        let diverged = |layer: String| Error::Data {
            problem: format!(
                "the training diverged in step {} (epoch {epoch}): {layer} is no longer finite; \
                 lower --rate or --log-sigma2-rate, or lengthen --kl-ramp",
                count + 1
            ),
        };
        if !outcome.nll.is_finite() {
            return Err(diverged("the loss".into()));
        }
        self.net
            .backward(pass, update, batch)
            .map_err(|layer| diverged(format!("layer {layer}")))?;
        Ok(outcome)
    }

    /// The logits of the pruned network for a batch.
    fn teach(&mut self, rows: &[f32], batch: usize) -> &[f32] {
        let wide = self.net.row();
        let theta = self.lesson.take().unwrap_or_else(|| self.pruned());
        self.net.input[..batch * wide].copy_from_slice(&rows[..batch * wide]);
        self.net.forward(Pass::plain(self.isa), Some(&theta), batch);
        self.lesson = Some(theta);
        self.net.output()
    }

    /// One for each weight that is kept.
    fn masks(&self) -> Vec<Buffer<f32>> {
        self.net.weights.iter().map(|w| w.kept(self.threshold())).collect()
    }

    /// Means, zero where pruned.
    pub(super) fn pruned(&self) -> Vec<Buffer<f32>> {
        let mut theta = self.masks();
        for (theta, weights) in theta.iter_mut().zip(&self.net.weights) {
            theta.iter_mut().zip(weights.theta.iter()).for_each(|(m, t)| *m *= t);
        }
        theta
    }

    /// Each layer's name, how many of its weights pruning keeps, and of how many.
    pub fn kept(&self) -> Vec<(&str, usize, usize)> {
        let all = self.net.weights.iter().zip(self.masks());
        let count = |mask: &Buffer<f32>| mask.iter().filter(|m| **m != 0.0).count();
        all.map(|(w, mask)| (&w.name[..], count(&mask), w.outputs * w.inputs)).collect()
    }

    /// What counts as pruned has a log alpha above it; without a posterior only zeros do.
    fn threshold(&self) -> f64 {
        if self.config.posterior() { self.config.thresh } else { f64::INFINITY }
    }

    /// The outputs of the first batch under the noise of a step, a row for each sample without gaps.
    #[cfg(feature = "cli")]
    pub(crate) fn sampled(&mut self, data: &Dataset, step: u32) -> Vec<f64> {
        let batch = self.net.batch().min(data.len());
        self.gather(data, 0..batch);
        let pass = Pass { seed: self.config.seed, step, sampled: true, ..Pass::plain(self.isa) };
        self.net.forward(pass, None, batch);
        self.net.rows(batch)
    }

    /// Loss and errors of the pruned network without noise.
    pub fn evaluate(&mut self, data: &Dataset) -> Outcome {
        let theta = self.pruned();
        let mut total = Outcome::default();
        let (size, objective) = (self.net.batch(), Objective::plain(&self.config));
        for first in (0..data.len()).step_by(size) {
            let batch = size.min(data.len() - first);
            self.gather(data, first..first + batch);
            self.net.forward(Pass::plain(self.isa), Some(&theta), batch);
            let targets = targets(&self.labels, &self.targets);
            let outcome = self.net.loss(&objective, targets, 1.0);
            total.nll += outcome.nll;
            total.errors += outcome.errors;
        }
        total
    }
}
