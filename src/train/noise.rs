//! Random numbers that depend only on where they are used: Philox4x32-10 (Salmon, Moraes, Dror and
//! Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) over counters made of step, layer,
//! sample and position. Threads and batches can be cut as one likes.

use super::vector::{Isa, Kernel, LANES, Real, Vector};

/// Numbers of as many counters as [`WIDE`].
const BLOCK: usize = 32;
/// Counters of a block.
const WIDE: usize = 8;

/// A sequence of random numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    /// The seed of the training.
    pub seed: u64,
    /// What the numbers are for: a layer, or one of the constants below.
    pub purpose: u32,
    /// The training step or epoch.
    pub step: u32,
    /// The sample of the batch, or another index.
    pub index: u32,
}

/// [`Stream::purpose`] of the initial weights of layer 0; those of others follow.
pub(crate) const INITIAL_WEIGHTS: u32 = 1 << 16;
/// [`Stream::purpose`] of the order of samples.
pub(crate) const ORDER: u32 = 1 << 17;
/// [`Stream::purpose`] of the dropout before layer 0; those of others follow.
pub(crate) const DROPOUT: u32 = 1 << 19;
/// [`Stream::purpose`] of the gates of layer 0; those of others follow.
pub(crate) const GATES: u32 = 1 << 20;
/// [`Stream::purpose`] of changes of images.
pub(crate) const AUGMENT: u32 = (1 << 17) + 1;
/// [`Stream::purpose`] of which samples are held out.
pub(crate) const SPLIT: u32 = (1 << 17) + 2;
/// [`Stream::purpose`] of everything experiments draw.
#[cfg(feature = "cli")]
pub(crate) const EXPERIMENT: u32 = 1 << 18;

impl Stream {
    /// Fills `out` with standard normals; the first numbers are the same for every length.
    pub(crate) fn normals(&self, isa: Isa, out: &mut [f32]) {
        f32::dispatch(isa, LANES, Normals { stream: *self, out });
    }

    /// Fills `out` with uniform numbers between 0 and 1, neither of which is one of them; the first numbers
    /// are the same for every length.
    pub(crate) fn uniforms(&self, isa: Isa, out: &mut [f32]) {
        f32::dispatch(isa, LANES, Uniforms { stream: *self, out });
    }

    /// Fills `out` with uniform 32-bit integers.
    pub(crate) fn integers(&self, out: &mut [u32]) {
        for (block, part) in out.chunks_mut(4 * WIDE).enumerate() {
            let words = self.words::<WIDE>((block * WIDE) as u32);
            for (lane, four) in part.chunks_mut(4).enumerate() {
                for (value, word) in four.iter_mut().zip(words) {
                    *value = word[lane];
                }
            }
        }
    }

    /// Consecutive outputs of Philox, word by word.
    #[inline(always)]
    fn words<const N: usize>(&self, first: u32) -> [[u32; N]; 4] {
        let counter = std::array::from_fn(|lane| first.wrapping_add(lane as u32));
        philox(
            [counter, [self.index; N], [self.purpose; N], [self.step; N]],
            [self.seed as u32, (self.seed >> 32) as u32],
        )
    }
}

/// Ten rounds on an even number of counters. Two neighboring lanes go in one number of 64 bits: products
/// need that much, and no word ever leaves its place.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // lanes of several arrays at once
fn philox<const N: usize>(counter: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    /// Puts a word in both places.
    const BOTH: u64 = 1 << 32 | 1;
    // The first half of each is used.
    let mut pairs = [[0; N]; 4];
    for word in 0..4 {
        for lane in 0..N {
            pairs[word][lane / 2] |= u64::from(counter[word][lane]) << (32 * (lane % 2));
        }
    }
    let ([mut c0, mut c1, mut c2, mut c3], mut key) = (pairs, key);
    for _ in 0..10 {
        let (first, second) = (u64::from(key[0]) * BOTH, u64::from(key[1]) * BOTH);
        for pair in 0..N / 2 {
            let (low0, high0) = multiply(c0[pair], MULTIPLIERS[0]);
            let (low2, high2) = multiply(c2[pair], MULTIPLIERS[1]);
            c0[pair] = high2 ^ c1[pair] ^ first;
            c1[pair] = low2;
            c2[pair] = high0 ^ c3[pair] ^ second;
            c3[pair] = low0;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    let (pairs, mut words) = ([c0, c1, c2, c3], [[0; N]; 4]);
    for word in 0..4 {
        for lane in 0..N {
            words[word][lane] = (pairs[word][lane / 2] >> (32 * (lane % 2))) as u32;
        }
    }
    words
}

/// The low and the high words of the products of two words with a multiplier.
#[inline(always)]
fn multiply(words: u64, by: u64) -> (u64, u64) {
    const LOW: u64 = 0xffff_ffff;
    let (even, odd) = ((words & LOW) * by, (words >> 32) * by);
    (even & LOW | odd << 32, even >> 32 | odd & !LOW)
}

struct Uniforms<'a> {
    stream: Stream,
    out: &'a mut [f32],
}

impl Kernel<f32> for Uniforms<'_> {
    /// Odd multiples of 2^-24. The instruction set vectorizes what is written for plain numbers.
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        const BELOW_ONE: f32 = 1.0 - 1.0 / (1 << 24) as f32;
        let mut counter = 0;
        for out in self.out.chunks_mut(BLOCK) {
            let words = self.stream.words::<WIDE>(counter);
            counter = counter.wrapping_add(WIDE as u32);
            for (out, words) in out.chunks_mut(WIDE).zip(words) {
                for (value, word) in out.iter_mut().zip(words) {
                    *value = f32::from_bits(word >> 9 | 0x3f80_0000) - BELOW_ONE;
                }
            }
        }
    }
}

