//! Thresholds that are not given but found, and pruning by magnitude to compare with.

use rayon::prelude::*;

use crate::checkpoint::{Block, Checkpoint};
use crate::error::{Error, Result};
use crate::prune::{PrunedLayer, PrunedModel, Statistics, csr, normalizations};
use crate::threads;

/// Weights read at a time.
const BLOCK: usize = 1 << 18;

/// Calls `each` with every block of a layer, in parallel, and merges what it gives.
fn fold<T: Send>(
    checkpoint: &Checkpoint,
    layer: usize,
    new: impl Fn() -> T + Sync + Send,
    each: impl Fn(&mut T, usize, &Block) + Sync + Send,
    merge: impl Fn(T, T) -> T + Sync + Send,
) -> Result<T> {
    let total = checkpoint.weights(layer);
    threads::ready();
    (0..total.div_ceil(BLOCK))
        .into_par_iter()
        .try_fold(&new, |mut state, number| {
            let mut block = Block::default();
            let start = number * BLOCK;
            checkpoint.read_block(layer, start, BLOCK.min(total - start), &mut block)?;
            each(&mut state, start, &block);
            Ok(state)
        })
        .try_reduce(&new, |a, b| Ok(merge(a, b)))
}

fn add(mut a: Vec<u64>, b: Vec<u64>) -> Vec<u64> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

/// Counts of a number made of each log alpha, over layers with a posterior. Weights with a mean of
/// zero are left out: they are pruned at any threshold.
fn count(
    checkpoint: &Checkpoint,
    layers: &[usize],
    bins: usize,
    bin: impl Fn(f64) -> Option<usize> + Sync + Send,
) -> Result<Vec<u64>> {
    let mut counts = vec![0; bins];
    for &layer in layers {
        let Some(kind) = checkpoint.variance(layer) else { continue };
        let each = |counts: &mut Vec<u64>, _, block: &Block| {
            for (&theta, &stored) in block.theta.iter().zip(&block.variance) {
                if theta != 0.0
                    && let Some(bin) = bin(kind.log_alpha(theta, stored))
                {
                    counts[bin] += 1;
                }
            }
        };
        counts = add(counts, fold(checkpoint, layer, || vec![0; bins], each, add)?);
    }
    Ok(counts)
}

