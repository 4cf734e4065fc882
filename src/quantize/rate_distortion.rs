//! Rate-distortion quantization: each weight takes the level, zero among them, with the least
//! distortion plus lambda times the bits that the adaptive coder would spend on it there and then.

use serde::{Deserialize, Serialize};

use crate::container::nearest_short_step;
use crate::entropy::spec::{Geometry, LayerSpec};
use crate::model::{Scale, Values};
use crate::prune::PrunedLayer;
use crate::quantize::adaptive_rate::Distortion;
use crate::quantize::calibrate::Fit;
use crate::quantize::reconstruction::{ReconstructionLevels, even_level};
use crate::quantize::step::{
    FEW, RELATIVE_ERROR, at_share, changes_in_noise, log_sigma2_range, posterior_unit,
    relative_changes, root_mean_square, size_unit,
};
use crate::quantize::{Safeguards, gap_rate, outliers};

/// What sets rate against distortion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateDistortion {
    /// The step of a layer in units of its posterior standard deviation, exp(mean log sigma) over
    /// the kept weights. What is checked before a file is written: the root mean square over a layer's
    /// units of |w - w'| / sqrt(|w|^2 + |sigma|^2) is at most 0.4 of this, 14 % at 0.35; a layer that
    /// would break it is made finer, or stored exactly, and reported. Without a posterior and data to fit, one that changes the weights of nine in
    /// ten units by at most 1/70 of this (root mean squares): 0.5 % at 0.35.
    pub step: f64,
    /// What a bit may cost in squared steps.
    pub lambda: f64,
    /// Growth of the distance between levels, c of [`Scale`] in 1/64.
    pub companding: u8,
    /// Weighs each squared error with (sigma / sigma of the layer)^(-2 gamma).
    pub gamma: f64,
    /// The bias's step over that of the weights times the square root of the mean number of weights
    /// in a row.
    pub bias: f64,
    /// Steps of distillation, in which the levels of all layers are moved together; 0 for none. It
    /// needs a calibration.
    pub distill: usize,
}

impl Default for RateDistortion {
    fn default() -> Self {
        Self { step: 0.35, lambda: 0.02, companding: 0, gamma: 0.0, bias: 0.25, distill: 0 }
    }
}

impl RateDistortion {
    /// Coarse: about half the bytes of the default.
    pub const SMALL: Self =
        Self { step: 0.8, lambda: 0.04, companding: 13, gamma: 0.0, bias: 0.25, distill: 0 };
}

/// The change of a layer with a posterior that is promised for each unit of the step. LeNets take up to
/// 0.18 of it (near-lossless) and 0.22 (small).
const LAYER_CHANGE: f64 = 0.4;
/// Times a step is made finer to keep what is promised.
const MOST_REFINED: usize = 24;

impl RateDistortion {
    /// What is promised of a layer without a posterior and without data: in nine of ten units the
    /// weights change by at most this share of them (root mean squares).
    pub(crate) fn relative_error(&self) -> f64 {
        self.step * RELATIVE_ERROR
    }

    /// The error of a large weight, as a share of it, however fine the step is: companded levels are such
    /// a share apart.
    fn companding_error(&self) -> f64 {
        f64::from(self.companding) / 64.0 / 12f64.sqrt()
    }

    /// What is promised of a layer with a posterior: the root mean square over its units of
    /// |w - w'| / sqrt(|w|^2 + |sigma|^2). Of coarser settings than [`RateDistortion::SMALL`] nothing is
    /// promised: who asks for them measures what they do.
    pub(crate) fn layer_change(&self) -> f64 {
        let small = Self::SMALL;
        let promised = self.step <= small.step
            && self.lambda <= small.lambda
            && self.companding <= small.companding;
        if promised { self.step * LAYER_CHANGE } else { f64::INFINITY }
    }

    /// Whether the stored weights of a layer with a posterior keep that.
    fn keeps_layer_change(&self, layer: &PrunedLayer, stored: &[f32]) -> bool {
        let within = |changes: &[f64]| root_mean_square(changes) <= self.layer_change();
        // Without the noise it is larger.
        within(&relative_changes(layer, stored)) || within(&changes_in_noise(layer, stored))
    }

