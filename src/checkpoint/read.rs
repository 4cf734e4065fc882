//! Reading layers in blocks, as they are after masks, group factors and normalizations.

use super::view::View;
use super::{Block, Checkpoint, Variance};
use crate::error::{Error, Result};

impl Checkpoint {
    /// Reads the weights `start .. start + count` of a layer, in row order.
    ///
    /// # Errors
    /// I/O, or a value that is not finite, with its tensor and position. (A stored log alpha may be
    /// infinite.)
    pub fn read_block(
        &self,
        layer: usize,
        start: usize,
        count: usize,
        block: &mut Block,
    ) -> Result<()> {
        self.read_unmasked(layer, start, count, block)?;
        let Some(view) = self.layers[layer].mask.as_ref().filter(|_| !self.ignore_masks) else {
            return Ok(());
        };
        let mut mask = vec![0.0; count];
        self.read_finite(view, start, &mut mask, false)?;
        apply(&mask, &mut block.theta, self.layers[layer].variance.is_none());
        Ok(())
    }

    pub(super) fn read_unmasked(
        &self,
        layer: usize,
        start: usize,
        count: usize,
        block: &mut Block,
    ) -> Result<()> {
        let entry = &self.layers[layer];
        block.theta.clear();
        block.theta.resize(count, 1.0);
        if let Some(theta) = &entry.theta {
            self.read_finite(theta, start, &mut block.theta, false)?;
        }
        block.variance.clear();
        if let Some((kind, view)) = &entry.variance {
            block.variance.resize(count, 0.0);
            self.read_finite(view, start, &mut block.variance, *kind == Variance::LogAlpha)?;
            if entry.group.is_some() || matches!(kind, Variance::Rho | Variance::Sigma2) {
                for (stored, &theta) in block.variance.iter_mut().zip(&block.theta) {
                    *stored = kind.log_sigma2(theta, *stored);
                }
            }
        }
        if let Some((mean, log_variance)) = &entry.group {
            let mut factor = vec![0.0; count];
            let mut spread = vec![0.0; count];
            self.read_finite(mean, start, &mut factor, false)?;
            self.read_finite(log_variance, start, &mut spread, false)?;
            for (i, theta) in block.theta.iter_mut().enumerate() {
                (*theta, block.variance[i]) =
                    multiplied(*theta, block.variance[i], factor[i], spread[i]);
            }
        }
        if let Some(fold) = &entry.fold {
            let columns = entry.shape[1..].iter().product();
            fold.weights(block, self.variance(layer), start, columns);
        }
        Ok(())
    }

    /// All means of a layer, in row order.
    pub fn read_theta(&self, layer: usize) -> Result<Vec<f32>> {
        let mut block = Block::default();
        self.read_block(layer, 0, self.weights(layer), &mut block)?;
        Ok(block.theta)
    }

    /// The bias of a layer, one value for each row.
    pub fn read_bias(&self, layer: usize) -> Result<Option<Vec<f32>>> {
        let entry = &self.layers[layer];
        let bias = match &entry.bias {
            Some(view) => {
                let mut bias = vec![0.0; entry.shape[0]];
                self.read_finite(view, 0, &mut bias, false)?;
                if let Some(view) = entry.bias_mask.as_ref().filter(|_| !self.ignore_masks) {
                    let mut mask = vec![0.0; entry.shape[0]];
                    self.read_finite(view, 0, &mut mask, false)?;
                    apply(&mask, &mut bias, true);
                }
                Some(bias)
            }
            None => None,
        };
        Ok(match &entry.fold {
            Some(fold) => Some(fold.bias(bias)),
            None => bias,
        })
    }

    /// The variance of a layer's bias, one value for each row; `None` where it has none, or is pruned with the bias.
    ///
    /// # Errors
    /// As [`Checkpoint::read_bias`].
    pub(crate) fn read_bias_variance(&self, layer: usize) -> Result<Option<Vec<f64>>> {
        let entry = &self.layers[layer];
        let Some((kind, view)) = &entry.bias_variance else { return Ok(None) };
        let mut stored = vec![0.0; entry.shape[0]];
        self.read_finite(view, 0, &mut stored, false)?;
        // No form that biases have needs the mean.
        let variance = |&stored: &f32| libm::exp(f64::from(kind.log_sigma2(1.0, stored)));
        let mut variances: Vec<f64> = stored.iter().map(variance).collect();
        if let Some(view) = entry.bias_mask.as_ref().filter(|_| !self.ignore_masks) {
            self.read_finite(view, 0, &mut stored, false)?;
            let each = variances.iter_mut().zip(&stored);
            each.for_each(|(variance, mask)| *variance *= f64::from(*mask).powi(2));
        }
        if let Some(fold) = &entry.fold {
            fold.variances(&mut variances);
        }
        Ok(Some(variances))
    }

    pub(super) fn read_finite(
        &self,
        view: &View,
        start: usize,
        out: &mut [f32],
        may_be_infinite: bool,
    ) -> Result<()> {
        let in_file = |e: Error| e.in_file(&self.path);
        view.read(&*self.source, start, out).map_err(in_file)?;
        let usable = |v: &f32| if may_be_infinite { !v.is_nan() } else { v.is_finite() };
        // Without an early end, so that it is vectorized.
        if out.iter().fold(true, |all, v| all & usable(v)) {
            return Ok(());
        }
        match out.iter().position(|v| !usable(v)) {
            None => Ok(()),
            Some(at) => Err(in_file(Error::Tensor {
                tensor: self.source.tensors()[view.tensor].name.clone(),
                problem: format!(
                    "element {} is {}; the training has diverged or the file is damaged",
                    start + at,
                    out[at]
                ),
            })),
        }
    }
}

/// What a mask marks 0 becomes zero; the rest is multiplied with it if `scales`.
fn apply(mask: &[f32], values: &mut [f32], scales: bool) {
    for (value, &mask) in values.iter_mut().zip(mask) {
        match mask {
            0.0 => *value = 0.0,
            mask if scales => *value *= mask,
            _ => {}
        }
    }
}

/// Mean and log variance of the product of two independent Gaussians, a weight and the factor of
/// its group (Louizos, Ullrich and Welling 2017, section 3.2): `z w` and
/// `z^2 s_w^2 + s_z^2 w^2 + s_z^2 s_w^2`.
fn multiplied(mean: f32, log_variance: f32, factor: f32, log_spread: f32) -> (f32, f32) {
    let (w, z) = (f64::from(mean), f64::from(factor));
    let (w_var, z_var) = (libm::exp(f64::from(log_variance)), libm::exp(f64::from(log_spread)));
    let variance = z * z * w_var + z_var * w * w + z_var * w_var;
    (mean * factor, (libm::log(variance) as f32).clamp(f32::MIN / 4.0, f32::MAX / 4.0))
}
