//! A table of normals that samples of the posterior take theirs from.
//!
//! A sample of a convolution wants a normal for each place of its map; to make one costs as much as a dozen
//! multiplications of the pass it is for. A table is made once for a seed, and each block of places in each group
//! of samples reads a stretch of it, from a place that Philox draws (Salimans et al., arXiv 1703.03864, share
//! noise so): a load instead. Two blocks may come to read the same numbers, in one group of samples and by chance
//! alone, which biases nothing.

use super::noise::Stream;

/// Samples, and places, that one stretch is for.
pub const GROUP: usize = 16;

/// Normals of a table.
const LENGTH: usize = 1 << 16;

/// Normals of a stretch, of all samples at a place and then of the next place.
const STRETCH: usize = GROUP * GROUP;

/// Normals under a seed: of each there is the opposite, so that their mean is 0, and their variance is 1.
#[derive(Debug, Clone)]
pub struct Table {
    seed: u64,
    /// From `first` on, before which there is nothing: normals of a place then begin where lines of the cache do.
    normals: Vec<f32>,
    first: usize,
}

impl Table {
    /// The table of a seed.
    pub fn new(seed: u64) -> Self {
        let mut normals = vec![0.0; LENGTH / 2];
        Stream { seed, layer: Stream::TABLE }.places(0, 0, &mut normals);
        let power: f64 = normals.iter().map(|z| f64::from(*z).powi(2)).sum();
        let scale = (normals.len() as f64 / power).sqrt() as f32;
        normals.iter_mut().for_each(|z| *z *= scale);
        normals.extend_from_within(..);
        normals[LENGTH / 2..].iter_mut().for_each(|z| *z = -*z);
        // What stretches at the end go on with.
        normals.extend_from_within(..STRETCH);
        let mut all: Vec<f32> = Vec::with_capacity(normals.len() + GROUP);
        // At most as many as a line has; without that, which is allowed, all is as right but not as near.
        let first = all.as_ptr().align_offset(4 * GROUP).min(GROUP);
        all.resize(first, 0.0);
        all.append(&mut normals);
        Self { seed, normals: all, first }
    }

    /// Where the stretches of the first blocks of places begin in a group of samples; blocks and groups are of
    /// `GROUP` each.
    #[inline(always)]
    pub fn starts(&self, layer: u32, group: u32, starts: &mut [u32]) {
        const WIDE: usize = 8;
        let stream = Stream { seed: self.seed, layer };
        for (at, starts) in starts.chunks_mut(WIDE).enumerate() {
            let blocks = std::array::from_fn(|lane| (at * WIDE + lane) as u32);
            for (start, word) in starts.iter_mut().zip(stream.words::<WIDE>(blocks, group)) {
                *start = word % (LENGTH / GROUP) as u32 * GROUP as u32;
            }
        }
    }

    /// The normals of a stretch that begins there: `[place][sample]`.
    pub fn stretch(&self, start: u32) -> &[f32; STRETCH] {
        // Stretches begin below `LENGTH`, and as many normals follow.
        self.normals[self.first + start as usize..].first_chunk().unwrap_or(&[0.0; STRETCH])
    }

    /// The normals of a place and of the next one of the same block, whose stretch begins there.
    #[inline(always)]
    pub fn pair(&self, start: u32, place: usize) -> &[f32; 2 * GROUP] {
        let at = self.first + start as usize + place % GROUP * GROUP;
        self.normals[at..].first_chunk().unwrap_or(&[0.0; 2 * GROUP])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What so many groups of samples draw at so many blocks of places: `[place][sample]`.
    fn draws(table: &Table, layer: u32, blocks: usize, groups: u32) -> Vec<Vec<f32>> {
        let mut places = vec![Vec::new(); blocks * GROUP];
        let mut starts = vec![0; blocks];
        for group in 0..groups {
            table.starts(layer, group, &mut starts);
            for (places, start) in places.chunks_mut(GROUP).zip(&starts) {
                for (place, z) in places.iter_mut().zip(table.stretch(*start).chunks(GROUP)) {
                    place.extend_from_slice(z);
                }
            }
        }
        places
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        let (count, sum) = values.fold((0.0, 0.0), |(n, sum), v| (n + 1.0, sum + v));
        sum / count
    }

    #[test]
    fn all_normals_have_the_moments_of_the_normal_distribution() {
        let table = Table::new(3);
        let moment = |power: i32| {
            mean(table.normals[table.first..][..LENGTH].iter().map(|z| f64::from(*z).powi(power)))
        };
        assert!(moment(1).abs() < 1e-9 && (moment(2) - 1.0).abs() < 1e-6, "{}", moment(1));
        assert!((moment(4) - 3.0).abs() < 0.15 && (moment(6) - 15.0).abs() < 2.0, "{}", moment(4));
    }

    /// What a unit adds up of many places has the variance of independent places, and no two places, samples,
    /// layers or seeds go together.
    #[test]
    fn sums_of_places_vary_as_if_they_were_independent() {
        let table = Table::new(1);
        let places = draws(&table, 0, 40, 64);
        let samples = places[0].len();
        let sum = |sample: usize| places.iter().map(|z| f64::from(z[sample])).sum::<f64>();
        let power = mean((0..samples).map(|sample| sum(sample).powi(2))) / places.len() as f64;
        // Four standard errors, of 64 groups whose samples share their places.
        assert!((power - 1.0).abs() < 4.0 * (2.0 / samples as f64).sqrt() * 1.5, "{power}");
        let together = |a: &[f32], b: &[f32]| {
            mean(a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)))
        };
        let other = [draws(&table, 1, 4, 64), draws(&Table::new(2), 0, 4, 64)];
        // The largest of thousands, where groups share stretches.
        let most = 7.0 / (samples as f64).sqrt();
        for a in 0..64 {
            for b in 0..a {
                assert!(together(&places[a], &places[b]).abs() < most, "{a} {b}");
            }
            assert!(other.iter().all(|other| together(&places[a], &other[a]).abs() < most), "{a}");
            assert!(together(&places[a][1..], &places[a]).abs() < most, "{a}");
        }
    }

    #[test]
    fn the_same_is_drawn_again() {
        let at = |layer, block: usize, group| {
            let (table, mut starts) = (Table::new(9), vec![0; block + 1]);
            table.starts(layer, group, &mut starts);
            table.stretch(starts[block]).to_vec()
        };
        assert_eq!(at(2, 77, 5), at(2, 77, 5));
        assert_ne!(at(2, 77, 5), at(2, 78, 5));
        assert_ne!(at(2, 77, 5), at(3, 77, 5));
        assert_ne!(at(2, 77, 5), at(2, 77, 6));
    }
}