    /// The values of a layer, one for each weight of its matrix, and its bias; with a fit, only of a
    /// layer that [`is_adaptive`]. What would break the promise is made finer, then exact.
    pub(super) fn quantize(
        &self,
        layer: &PrunedLayer,
        geometry: Geometry,
        fit: Option<Fit<'_>>,
    ) -> (Values, Option<Values>, Safeguards) {
        let posterior = posterior_unit(layer);
        if posterior.is_none() && fit.is_none() && self.companding_error() > self.relative_error() {
            let even = Self { companding: 0, ..*self };
            return even.quantize(layer, geometry, None);
        }
        let exact = layer.weights.data();
        let limit = outliers::limit(exact);
        // Levels reach twice as far as the weights that are not far from the others.
        let finest = 2.0 * outliers::largest_within(exact, limit) / reach(self.companding);
        let unit = posterior.unwrap_or_else(|| size_unit(layer, limit));
        let mut safeguards = Safeguards::default();
        if let Some(fit) = fit {
            let scales = self.scales(layer, unit, finest);
            let reached =
                is_reached(exact, scales.0) && layer.bias.iter().all(|b| is_reached(b, scales.1));
            if fit.is_finite() && reached {
                let (values, bias) = self.with_scales(layer, unit, scales, geometry, Some(fit));
                if is_inside(&values) && bias.iter().all(is_inside) {
                    return (values, bias, safeguards);
                }
            }
            safeguards.unfitted = true;
        }
        let (finer, mut before) = (if posterior.is_some() { 0.5f64 } else { 0.8 }, None);
        let mut next = unit;
        for round in 0..MOST_REFINED {
            let unit = next;
            next *= finer;
            let scales = self.scales(layer, unit, finest);
            if before.replace(scales) == Some(scales) {
                continue;
            }
            let (values, bias) = self.with_scales(layer, unit, scales, geometry, None);
            let (values, spared) = outliers::spare(exact, values);
            let stored = values.to_f32();
            let keeps = match posterior {
                Some(_) => self.keeps_layer_change(layer, &stored),
                None => at_share(relative_changes(layer, &stored), 1.0 - FEW)
                    .is_none_or(|most| most <= self.relative_error()),
            };
            if keeps {
                safeguards.outliers = spared;
                safeguards.refined = if posterior.is_some() { round } else { 0 };
                safeguards.exact_bias = matches!(bias, Some(Values::F32(_)));
                return (values, bias, safeguards);
            }
        }
        safeguards.exact = true;
        (Values::F32(exact.to_vec()), layer.bias.clone().map(Values::F32), safeguards)
    }

    /// The scales of weights and bias with a step of so many units, but no finer than what levels can
    /// reach the weights with.
    fn scales(&self, layer: &PrunedLayer, unit: f64, finest: f64) -> (Scale, Scale) {
        let step = stored_step((self.step * unit).max(finest), finest);
        let per_row = layer.weights.nnz() as f64 / layer.shape[0].max(1) as f64;
        let bias_step = self.bias * f64::from(step) * per_row.max(1.0).sqrt();
        let scale = Scale { step, companding: self.companding };
        (scale, Scale::even(stored_step(bias_step, 0.0)))
    }

    /// On these scales; a bias that levels do not reach is exact.
    fn with_scales(
        &self,
        layer: &PrunedLayer,
        unit: f64,
        (scale, bias_scale): (Scale, Scale),
        geometry: Geometry,
        fit: Option<Fit<'_>>,
    ) -> (Values, Option<Values>) {
        let mut bias = layer.bias.as_ref().map(|bias| {
            if !is_reached(bias, bias_scale) {
                return Values::F32(bias.clone());
            }
            let levels = bias.iter().map(|&v| even_level(f64::from(v), bias_scale)).collect();
            Values::Levels { scale: bias_scale, levels }
        });
        let levels = if !is_adaptive(layer.weights.rows(), layer.weights.cols()) {
            let reconstruction = ReconstructionLevels::new(scale);
            let sensitivity = self.sensitivity(layer, unit);
            let (step, lambda) = (scale.step, self.lambda);
            gap_rate::levels(&layer.weights, &reconstruction, step, lambda, &sensitivity)
        } else {
            let distortion = match fit {
                Some(fit) => Distortion::Outputs(Box::new(fit)),
                None => Distortion::Weights(self.sensitivity(layer, unit)),
            };
            self.levels(layer, geometry, scale, bias.as_mut(), distortion)
        };
        (Values::Levels { scale, levels }, bias)
    }

    /// What a squared error of each weight counts.
    fn sensitivity(&self, layer: &PrunedLayer, unit: f64) -> Vec<f64> {
        match &layer.log_sigma2 {
            Some(log_sigma2) if self.gamma != 0.0 => {
                let mean = 2.0 * libm::log(unit);
                let (least, most) = log_sigma2_range(log_sigma2);
                let near = |&l: &f32| f64::from(l).clamp(least, most);
                let weigh = |l: &f32| libm::exp(self.gamma * (mean - near(l)));
                log_sigma2.iter().map(weigh).collect()
            }
            _ => vec![1.0; layer.weights.nnz()],
        }
    }
}

/// The step that is stored for one: of a single byte, unless such steps are far from it.
fn stored_step(step: f64, finest: f64) -> f32 {
    let short = nearest_short_step(step);
    let is_near = f64::from(short) <= 1.1 * step && f64::from(short) >= 0.6 * finest;
    if is_near { short } else { (step as f32).clamp(f32::MIN_POSITIVE, f32::MAX) }
}

