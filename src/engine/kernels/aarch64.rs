//! NEON: a vector is two registers. There is no gather; eight scalar loads take its place.

use std::arch::aarch64::*;

use super::{Simd, WIDTH, Work};

/// Exists only where the CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// The token, if the CPU qualifies.
    #[inline]
    pub(super) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

type V = [float32x4_t; 2];

#[target_feature(enable = "neon")]
fn compiled<W: Work>(token: Neon, work: W) {
    work.run(token);
}

impl Simd for Neon {
    type V = V;

    #[inline(always)]
    fn run<W: Work>(self, work: W) {
        // SAFETY: the token proves that the CPU has NEON.
        unsafe { compiled(self, work) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        // SAFETY: the token proves NEON.
        unsafe { [vdupq_n_f32(value); 2] }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the token proves NEON, the caller eight readable numbers.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: the token proves NEON, the caller eight writable numbers.
        unsafe {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
        }
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // SAFETY: the token proves NEON.
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }

    #[inline(always)]
    fn relu(self, v: V) -> V {
        // SAFETY: the token proves NEON, whose maximum with NaN is NaN.
        unsafe { v.map(|v| vmaxq_f32(v, vdupq_n_f32(0.0))) }
    }

    #[inline(always)]
    unsafe fn gather(self, x: *const f32, at: *const u16) -> V {
        let mut lanes = [0f32; WIDTH];
        for (lane, value) in lanes.iter_mut().enumerate() {
            // SAFETY: the caller promises eight indices and the numbers they point to.
            *value = unsafe { *x.add(usize::from(*at.add(lane))) };
        }
        // SAFETY: eight numbers on the stack.
        unsafe { self.load(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        // SAFETY: the token proves NEON.
        unsafe { vaddvq_f32(vaddq_f32(v[0], v[1])) }
    }

    #[inline(always)]
    fn transpose(self, rows: [V; 8]) -> [V; 8] {
        let (mut from, mut to) = ([[0f32; WIDTH]; 8], rows);
        for (array, row) in from.iter_mut().zip(rows) {
            // SAFETY: eight numbers on the stack.
            unsafe { self.store(array.as_mut_ptr(), row) }
        }
        for (column, out) in to.iter_mut().enumerate() {
            let lanes: [f32; WIDTH] = std::array::from_fn(|row| from[row][column]);
            // SAFETY: eight numbers on the stack.
            *out = unsafe { self.load(lanes.as_ptr()) };
        }
        to
    }
}
