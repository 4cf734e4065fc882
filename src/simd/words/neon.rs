//! Words of NEON, by products of 16 bits or by `sdot`: eight are a pair of registers, as eight floats are.
//!
//! Both multiply signed bytes alone: activations are [shifted](super::Dots::shift).

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::neon;
use super::{WordKernel, Words};

#[inline(never)]
#[target_feature(enable = "neon")]
pub(super) fn by_neon<K: WordKernel>(kernel: K) {
    kernel.run::<Widened>();
}

#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn by_dotprod<K: WordKernel>(kernel: K) {
    kernel.run::<Dotted>();
}

/// Words of a way to multiply. The types are private to functions that are compiled for it, and called where the
/// CPU has it: what "it is there" stands for below.
macro_rules! words {
    ($name:ident, $dot:path) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name(int32x4_t, int32x4_t);

        impl Words for $name {
            type Floats = neon::F32x8;
            /// Of thirty-two registers of four words.
            const REGISTERS: usize = 16;

            #[inline(always)]
            fn splat(word: i32) -> Self {
                // SAFETY: it is there.
                let half = unsafe { vdupq_n_s32(word) };
                Self(half, half)
            }

            #[inline(always)]
            unsafe fn read(from: *const i32) -> Self {
                // SAFETY: it is there; the words are the caller's promise.
                unsafe { Self(vld1q_s32(from), vld1q_s32(from.add(4))) }
            }

            #[inline(always)]
            fn dot(self, bytes: Self, weights: Self) -> Self {
                // SAFETY: it is there.
                unsafe { Self($dot(self.0, bytes.0, weights.0), $dot(self.1, bytes.1, weights.1)) }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: it is there.
                unsafe { Self(vaddq_s32(self.0, other.0), vaddq_s32(self.1, other.1)) }
            }

            #[inline(always)]
            fn floats(self) -> Self::Floats {
                // SAFETY: it is there.
                unsafe { neon::F32x8::of(vcvtq_f32_s32(self.0), vcvtq_f32_s32(self.1)) }
            }
        }
    };
}

words!(Widened, widened);
words!(Dotted, sdot);

/// Products are of 16 bits, and so are sums of two, since no weight is -128: at most 2 * 128 * 127.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn widened(sums: int32x4_t, bytes: int32x4_t, weights: int32x4_t) -> int32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let (bytes, weights) = (vreinterpretq_s8_s32(bytes), vreinterpretq_s8_s32(weights));
        let low = vmull_s8(vget_low_s8(bytes), vget_low_s8(weights));
        let high = vmull_high_s8(bytes, weights);
        vpadalq_s16(sums, vpaddq_s16(low, high))
    }
}

/// `vdotq_s32`, which Rust has not stabilized.
///
/// # Safety
/// The CPU has dotprod.
#[inline(always)]
unsafe fn sdot(sums: int32x4_t, bytes: int32x4_t, weights: int32x4_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the caller's promise; it reads and writes these registers alone.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {bytes:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            bytes = in(vreg) bytes,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
