//! What benchmarks have in common: samples to run, times of runs summed up, memory.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::network::drawn;

/// Times of runs, in one unit.
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Sums up one or more runs.
    pub(crate) fn new(mut times: Vec<f64>) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        Self(times)
    }

    /// How many there are.
    pub(crate) fn runs(&self) -> usize {
        self.0.len()
    }

    /// The time that a share of the runs does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        // Not by `round`, which would bring 11 KB of the compiler's soft floats into the edge program.
        self.0[((self.0.len() - 1) as f64 * share + 0.5) as usize]
    }

    /// The lower one of two in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.0[(self.0.len() - 1) / 2]
    }

    /// Of all runs.
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// Standard deviation.
    pub(crate) fn std(&self) -> f64 {
        let mean = self.mean();
        let squares = self.0.iter().map(|t| (t - mean) * (t - mean)).sum::<f64>();
        libm::sqrt(squares / self.0.len() as f64)
    }
}

/// Uniform samples over the range that preprocessing maps to 0..1, or of all token ids, with masks; the same at
/// every run.
///
/// # Errors
/// [`Error::Data`] if they are too many to number.
pub(crate) fn random_samples(engine: &Engine, count: usize) -> Result<Vec<f32>> {
    let elements = engine.input_shape().elements()?;
    let total = count.checked_mul(elements).ok_or_else(|| Error::data("too many samples"))?;
    let scale = 1.0 / engine.input_scale();
    let domains = engine.domains();
    Ok((0..total).map(|i| drawn(domains, i % elements, uniform(i as u64), scale)).collect())
}

/// A number from 0 to below 1: SplitMix64 (Steele, Lea and Flood 2014), a counter and a hash.
pub(crate) fn uniform(counter: u64) -> f32 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f32 / (1 << 24) as f32
}

/// The most memory that this process has held, where the system says.
pub(crate) fn peak_rss_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up() {
        let times = Times::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((times.runs(), times.median(), times.mean()), (4, 2.0, 2.5));
        assert_eq!([0.0, 0.9, 1.0].map(|share| times.quantile(share)), [1.0, 4.0, 4.0]);
        assert!((times.std() - 1.25f64.sqrt()).abs() < 1e-15);
        assert_eq!(Times::new(vec![7.0]).quantile(0.99), 7.0);
    }
}
