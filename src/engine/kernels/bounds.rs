//! What the core can do at best: the yardsticks of the kernels.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Aligned;
use crate::simd::{Isa, Kernel, Vector};

/// Measured rates of one core, for an instruction set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Multiply-adds in registers, in 10^9 operations per second, two to a multiply-add.
    pub gflops: f64,
    /// Multiply-adds that read one operand from 16 KiB, likewise.
    pub gflops_near: f64,
    /// Reading 256 KiB again and again, in 10^9 bytes per second.
    pub gigabytes: f64,
    /// One float at an index of 16 bits, times a weight, in nanoseconds.
    pub gather_ns: f64,
}

impl Bounds {
    /// Measures for about a fifth of a second.
    pub fn measure(isa: Isa) -> Self {
        let mut x = Aligned::zeros(64 << 10);
        let x = &*x.floats();
        let indices: Vec<u16> =
            (0..1u32 << 13).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as u16).collect();
        let seconds = |what| least_seconds(isa, what, (x, &indices), Duration::from_millis(50));
        Self {
            gflops: flops(isa) / seconds(What::Registers) / 1e9,
            gflops_near: flops(isa) / seconds(What::Near) / 1e9,
            gigabytes: (x.len() * 4) as f64 / seconds(What::Read) / 1e9,
            gather_ns: seconds(What::Gather) / indices.len() as f64 * 1e9,
        }
    }
}

/// Billions of floating-point operations in a second that `threads` threads do in registers alone,
/// a multiply-add counting as two, each in the best run of `time`.
pub fn peak_gflops(isa: Isa, threads: usize, time: Duration) -> f64 {
    let one = || flops(isa) / least_seconds(isa, What::Registers, (&[], &[]), time) / 1e9;
    std::thread::scope(|scope| {
        // As many as the system has.
        let other = |_| std::thread::Builder::new().spawn_scoped(scope, one).ok();
        let others: Vec<_> = (1..threads).map_while(other).collect();
        one() + others.into_iter().filter_map(|other| other.join().ok()).sum::<f64>()
    })
}

/// The shortest run of a probe.
fn least_seconds(isa: Isa, what: What, (x, indices): (&[f32], &[u16]), time: Duration) -> f64 {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed() < time {
        let start = Instant::now();
        isa.run(Probe { what, x: black_box(x), indices });
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Independent sums: enough to hide the latency of a multiply-add.
const CHAINS: usize = 12;

/// Steps of each sum in a probe.
const ROUNDS: usize = 2000;

/// Operations of a probe of multiply-adds.
fn flops(isa: Isa) -> f64 {
    (ROUNDS * CHAINS * isa.lanes() * 2) as f64
}

#[derive(Clone, Copy)]
enum What {
    Registers,
    Near,
    Read,
    Gather,
}

struct Probe<'a> {
    what: What,
    x: &'a [f32],
    indices: &'a [u16],
}

impl Kernel for Probe<'_> {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        let Self { what, x, indices } = self;
        let mut sums = [V::splat(black_box(0.0)); CHAINS];
        let (a, b) = (V::splat(black_box(0.5)), V::splat(black_box(0.25)));
        let registers = matches!(what, What::Registers);
        assert!(registers || x.len() >= 1 << 12 && x.len() % (8 * V::LANES) == 0);
        // SAFETY: reads of Near end below 4096 floats, those of Read at the slice's length; the
        // indices are below 4096.
        unsafe {
            match what {
                What::Registers => {
                    for _ in 0..ROUNDS {
                        sums.iter_mut().for_each(|sum| *sum = sum.fma(a, b));
                    }
                }
                What::Near => {
                    for round in 0..ROUNDS {
                        let x = x.as_ptr().add(round % (256 / V::LANES) * CHAINS * V::LANES);
                        for (k, sum) in sums.iter_mut().enumerate() {
                            *sum = V::read(x.add(k * V::LANES)).fma(a, *sum);
                        }
                    }
                }
                What::Read => {
                    for at in (0..x.len()).step_by(8 * V::LANES) {
                        for (k, sum) in sums.iter_mut().take(8).enumerate() {
                            *sum = V::read(x.as_ptr().add(at + k * V::LANES)).fma(a, *sum);
                        }
                    }
                }
                What::Gather => {
                    for at in indices.chunks_exact(4 * V::LANES) {
                        for (k, sum) in sums.iter_mut().take(4).enumerate() {
                            let at = at.as_ptr().add(k * V::LANES);
                            *sum = V::gather(x.as_ptr(), at).fma(a, *sum);
                        }
                    }
                }
            }
        }
        sums.iter().for_each(|&sum| _ = black_box(sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::simd::test_every_isa! {
        fn rates_are_those_of_a_computer(isa) {
            let bounds = Bounds::measure(isa);
            for rate in [bounds.gflops, bounds.gflops_near, bounds.gigabytes] {
                assert!((0.01..10_000.0).contains(&rate), "{bounds:?}");
            }
            assert!((0.001..1000.0).contains(&bounds.gather_ns), "{bounds:?}");
            let peak = peak_gflops(isa, 2, Duration::from_millis(2));
            assert!((0.01..10_000.0).contains(&peak), "{peak}");
        }
    }
}
