//! Quantization to a few values of each layer, by k-means: Han, Mao and Dally, *Deep Compression*
//! (2016), section 3. A baseline.

use crate::error::{Error, Result};
use crate::model::Values;

/// Rounds of k-means, at most.
const MOST_ROUNDS: usize = 300;

/// Each weight becomes the nearest of at most `2^bits` values, which begin evenly apart between the
/// smallest and the largest weight (the start the paper finds best) and each move to the mean of
/// their weights until none changes.
pub(super) fn quantize(exact: &[f32], bits: u32) -> Result<Values> {
    if !(1..=8).contains(&bits) {
        let problem = format!("a codebook of {bits} bits: 1 to 8 are possible");
        return Err(Error::Argument { problem });
    }
    let mut sorted: Vec<f64> = exact.iter().map(|&v| f64::from(v)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let means = means(&sorted, 1 << bits);
    let book: Vec<f32> = means.iter().map(|&mean| mean as f32).collect();
    let nearest = |&v: &f32| {
        let above = means.windows(2).filter(|pair| f64::from(v) > middle(pair[0], pair[1])).count();
        book[above]
    };
    Ok(Values::F32(exact.iter().map(nearest).collect()))
}

fn middle(a: f64, b: f64) -> f64 {
    0.5 * (a + b)
}

/// Ascending means of at most `k` clusters of sorted numbers, none of them empty.
fn means(sorted: &[f64], k: usize) -> Vec<f64> {
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    let apart = (most - least) / (k - 1) as f64;
    let mut means: Vec<f64> = (0..k).map(|i| least + apart * i as f64).collect();
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(sorted.iter().scan(0.0, |sum, &v| {
            *sum += v;
            Some(*sum)
        }))
        .collect();
    let mut ends = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let edges = means.windows(2).map(|pair| middle(pair[0], pair[1]));
        let mut found: Vec<usize> =
            edges.map(|edge| sorted.partition_point(|&v| v <= edge)).collect();
        found.push(sorted.len());
        found.dedup();
        found.retain(|&end| end > 0);
        if found == ends {
            break;
        }
        let starts = std::iter::once(0).chain(found.iter().copied());
        let clusters = starts.zip(&found);
        means = clusters.map(|(a, &b)| (sums[b] - sums[a]) / (b - a) as f64).collect();
        ends = found;
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    fn different(values: &Values) -> Vec<f32> {
        let mut values = values.to_f32();
        values.sort_by(f32::total_cmp);
        values.dedup();
        values
    }

    #[test]
    fn separate_clusters_are_found_and_nothing_is_lost_where_values_are_few() {
        let exact: Vec<f32> =
            (0..90).map(|i| [-3.0, 0.5, 4.0][i % 3] + (i / 3) as f32 * 0.001).collect();
        let found = different(&quantize(&exact, 2).unwrap());
        assert!(found.len() <= 4 && found[0] < -2.9 && *found.last().unwrap() > 3.9, "{found:?}");
        let few = [0.5f32, -1.25, 0.5, 7.0, -1.25];
        assert_eq!(quantize(&few, 2).unwrap().to_f32(), few);
        assert_eq!(quantize(&[3.0; 5], 1).unwrap().to_f32(), [3.0; 5]);
        assert!(quantize(&[], 5).unwrap().is_empty());
        assert!(quantize(&few, 0).is_err() && quantize(&few, 9).is_err());
    }

    #[test]
    fn no_weight_is_nearer_to_another_value() {
        let exact: Vec<f32> = (0..4000).map(|i| ((i * i) as f32 * 0.37).sin().powi(3)).collect();
        let mut before = f64::INFINITY;
        for bits in 1..=8 {
            let values = quantize(&exact, bits).unwrap();
            let book = different(&values);
            assert!(book.len() <= 1 << bits);
            let mut error = 0.0;
            for (&v, stored) in exact.iter().zip(values.to_f32()) {
                let least = book.iter().map(|b| (b - v).abs()).fold(f32::INFINITY, f32::min);
                assert!((v - stored).abs() <= least + 1e-6);
                error += f64::from(v - stored).powi(2);
            }
            assert!(error < before, "{bits}");
            before = error;
        }
    }
}
