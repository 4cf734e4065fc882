//! The wishes that a workflow begins with, one after the other.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::encode::Settings;
use super::search::Goal;
use super::thresholds::Threshold;
use super::validate::Samples;
use super::workflow::{Done, Requirement, Wishes};
use crate::checkpoint::Checkpoint;
use crate::engine::Isa;
use crate::error::Result;
use crate::progress::Observer;
use crate::quantize::Quantizer;

/// What to make of a checkpoint. All that is not said has one default, on the command line and in every
/// binding: threshold 3, near-lossless, nothing measured.
///
/// ```
/// use svdo::checkpoint::{Checkpoint, Options};
/// use svdo::compress::{Goal, Job, Requirement};
///
/// # fn main() -> svdo::Result<()> {
/// # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lenet300_mnist.safetensors"));
/// let checkpoint = Checkpoint::open(path, &Options::default())?;
/// let job = Job::new(&checkpoint)
///     .goal(Goal::Bytes(4000))
///     .effort(1)
///     .require(Requirement::SizeRatio(250.0));
/// let done = job.run()?;
/// assert!(done.file.bytes().len() <= 4000 && done.passed());
/// # Ok(())
/// # }
/// ```
pub struct Job<'a>(Wishes<'a>);

impl<'a> Job<'a> {
    /// Compresses a checkpoint.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Self(Wishes {
            checkpoint,
            threshold: Threshold::default(),
            quantizer: None,
            simplify: true,
            strip: false,
            fast: false,
            calibrate: None,
            recalibrate: None,
            int8: None,
            validate: None,
            goal: None,
            effort: 5,
            search_state: None,
            sweep: None,
            requirements: Vec::new(),
            by_magnitude: false,
            compare_coders: false,
            compare_masks: false,
            time: false,
            isa: None,
            observer: None,
            stop: None,
            variances: false,
            pruned_variance: false,
            variance_rate: Settings::default().variance_rate,
        })
    }

    /// Prunes weights with a log alpha above this.
    pub fn threshold(mut self, threshold: impl Into<Threshold>) -> Self {
        self.0.threshold = threshold.into();
        self
    }

    /// How the kept weights are stored, and where a search starts: near-lossless by default, the small
    /// preset for a search.
    pub fn quantizer(mut self, quantizer: Quantizer) -> Self {
        self.0.quantizer = Some(quantizer);
        self
    }

    /// Whether dead and constant units are removed; they are by default.
    pub fn simplify(mut self, simplify: bool) -> Self {
        self.0.simplify = simplify;
        self
    }

    /// Whether names and the threshold are left out of the file.
    pub fn strip(mut self, strip: bool) -> Self {
        self.0.strip = strip;
        self
    }

    /// Whether the file is to be decoded fast rather than small.
    pub fn fast(mut self, fast: bool) -> Self {
        self.0.fast = fast;
        self
    }

    /// Whether the variances of the kept weights are stored, too, in a few bytes: for predictive uncertainty
    /// ([`crate::engine::uncertain`]). What a goal bounds is the file without them.
    pub fn variances(mut self, variances: bool) -> Self {
        self.0.variances = variances;
        self
    }

    /// Whether a summary of the pruned weights' variances is stored beside those of the kept ones: a factor for
    /// each row and column. Nothing is simplified then.
    pub fn pruned_variance(mut self, pruned: bool) -> Self {
        self.0.pruned_variance = pruned;
        self
    }

    /// How finely variances are stored: so many nats of divergence from the trained posterior is a bit of them
    /// worth, 0.1 by default, where scores of predictions no longer change. Less is finer and larger.
    pub fn variance_rate(mut self, nats: f64) -> Self {
        self.0.variance_rate = nats;
        self
    }

    /// Raw samples without labels, `[sample][element]`, on which weights are fitted to the pruned
    /// network's outputs as they are quantized ([`Quantizer::RateDistortion`] only).
    pub fn calibrate(mut self, samples: &'a [f32]) -> Self {
        self.0.calibrate = Some(samples);
        self
    }

    /// Raw samples without labels, some thousands as those of the training: mean and variance of every
    /// batch normalization are measured again on them, behind the pruned layers before it, and behind
    /// these as they are quantized unless they are fitted (`calibrate`) or searched for (`goal`). The
    /// statistics of the checkpoint were gathered under noise and without pruning. Pruning itself does not
    /// change; the file agrees with the checkpoint but for these statistics.
    pub fn recalibrate(mut self, samples: &'a [f32]) -> Self {
        self.0.recalibrate = Some(samples);
        self
    }

    /// Raw samples without labels, as those that the network will be given: the ranges of its activations are
    /// measured on them and stored, for layers that are run in 8 bits
    /// ([`Engine::in_int8`](crate::engine::Engine::in_int8)). What a goal bounds is the file without them.
    pub fn int8(mut self, samples: &'a [f32]) -> Self {
        self.0.int8 = Some(samples);
        self
    }

    /// Raw samples on which the file is compared with the pruned network; with labels, its error is
    /// reported, and that of a few thresholds around the one in use.
    pub fn validate(mut self, samples: Samples<'a>) -> Self {
        self.0.validate = Some(samples);
        self
    }

    /// Searches for the smallest file within an error, or the best within a size, on the validation
    /// samples, else those of the calibration, else random ones. The threshold may move below the one
    /// given by up to 3, never above.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.0.goal = Some(goal);
        self
    }

    /// How long to search, 1 to 9: about 28 configurations up to 3, 48 up to 6, 108 from 7 on. More
    /// effort never gives a larger file, or under a bound on bytes a worse one.
    pub fn effort(mut self, effort: u32) -> Self {
        self.0.effort = effort;
        self
    }

    /// A file in which a search keeps every configuration that it has tried, as soon as it has: the same job
    /// with the same file goes on from there, and ends with what it would have given without a break. The bound,
    /// kind of the goal and effort may be others; what else matters may not, and is refused.
    pub fn search_state(mut self, path: &'a Path) -> Self {
        self.0.search_state = Some(path);
        self
    }

    /// Thresholds at which the network is encoded for comparison.
    pub fn sweep(mut self, thresholds: Vec<f32>) -> Self {
        self.0.sweep = Some(thresholds);
        self
    }

    /// Adds a condition on the result.
    pub fn require(mut self, requirement: Requirement) -> Self {
        self.0.requirements.push(requirement);
        self
    }

    /// Reports the same file with as many weights of each layer chosen by magnitude.
    pub fn compare_magnitude(mut self, compare: bool) -> Self {
        self.0.by_magnitude = compare;
        self
    }

    /// Reports what other coders make of the same layers.
    pub fn compare_coders(mut self, compare: bool) -> Self {
        self.0.compare_coders = compare;
        self
    }

    /// Reports where masks that the checkpoint carries disagree with the threshold.
    pub fn compare_masks(mut self, compare: bool) -> Self {
        self.0.compare_masks = compare;
        self
    }

    /// Measures inference, sparse and dense.
    pub fn time(mut self, time: bool) -> Self {
        self.0.time = time;
        self
    }

    /// The instruction set of all inference; the best of this processor by default.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.0.isa = Some(isa);
        self
    }

    /// Is told of every [`Event`](crate::progress::Event), from any thread, and can end the job.
    pub fn observe(mut self, observer: &'a Observer<'a>) -> Self {
        self.0.observer = Some(observer);
        self
    }

    /// A search ends when this is set, with the best of what it has tried. With a
    /// [`search_state`](Self::search_state) the next goes on.
    pub fn stop(mut self, stop: &'a AtomicBool) -> Self {
        self.0.stop = Some(stop);
        self
    }

    /// Does all of it, on the threads of the rayon pool that it is called in. The checkpoint is read
    /// once for each threshold; thresholds that are to be found, masks and magnitudes take passes of
    /// their own.
    ///
    /// # Errors
    /// What reading the checkpoint, encoding and running the network meet; [`Error::Argument`](crate::Error::Argument) for
    /// wishes that do not go together or cannot be met; [`Error::Cancelled`](crate::Error::Cancelled) if the observer says so, or a
    /// search is stopped before it has tried anything.
    pub fn run(&self) -> Result<Done> {
        self.0.run()
    }
}