/// The smallest f32 that is not below a log alpha, as a number that orders as it does: comparing it
/// with a threshold in f32 is exact.
fn key(log_alpha: f64) -> u32 {
    let near = log_alpha as f32;
    let above = if f64::from(near) < log_alpha { near.next_up() } else { near };
    let bits = above.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn from_key(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// The threshold that keeps as many weights as it can but at most this share of those of the layers
/// that have a posterior. Exact, in two passes over the layers.
///
/// # Errors
/// [`Error::Argument`] unless 0 <= density <= 1 and a layer has a posterior; what reading meets.
pub fn at_density(checkpoint: &Checkpoint, layers: &[usize], density: f64) -> Result<f32> {
    if !(0.0..=1.0).contains(&density) {
        return Err(Error::Argument {
            problem: format!("a density of {density}: 0 to 1 are possible"),
        });
    }
    let with_posterior = |l: &&usize| checkpoint.variance(**l).is_some();
    let total: usize = layers.iter().filter(with_posterior).map(|&l| checkpoint.weights(l)).sum();
    if total == 0 {
        let problem = "a density is reached by a threshold on log alpha, and there is no posterior to \
                       have one: leave it out";
        return Err(Error::Argument { problem: problem.into() });
    }
    // Shares of round numbers, as 0.02 of 300, are not lost to rounding.
    let most = (density * total as f64 + 1e-6).floor() as u64;
    let mut kept = 0;
    let mut fits = |counts: &[u64]| {
        counts.iter().position(|&n| {
            let fits = kept + n <= most;
            kept += if fits { n } else { 0 };
            !fits
        })
    };
    let high = count(checkpoint, layers, 1 << 16, |la| Some((key(la) >> 16) as usize))?;
    let Some(high) = fits(&high) else { return Ok(f32::INFINITY) };
    let in_bin = |la| (key(la) >> 16 == high as u32).then(|| (key(la) & 0xffff) as usize);
    let low = fits(&count(checkpoint, layers, 1 << 16, in_bin)?).unwrap_or(1 << 16);
    let first_out = (high as u64) << 16 | low as u64;
    let threshold = from_key(first_out.saturating_sub(1).min(u64::from(u32::MAX)) as u32);
    Ok(if threshold.is_nan() { f32::NEG_INFINITY } else { threshold })
}

/// The valley between the two modes of log alpha: of the weights that carry the function and of
/// those that are noise. The histogram, in bins of 1/4, is smoothed; the valley is its lowest point
/// between its highest mode and the highest one that stands clear of it.
///
/// # Errors
/// [`Error::Argument`] if there is no posterior or its log alpha has no two modes; what reading meets.
pub fn valley(checkpoint: &Checkpoint) -> Result<f32> {
    const FIRST: f64 = -30.0;
    const PER_UNIT: f64 = 4.0;
    const BINS: usize = 240;
    let bin = |la: f64| {
        let at = (la - FIRST) * PER_UNIT;
        (0.0..BINS as f64).contains(&at).then_some(at as usize)
    };
    let layers: Vec<usize> = (0..checkpoint.network().layers.len()).collect();
    if layers.iter().all(|&layer| checkpoint.variance(layer).is_none()) {
        return Err(Error::Argument {
            problem:
                "--thresh auto: no layer has a posterior, so there is no log alpha to choose a \
                      threshold by: leave --thresh out, and what the checkpoint prunes stays pruned"
                    .into(),
        });
    }
    let counts = count(checkpoint, &layers, BINS, bin)?;
    let Some(lowest) = lowest_between_modes(&counts) else {
        return Err(Error::Argument {
            problem: "--thresh auto: the histogram of log alpha has no two clear modes (was the \
                      network trained long enough?): choose a threshold with --sweep, or \
                      --target-density"
                .into(),
        });
    };
    Ok((FIRST + (lowest as f64 + 0.5) / PER_UNIT) as f32)
}

fn lowest_between_modes(counts: &[u64]) -> Option<usize> {
    // A Gaussian of 3/4 units.
    let weight = |d: usize| libm::exp(-0.5 * (d as f64 / 3.0) * (d as f64 / 3.0));
    let smooth: Vec<f64> = (0..counts.len())
        .map(|i| {
            let near = i.saturating_sub(9)..(i + 10).min(counts.len());
            near.map(|j| counts[j] as f64 * weight(i.abs_diff(j))).sum()
        })
        .collect();
    let highest = |range: std::ops::Range<usize>| {
        range.max_by(|&a, &b| smooth[a].total_cmp(&smooth[b]).then(b.cmp(&a)))
    };
    let lowest = |range: std::ops::Range<usize>| {
        range.min_by(|&a, &b| smooth[a].total_cmp(&smooth[b]).then(a.cmp(&b)))
    };
    let main = highest(0..counts.len()).filter(|&i| smooth[i] > 0.0)?;
    // The other mode is the highest point that stands at least a fifth above the lowest between.
    let other = (0..counts.len())
        .filter(|&i| {
            let between = if i < main { i..main } else { main..i };
            let floor = lowest(between).map_or(f64::INFINITY, |v| smooth[v]);
            smooth[i] > 1.2 * floor && smooth[i] > 1e-4 * smooth[main]
        })
        .max_by(|&a, &b| smooth[a].total_cmp(&smooth[b]).then(b.cmp(&a)))?;
    lowest(main.min(other)..main.max(other))
}

/// Prunes by magnitude: of each layer the given number of weights with the largest |theta| stays;
/// among equals, the first.
///
/// # Errors
/// What reading meets.
pub fn largest(checkpoint: &Checkpoint, kept: &[u64]) -> Result<PrunedModel> {
    let network = checkpoint.network();
    let layers = (0..network.layers.len()).map(|index| {
        let (rows, cols) = (network.layers[index].rows(), network.layers[index].cols());
        let new = || Vec::<(u32, usize, f32, f32)>::new();
        let kind = checkpoint.variance(index);
        let each = |found: &mut Vec<_>, start: usize, block: &Block| {
            for (i, &theta) in block.theta.iter().enumerate().filter(|(_, t)| **t != 0.0) {
                let spread = kind.map_or(0.0, |k| k.log_sigma2(theta, block.variance[i]));
                // Magnitudes order as their bits; the largest come first.
                found.push((!theta.abs().to_bits(), start + i, theta, spread));
            }
            cut(found, kept[index]);
        };
        let merge = |mut a: Vec<_>, mut b: Vec<_>| {
            a.append(&mut b);
            cut(&mut a, kept[index]);
            a
        };
        let mut found = fold(checkpoint, index, new, each, merge)?;
        found.sort_unstable_by_key(|&(_, position, ..)| position);
        let mut row_starts = vec![0; rows + 1];
        found.iter().for_each(|&(_, position, ..)| row_starts[position / cols + 1] += 1);
        (0..rows).for_each(|row| row_starts[row + 1] += row_starts[row]);
        let columns = found.iter().map(|&(_, position, ..)| (position % cols) as u32).collect();
        let weights = found.iter().map(|&(_, _, theta, _)| theta).collect();
        let total = checkpoint.weights(index) as u64;
        let statistics = Statistics { total, kept: found.len() as u64, ..Statistics::default() };
        Ok(PrunedLayer {
            shape: network.layers[index].shape.clone(),
            weights: csr(rows, cols, row_starts, columns, weights)?,
            log_sigma2: kind.map(|_| found.iter().map(|&(.., spread)| spread).collect()),
            bias: checkpoint.read_bias(index)?,
            statistics,
        })
    });
    let mut model = PrunedModel::from_layers(network.clone(), layers)?;
    model.normalizations = normalizations(checkpoint);
    Ok(model)
}

/// Keeps the first `kept` in order of magnitude and position.
fn cut(found: &mut Vec<(u32, usize, f32, f32)>, kept: u64) {
    let kept = usize::try_from(kept).unwrap_or(usize::MAX);
    if kept < found.len() {
        if kept > 0 {
            found.select_nth_unstable_by_key(kept - 1, |&(order, position, ..)| (order, position));
        }
        found.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_numbers_and_come_back() {
        let values =
            [f64::NEG_INFINITY, -1e30, -3.5, -1e-40, 0.0, 1e-40, 2.9999, 3.0, f64::INFINITY];
        assert!(values.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        for value in [-7.25f32, 0.0, 3.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(from_key(key(value.into())), value);
        }
        // Just above 3 must not count as 3.
        assert_eq!(from_key(key(3.0 + 1e-12)), 3f32.next_up());
    }

    #[test]
    fn the_valley_lies_between_two_modes() {
        let hill = |center: f64, width: f64, height: f64| {
            move |i: usize| height * (-0.5 * ((i as f64 - center) / width).powi(2)).exp()
        };
        let (signal, noise) = (hill(100.0, 8.0, 400.0), hill(145.0, 7.0, 20_000.0));
        let counts: Vec<u64> = (0..240).map(|i| (signal(i) + noise(i)) as u64).collect();
        let found = lowest_between_modes(&counts).unwrap();
        assert!((112..125).contains(&found), "{found}");
        let one: Vec<u64> = (0..240).map(|i| noise(i) as u64).collect();
        assert_eq!(lowest_between_modes(&one), None);
        assert_eq!(lowest_between_modes(&[0; 240]), None);
    }
}
