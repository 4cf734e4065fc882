//! Random numbers that depend only on where they are used: Philox4x32 (Salmon, Moraes, Dror and Shaw,
//! *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) in ten rounds, over counters made of sample, layer
//! and place, and Box and Muller's transform.
//!
//! Plain loops without branches and without fused multiply-adds: the same bits on every CPU, whatever vectors
//! a compiler makes of them, and for any number of threads.

/// Numbers of one counter.
pub const QUAD: usize = 4;

/// The normals of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Chosen by the user.
    pub seed: u64,
    /// The layer whose outputs they are for.
    pub layer: u32,
}

impl Stream {
    /// The stream of draws from logits, which no layer has.
    pub const LINK: u32 = u32::MAX;

    /// The stream of tables of normals.
    pub const TABLE: u32 = u32::MAX - 1;

    /// The first word of each counter in a sample.
    #[inline(always)]
    pub fn words<const N: usize>(self, counters: [u32; N], sample: u32) -> [u32; N] {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        philox([counters, [sample; N], [self.layer; N], [1; N]], key)[0]
    }

    /// Normals of `N` quads: those of places `4 q` to `4 q + 3` in the sample that stands beside q.
    #[inline(always)]
    pub fn quads<const N: usize>(self, quads: [u32; N], samples: [u32; N]) -> [[f32; N]; QUAD] {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        normals(philox([quads, samples, [self.layer; N], [0; N]], key))
    }

    /// Normals of consecutive places from a multiple of four on, in one sample.
    #[inline(always)]
    pub fn places(self, sample: u32, first: usize, out: &mut [f32]) {
        const WIDE: usize = 8;
        for (block, out) in out.chunks_mut(QUAD * WIDE).enumerate() {
            let start = (first / QUAD + block * WIDE) as u32;
            let quads = std::array::from_fn(|lane| start.wrapping_add(lane as u32));
            let four = self.quads::<WIDE>(quads, [sample; WIDE]);
            for (lane, out) in out.chunks_mut(QUAD).enumerate() {
                out.iter_mut().zip(&four).for_each(|(out, of)| *out = of[lane]);
            }
        }
    }
}

/// Ten rounds on N counters.
#[inline(always)]
fn philox<const N: usize>(counter: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    let [mut a, mut b, mut c, mut d] = counter;
    for _ in 0..10 {
        for lane in 0..N {
            let first = u64::from(a[lane]) * MULTIPLIERS[0];
            let second = u64::from(c[lane]) * MULTIPLIERS[1];
            a[lane] = (second >> 32) as u32 ^ b[lane] ^ key[0];
            b[lane] = second as u32;
            c[lane] = (first >> 32) as u32 ^ d[lane] ^ key[1];
            d[lane] = first as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    [a, b, c, d]
}

/// Pairs of words to pairs of normals. Each word gives 23 bits; the largest magnitude is 5.65.
#[inline(always)]
fn normals<const N: usize>(words: [[u32; N]; 4]) -> [[f32; N]; 4] {
    let mut out = [[0.0; N]; 4];
    for pair in [0, 2] {
        for lane in 0..N {
            let one_to_two = |word: u32| f32::from_bits(word >> 9 | 0x3f80_0000);
            let radius = (-2.0 * ln(2.0 - one_to_two(words[pair][lane]))).max(0.0).sqrt();
            let (cos, sin) = turn(one_to_two(words[pair + 1][lane]) - 1.5);
            out[pair][lane] = radius * cos;
            out[pair + 1][lane] = radius * sin;
        }
    }
    out
}

/// Natural logarithm of a normal number, to within 2e-7 plus 1.2e-7 of it.
#[inline(always)]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let m = f32::from_bits(bits & 0x7f_ffff | 0x3f80_0000);
    let e = ((bits >> 23) as i32 - 127) as f32;
    let large = m > std::f32::consts::SQRT_2;
    let (m, e) = (if large { 0.5 * m } else { m }, if large { e + 1.0 } else { e });
    // ln m = 2 artanh((m - 1) / (m + 1)), the argument at most 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 2.0 / 9.0;
    for factor in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        p = p * z + factor;
    }
    e * std::f32::consts::LN_2 + p * s
}

/// Cosine and sine of a part of a turn, from -1/2 to 1/2: from those of half the angle, by their series.
#[inline(always)]
fn turn(part: f32) -> (f32, f32) {
    let half = part * std::f32::consts::PI;
    let z = half * half;
    let (mut s, mut c) = (-1.0 / 39_916_800.0, 1.0 / 479_001_600.0);
    for factor in [1.0 / 362_880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0] {
        s = s * z + factor;
    }
    for factor in [-1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0] {
        c = c * z + factor;
    }
    let s = s * half;
    (1.0 - 2.0 * s * s, 2.0 * s * c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Philox.
    #[test]
    fn philox_gives_the_known_answers() {
        let run = |counter: [u32; 4], key| philox(counter.map(|c| [c; 2]), key).map(|w| w[1]);
        assert_eq!(run([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            run([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn normals_have_the_moments_of_the_normal_distribution() {
        let mut z = vec![0.0; 1 << 20];
        Stream { seed: 7, layer: 1 }.places(3, 0, &mut z);
        let moment =
            |power: i32| z.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / z.len() as f64;
        // Four standard errors each.
        for (power, exact, tolerance) in
            [(1, 0.0, 0.004), (2, 1.0, 0.0056), (3, 0.0, 0.0152), (4, 3.0, 0.039), (6, 15.0, 0.4)]
        {
            assert!((moment(power) - exact).abs() < tolerance, "{power}: {}", moment(power));
        }
        for apart in [1, 2, 3, 4, 32] {
            let products = z.iter().zip(&z[apart..]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert!((products / z.len() as f64).abs() < 0.004, "{apart}");
        }
    }

    #[test]
    fn samples_layers_and_seeds_are_independent_and_places_are_the_same_however_asked_for() {
        let draw = |seed, layer, sample| {
            let mut z = vec![0.0; 4096];
            Stream { seed, layer }.places(sample, 0, &mut z);
            z
        };
        let all = [draw(1, 0, 0), draw(1, 0, 1), draw(1, 1, 0), draw(2, 0, 0), draw(1 << 32, 0, 0)];
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                let r = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / 4096.0;
                assert!(r.abs() < 4.0 / 64.0, "{r}");
            }
        }
        let stream = Stream { seed: 1, layer: 0 };
        let mut part = [0.0; 37];
        stream.places(1, 400, &mut part);
        assert_eq!(part, all[1][400..437]);
        let four = stream.quads::<8>([100; 8], std::array::from_fn(|sample| sample as u32));
        assert_eq!(four.map(|lanes| lanes[1]), all[1][400..404]);
        assert_eq!(four.map(|lanes| lanes[0]), all[0][400..404]);
    }
}
