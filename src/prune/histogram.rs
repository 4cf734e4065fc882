//! How many weights have which log alpha.

/// Counts of log alpha in bins of width 0.5 from -20 to 20.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Below -20, the 80 bins, and 20 or more; empty if nothing was counted.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Lower edge of the first bin; minus the upper edge of the last.
    pub const FIRST: f64 = -20.0;
    /// Width of a bin.
    pub const WIDTH: f64 = 0.5;
    pub(crate) const BINS: usize = 80;

    pub(crate) fn add(&mut self, log_alpha: f64) {
        self.begin();
        let bin = ((log_alpha - Self::FIRST) / Self::WIDTH).floor() + 1.0;
        self.counts[bin.clamp(0.0, (Self::BINS + 1) as f64) as usize] += 1;
    }

    /// Adds to a number of bins at once.
    pub(super) fn add_counts(&mut self, counts: &[u32]) {
        self.begin();
        self.counts.iter_mut().zip(counts).for_each(|(a, &b)| *a += u64::from(b));
    }

    fn begin(&mut self) {
        if self.counts.is_empty() {
            self.counts = vec![0; Self::BINS + 2];
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted() {
        let mut histogram = Histogram::default();
        let values = [f64::NEG_INFINITY, -20.1, -20.0, 0.0, 0.49, 19.99, 20.0, f64::INFINITY];
        values.iter().for_each(|&v| histogram.add(v));
        let filled: Vec<(usize, u64)> =
            histogram.counts.iter().copied().enumerate().filter(|(_, c)| *c > 0).collect();
        assert_eq!(filled, [(0, 2), (1, 1), (41, 2), (80, 1), (81, 2)]);
    }
}
