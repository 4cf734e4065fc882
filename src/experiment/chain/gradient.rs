//! How noisy the gradient is: by what shares a sample of the weights, and by what is trained of the noise.

use super::Config;
use crate::error::Result;
use crate::experiment::check::{Check, Rule};
use crate::experiment::gradient_variance::Subject;
use crate::train::family::Estimator::{Local, PerBatch, PerExample};

/// The variance of the mean of M gradients is `Var / M + (M - 1) / M Cov` (Kingma et al. 2015, section
/// 2.2): that of one over M, unless the batch shares a sample of the weights.
pub(super) fn links(config: &Config) -> Result<Vec<Check>> {
    let subject = Subject::trained(&config.gradient)?;
    let (one, many) = (config.gradient.batches[0], config.gradient.batches[1]);
    let of = |estimator| [one, many].map(|size| subject.by_estimator(estimator, size));
    let [[batch_one, batch], [example_one, example], [local_one, local]] =
        [of(PerBatch), of(PerExample), of(Local)];
    let share = one as f64 / many as f64;
    let link = "5 variance of a batch's gradient";
    let mut checks: Vec<Check> = [
        ("a weight sample each: Var / M, Cov = 0", example_one.times(share), example, Rule::Same),
        ("local reparameterization: the same", local_one.times(share), local, Rule::Same),
        ("control: one weight sample: Cov > 0", batch_one.times(share), batch, Rule::Differs),
        ("a sample each below one for all", batch, example, Rule::Below),
        ("local below a sample each", example, local, Rule::Below),
    ]
    .map(|(what, expected, found, rule)| Check { link, what, expected, found, rule })
    .into();
    for log_alpha in &config.gradient.log_alphas {
        let [multiplicative, additive] =
            [false, true].map(|additive| subject.by_parameters(PerBatch, additive, *log_alpha));
        let (link, what) =
            ("12 sparse: dw/dtheta = 1", "gradient less noisy than 1 + sqrt(alpha) eps");
        let (expected, found, rule) = (multiplicative, additive, Rule::Below);
        checks.push(Check { link, what, expected, found, rule });
    }
    Ok(checks)
}
