//! NEON: a vector of eight is a pair of four.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::{Eight, Simd, Work};

/// Exists only where the CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// The token, if the CPU qualifies.
    #[inline]
    pub(super) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

type V = float32x4x2_t;

/// The same of both halves.
#[inline(always)]
fn both(v: V, f: impl Fn(float32x4_t) -> float32x4_t) -> V {
    float32x4x2_t(f(v.0), f(v.1))
}

#[inline(never)]
#[target_feature(enable = "neon")]
fn compiled<W: Work>(token: Neon, work: W) {
    work.run(token);
}

impl Simd for Neon {
    type V = V;
    const WIDTH: usize = super::WIDTH;
    const TILE: usize = 12;
    type Eight = Self;

    #[inline(always)]
    fn eight(self) -> Self {
        self
    }

    #[inline(always)]
    fn run<W: Work>(self, work: W) {
        // SAFETY: the token proves that the CPU has NEON.
        unsafe { compiled(self, work) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        // SAFETY: the token proves NEON.
        let half = unsafe { vdupq_n_f32(value) };
        float32x4x2_t(half, half)
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the token proves NEON, the caller eight readable numbers.
        unsafe { float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: the token proves NEON, the caller eight writable numbers.
        unsafe {
            vst1q_f32(to, v.0);
            vst1q_f32(to.add(4), v.1);
        }
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // SAFETY: the token proves NEON.
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    #[inline(always)]
    fn relu(self, v: V) -> V {
        // SAFETY: the token proves NEON, whose maximum is NaN if an operand is.
        both(v, |v| unsafe { vmaxq_f32(v, vdupq_n_f32(0.0)) })
    }

    #[inline(always)]
    unsafe fn gather(self, x: *const f32, at: *const u16) -> V {
        // SAFETY: the caller promises eight indices and the numbers they point to.
        let x: [f32; 8] = std::array::from_fn(|lane| unsafe { *x.add(usize::from(*at.add(lane))) });
        // SAFETY: eight numbers are there.
        unsafe { self.load(x.as_ptr()) }
    }

    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        // SAFETY: the token proves NEON.
        unsafe { vaddvq_f32(vaddq_f32(v.0, v.1)) }
    }
}

impl Eight for Neon {
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        // SAFETY: the token proves NEON, whose maximum is NaN if an operand is.
        unsafe { float32x4x2_t(vmaxq_f32(a.0, b.0), vmaxq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn unzip(self, a: V, b: V) -> (V, V) {
        // SAFETY: the token proves NEON.
        unsafe {
            let even = float32x4x2_t(vuzp1q_f32(a.0, a.1), vuzp1q_f32(b.0, b.1));
            (even, float32x4x2_t(vuzp2q_f32(a.0, a.1), vuzp2q_f32(b.0, b.1)))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [V; 8]) -> [V; 8] {
        // SAFETY: the token proves NEON.
        let four = |a, b, c, d| unsafe {
            let wide = |v| vreinterpretq_f64_f32(v);
            let join = |v| vreinterpretq_f32_f64(v);
            let (e0, o0) = (wide(vtrn1q_f32(a, b)), wide(vtrn2q_f32(a, b)));
            let (e1, o1) = (wide(vtrn1q_f32(c, d)), wide(vtrn2q_f32(c, d)));
            [
                join(vtrn1q_f64(e0, e1)),
                join(vtrn1q_f64(o0, o1)),
                join(vtrn2q_f64(e0, e1)),
                join(vtrn2q_f64(o0, o1)),
            ]
        };
        let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
        let (top_left, top_right) = (four(r0.0, r1.0, r2.0, r3.0), four(r0.1, r1.1, r2.1, r3.1));
        let (low_left, low_right) = (four(r4.0, r5.0, r6.0, r7.0), four(r4.1, r5.1, r6.1, r7.1));
        std::array::from_fn(|i| match i {
            0..4 => float32x4x2_t(top_left[i], low_left[i]),
            _ => float32x4x2_t(top_right[i - 4], low_right[i - 4]),
        })
    }
}
