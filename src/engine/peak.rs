//! How many multiply-adds a CPU can do: what inference is measured against.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Tier;
use super::kernels::{Simd, WIDTH, Work};

/// Vectors that are summed up side by side, enough to hide the latency of an addition on any CPU.
const CHAINS: usize = 12;

/// Multiply-adds of each chain between two looks at the clock.
const STEPS: usize = 4096;

/// Billions of floating-point operations in a second that `threads` threads do in registers alone,
/// a multiply-add counting as two; the best of many runs of some 10 microseconds.
pub fn peak_gflops(tier: Tier, threads: usize, time: Duration) -> f64 {
    let one = || {
        let mut best = f64::INFINITY;
        let start = Instant::now();
        while start.elapsed() < time {
            let run = Instant::now();
            let mut sum = 0.0;
            tier.with(Chains { factor: black_box(0.5), sum: &mut sum });
            black_box(sum);
            best = best.min(run.elapsed().as_secs_f64());
        }
        (2 * CHAINS * STEPS * WIDTH) as f64 * 1e-9 / best
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        one() + others.into_iter().filter_map(|other| other.join().ok()).sum::<f64>()
    })
}

struct Chains<'a> {
    factor: f32,
    sum: &'a mut f32,
}

impl Work for Chains<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(self.factor);
        let mut chains = [simd.splat(1.0); CHAINS];
        for _ in 0..STEPS {
            for chain in &mut chains {
                *chain = simd.mul_add(*chain, factor, factor);
            }
        }
        *self.sum = chains.into_iter().map(|chain| simd.sum(chain)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_unit_does_more_than_a_billion_operations_a_second() {
        for tier in Tier::supported() {
            let found = peak_gflops(tier, 1, Duration::from_millis(2));
            assert!((0.05..1e4).contains(&found), "{tier:?}: {found}");
        }
    }
}