/// What the last level stands for, in steps.
fn reach(companding: u8) -> f64 {
    let (c, last) =
        (f64::from(companding) / 64.0, f64::from(Scale { step: 1.0, companding }.most() - 1));
    if companding == 0 { last } else { (libm::pow(1.0 + c, last) - 1.0) / c }
}

/// Whether there are levels for all of some values.
fn is_reached(values: &[f32], scale: Scale) -> bool {
    let most = reach(scale.companding) * f64::from(scale.step);
    values.iter().all(|&v| f64::from(v.abs()) <= most)
}

/// Whether no level is the last.
fn is_inside(values: &Values) -> bool {
    match values {
        Values::Levels { scale, levels } => {
            levels.iter().all(|level| level.unsigned_abs() < scale.most() - 1)
        }
        _ => true,
    }
}

/// Whether each position is looked at; larger layers are coded by the gaps between their weights.
pub(super) fn is_adaptive(rows: usize, columns: usize) -> bool {
    rows.saturating_mul(columns) <= LayerSpec::MOST_ADAPTIVE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scattered weights between -2 and 2.
    fn layer() -> PrunedLayer {
        let n = 60usize;
        let (mut starts, mut columns, mut weights) = (vec![0], Vec::new(), Vec::new());
        let mut state = 5u32;
        for _ in 0..n {
            for column in 0..n as u32 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 29 == 0 {
                    columns.push(column);
                    weights.push((state >> 8 & 0xffff) as f32 / 16384.0 - 2.0 + 1e-5);
                }
            }
            starts.push(columns.len());
        }
        let log_sigma2 = Some(vec![-3.0; weights.len()]);
        let weights = crate::prune::csr(n, n, starts, columns, weights).unwrap();
        let bias = Some((0..n).map(|i| i as f32 * 0.01 - 0.2).collect());
        let shape = vec![n, n];
        PrunedLayer { shape, weights, log_sigma2, bias, statistics: Default::default() }
    }

    #[test]
    fn without_rate_every_weight_takes_its_nearest_level() {
        let layer = layer();
        for companding in [0, 13] {
            let settings = RateDistortion { lambda: 0.0, companding, ..RateDistortion::default() };
            let (values, bias, _) = settings.quantize(&layer, Geometry::flat(60), None);
            let Values::Levels { scale, levels } = &values else { panic!("not levels") };
            let reconstruction = ReconstructionLevels::new(*scale);
            let nearest = layer.weights.data().iter().map(|&v| reconstruction.nearest(v));
            assert!(nearest.eq(levels.iter().copied()), "{companding}");
            assert!(bias.is_some_and(|bias| bias.len() == 60));
        }
    }

    #[test]
    fn without_a_posterior_the_weights_of_nine_in_ten_units_keep_the_bound() {
        // Rows of very different size: a step for their mean would round many of them away.
        let mut layer = PrunedLayer { log_sigma2: None, ..layer() };
        let starts: Vec<usize> = layer.weights.indptr().raw_storage().to_vec();
        for row in 0..60 {
            let size = 10f32.powi(row as i32 % 5 - 2);
            layer.weights.data_mut()[starts[row]..starts[row + 1]]
                .iter_mut()
                .for_each(|w| *w *= size);
        }
        for step in [0.35, 0.8] {
            let settings = RateDistortion { step, ..RateDistortion::default() };
            let (values, ..) = settings.quantize(&layer, Geometry::flat(60), None);
            let changes = relative_changes(&layer, &values.to_f32());
            let within = changes.iter().filter(|&&c| c <= step / 70.0).count();
            assert!(within * 10 >= 9 * changes.len(), "{step}: {within} of {}", changes.len());
            assert!(matches!(values, Values::Levels { .. }));
        }
    }

    #[test]
    fn without_a_posterior_companding_gives_way_to_the_bound() {
        let layer = PrunedLayer { log_sigma2: None, ..layer() };
        let (values, _, safeguards) =
            RateDistortion::SMALL.quantize(&layer, Geometry::flat(60), None);
        assert!(matches!(values, Values::Levels { scale, .. } if scale.companding == 0));
        assert!(!safeguards.exact);
    }

    #[test]
    fn rate_buys_zeros_and_smaller_files() {
        let (layer, geometry) = (layer(), Geometry::flat(60));
        let mut before = (usize::MAX, usize::MAX);
        for lambda in [0.0, 0.3, 3.0] {
            let settings = RateDistortion { step: 2.0, lambda, ..RateDistortion::default() };
            let quantizer = crate::quantize::Quantizer::RateDistortion(settings);
            let weights = quantizer.quantize(&layer, "a", geometry).unwrap().weights;
            let bytes = crate::entropy::layer::LayerCode::new(&weights, geometry, false).bytes();
            let kept = weights.pattern.len();
            assert!(kept < before.0 && bytes < before.1, "{lambda}: {kept}");
            before = (kept, bytes);
        }
    }
}