struct Normals<'a> {
    stream: Stream,
    out: &'a mut [f32],
}

impl Kernel<f32> for Normals<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        match V::LANES {
            LANES => self.blocks::<V, LANES>(),
            _ => self.blocks::<V, WIDE>(),
        }
    }
}

impl Normals<'_> {
    /// N counters at a time.
    #[inline(always)]
    fn blocks<V: Vector<Element = f32>, const N: usize>(self) {
        let size = N / WIDE * BLOCK;
        let mut counter = 0;
        for out in self.out.chunks_mut(size) {
            let words = self.stream.words::<N>(counter);
            counter = counter.wrapping_add(N as u32);
            if out.len() == size {
                normals::<V, N>(words, out);
            } else {
                let mut all = [0.0; LANES / WIDE * BLOCK];
                normals::<V, N>(words, &mut all);
                out.copy_from_slice(&all[..out.len()]);
            }
        }
    }
}

/// Box and Muller's transform of words. Each gives 23 bits; the largest magnitude is 5.65.
#[inline(always)]
fn normals<V: Vector<Element = f32>, const N: usize>(words: [[u32; N]; 4], out: &mut [f32]) {
    let one_to_two = |words: [u32; N]| words.map(|w| f32::from_bits(w >> 9 | 0x3f80_0000));
    for (pair, words) in words.as_chunks::<2>().0.iter().enumerate() {
        let (radius, turn) = (one_to_two(words[0]), one_to_two(words[1]));
        for at in (0..N).step_by(V::LANES) {
            // In (0, 1], and half a turn either way: the half angle is within a quarter turn.
            let u = V::splat(2.0) - V::load(&radius[at..]);
            let half = (V::load(&turn[at..]) - V::splat(1.5)) * V::splat(std::f64::consts::PI);
            let r = (V::splat(-2.0) * u.ln()).max(V::splat(0.0)).sqrt();
            let z = half * half;
            let (mut s, mut c) = (V::splat(-1.0 / 39_916_800.0), V::splat(1.0 / 479_001_600.0));
            for factor in [1.0 / 362_880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0] {
                s = s.fma(z, V::splat(factor));
            }
            for factor in [-1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0]
            {
                c = c.fma(z, V::splat(factor));
            }
            let s = s * half;
            let twice = s + s;
            let cosines = r * (V::splat(1.0) - twice * s);
            let sines = r * (twice * c);
            scatter(cosines, at, 2 * pair * WIDE, out);
            scatter(sines, at, (2 * pair + 1) * WIDE, out);
        }
    }
}

/// To the blocks of counters from `at` on, `first` being the place in a block.
#[inline(always)]
fn scatter<V: Vector<Element = f32>>(values: V, at: usize, first: usize, out: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    values.store(&mut lanes);
    let width = V::LANES.min(WIDE);
    for (index, part) in lanes[..V::LANES].chunks_exact(width).enumerate() {
        let counter = at + index * width;
        let to = counter / WIDE * BLOCK + first + counter % WIDE;
        out[to..to + width].copy_from_slice(part);
    }
}

/// A permutation of `0..length`.
pub(crate) fn shuffled(seed: u64, epoch: u32, length: usize) -> Vec<u32> {
    order(Stream { seed, purpose: ORDER, step: epoch, index: 0 }, length)
}

/// Samples in an order of their own for a seed, to choose some.
pub(crate) fn drawn_order(seed: u64, length: usize) -> Vec<u32> {
    order(Stream { seed, purpose: SPLIT, step: 0, index: 0 }, length)
}

/// The weights of a layer in an order of their own for a seed, to choose some.
#[cfg(feature = "cli")]
pub(crate) fn random_order(seed: u64, layer: usize, length: usize) -> Vec<u32> {
    order(Stream { seed, purpose: EXPERIMENT, step: layer as u32, index: 1 }, length)
}

fn order(stream: Stream, length: usize) -> Vec<u32> {
    let mut words = vec![0; 2 * length];
    stream.integers(&mut words);
    let mut order: Vec<u32> = (0..length as u32).collect();
    for last in (1..length).rev() {
        let word = u64::from(words[2 * last]) << 32 | u64::from(words[2 * last + 1]);
        let chosen = ((u128::from(word) * (last as u128 + 1)) >> 64) as usize;
        order.swap(last, chosen);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Philox.
    #[test]
    fn philox_gives_the_known_answers() {
        let run = |counter: [u32; 4], key| philox(counter.map(|c| [c; WIDE]), key).map(|w| w[3]);
        assert_eq!(run([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            run([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            run([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
        // Each lane has its own counter.
        let counters = [[1, 2, 3, 4, 5, 6, 7, 8], [9; WIDE], [10; WIDE], [11; WIDE]];
        let all = philox(counters, [12, 13]);
        for lane in 0..WIDE {
            let alone = run(counters.map(|words| words[lane]), [12, 13]);
            assert_eq!(all.map(|words| words[lane]), alone);
        }
    }

    #[test]
    fn normals_have_the_moments_of_the_normal_distribution() {
        for isa in Isa::supported() {
            let mut z = vec![0.0; 1 << 20];
            Stream { seed: 7, purpose: 1, step: 2, index: 3 }.normals(isa, &mut z);
            let moment = |power: i32| {
                z.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / z.len() as f64
            };
            // Four standard errors each: sqrt((2k-1)!! variances / 2^20).
            for (power, exact, tolerance) in [
                (1, 0.0, 0.004),
                (2, 1.0, 0.0056),
                (3, 0.0, 0.0152),
                (4, 3.0, 0.039),
                (6, 15.0, 0.4),
            ] {
                assert!((moment(power) - exact).abs() < tolerance, "{isa:?} {power}");
            }
            let neighbors = z.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>();
            assert!((neighbors / z.len() as f64).abs() < 0.004);
        }
    }

    #[test]
    fn uniforms_are_between_0_and_1_and_evenly_spread() {
        let stream = Stream { seed: 7, purpose: 1, step: 2, index: 3 };
        let mut all = vec![0.0; 1 << 20];
        stream.uniforms(Isa::best(), &mut all);
        assert!(all.iter().all(|u| *u > 0.0 && *u < 1.0));
        let mut portable = vec![0.0; 77];
        stream.uniforms(Isa::Portable, &mut portable);
        assert_eq!(portable, all[..77]);
        let mut bins = [0u32; 64];
        all.iter().for_each(|u| bins[(u * 64.0) as usize] += 1);
        let expected = all.len() as f64 / 64.0;
        let chi2: f64 = bins.iter().map(|b| (f64::from(*b) - expected).powi(2) / expected).sum();
        // Of 63 degrees of freedom: five standard deviations.
        assert!((chi2 - 63.0).abs() < 5.0 * 11.23, "{chi2}");
        let neighbors = all.windows(2).map(|w| f64::from((w[0] - 0.5) * (w[1] - 0.5))).sum::<f64>();
        assert!((neighbors / all.len() as f64).abs() < 5.0 / 12.0 / 1024.0);
    }

    #[test]
    fn instruction_sets_agree_and_lengths_do_not_matter() {
        let stream = Stream { seed: 1, purpose: 2, step: 3, index: 4 };
        let (mut a, mut b) = (vec![0.0; 1000], vec![0.0; 77]);
        stream.normals(Isa::Portable, &mut a);
        stream.normals(Isa::best(), &mut b);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 2e-5));
        let mut c = vec![0.0; 1000];
        stream.normals(Isa::best(), &mut c);
        assert_eq!(b, c[..77]);
    }

    #[test]
    fn a_shuffle_is_a_permutation_that_differs_by_epoch() {
        let (a, b) = (shuffled(1, 0, 1000), shuffled(1, 1, 1000));
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..1000) && a != b && a == shuffled(1, 0, 1000));
    }
}
