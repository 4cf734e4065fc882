//! NEON: a vector of eight is a pair of four.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::{Eight, Kernel, MIN_LANES, Token, Vector};

/// Exists only where the CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Token for Neon {
    type F32s = F32x8;

    #[inline]
    fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    #[inline]
    fn compiled<K: Kernel>(self) -> unsafe fn(K) {
        compiled::<K>
    }
}

#[inline(never)]
#[target_feature(enable = "neon")]
fn compiled<K: Kernel>(kernel: K) {
    kernel.run::<F32x8>();
}

/// Eight floats. Only kernels that the token runs know the type, so the CPU that gets here has the
/// instructions: "the token proves" below.
#[derive(Clone, Copy)]
pub struct F32x8(float32x4_t, float32x4_t);

/// A vector, whose lanes an intrinsic makes of those of others, half by half.
macro_rules! lanes {
    ($intrinsic:path, $first:ident $(, $other:ident)*) => {
        // SAFETY: the token proves NEON.
        unsafe {
            F32x8(
                $intrinsic($first.0 $(, $other.0)*),
                $intrinsic($first.1 $(, $other.1)*),
            )
        }
    };
}

#[cfg(feature = "int8")]
impl F32x8 {
    /// The floats of two registers.
    #[inline(always)]
    pub(super) fn of(low: float32x4_t, high: float32x4_t) -> Self {
        Self(low, high)
    }
}

impl Vector for F32x8 {
    type Element = f32;
    const LANES: usize = MIN_LANES;
    /// Of thirty-two registers of four floats.
    const REGISTERS: usize = 16;
    type Eight = Self;

    #[inline(always)]
    fn splat(value: impl Into<f64>) -> Self {
        // SAFETY: the token proves NEON.
        let half = unsafe { vdupq_n_f32(value.into() as f32) };
        Self(half, half)
    }

    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the token proves NEON, the caller eight readable floats.
        unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    unsafe fn write(self, to: *mut f32) {
        // SAFETY: the token proves NEON, the caller eight writable floats.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
        }
    }

    #[inline(always)]
    unsafe fn gather(x: *const f32, at: *const u16) -> Self {
        // SAFETY: the caller promises eight indices and the floats they point to.
        let x: [f32; 8] = std::array::from_fn(|lane| unsafe { *x.add(usize::from(*at.add(lane))) });
        Self::load(&x)
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        lanes!(vfmaq_f32, c, self, b)
    }

    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    /// The maximum is NaN if an operand is.
    #[inline(always)]
    fn relu(self) -> Self {
        self.maximum(Self::splat(0.0))
    }

    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        lanes!(vmaxq_f32, self, other)
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the token proves NEON.
        unsafe { vaddvq_f32(vaddq_f32(self.0, self.1)) }
    }

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) {
        // SAFETY: the token proves NEON.
        unsafe { compiled(kernel) }
    }
}

impl Eight for F32x8 {
    #[inline(always)]
    fn unzip(self, other: Self) -> (Self, Self) {
        // SAFETY: the token proves NEON.
        unsafe {
            (
                Self(vuzp1q_f32(self.0, self.1), vuzp1q_f32(other.0, other.1)),
                Self(vuzp2q_f32(self.0, self.1), vuzp2q_f32(other.0, other.1)),
            )
        }
    }

    #[inline(always)]
    fn zip(self, other: Self) -> (Self, Self) {
        // SAFETY: the token proves NEON.
        unsafe {
            (
                Self(vzip1q_f32(self.0, other.0), vzip2q_f32(self.0, other.0)),
                Self(vzip1q_f32(self.1, other.1), vzip2q_f32(self.1, other.1)),
            )
        }
    }

    #[inline(always)]
    fn transpose(rows: [Self; 8]) -> [Self; 8] {
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
            0..4 => Self(top_left[i], low_left[i]),
            _ => Self(top_right[i - 4], low_right[i - 4]),
        })
    }
}

#[cfg(feature = "train")]
mod arithmetic {
    use std::ops::{Add, Div, Mul, Sub};

    use super::*;
    use crate::simd::Arithmetic;
    use crate::simd::math::operators;

    operators!(F32x8, lanes: Add add vaddq_f32, Sub sub vsubq_f32, Mul mul vmulq_f32, Div div vdivq_f32);

    /// Four lanes of `then` where a > b, else of `otherwise`.
    ///
    /// # Safety
    /// The CPU has NEON.
    #[inline(always)]
    unsafe fn select(
        a: float32x4_t,
        b: float32x4_t,
        then: float32x4_t,
        otherwise: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vbslq_f32(vcgtq_f32(a, b), then, otherwise) }
    }

    /// # Safety
    /// The CPU has NEON.
    #[inline(always)]
    unsafe fn power_of_two(exponent: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(exponent), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }
    }

    /// # Safety
    /// The CPU has NEON.
    #[inline(always)]
    unsafe fn mantissa(v: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let mantissa = vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32((1 << 23) - 1));
            vreinterpretq_f32_u32(vorrq_u32(mantissa, vdupq_n_u32(127 << 23)))
        }
    }

    /// # Safety
    /// The CPU has NEON.
    #[inline(always)]
    unsafe fn exponent(v: float32x4_t) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let exponent = vreinterpretq_s32_u32(vshrq_n_u32::<23>(vreinterpretq_u32_f32(v)));
            vcvtq_f32_s32(vsubq_s32(exponent, vdupq_n_s32(127)))
        }
    }

    impl Arithmetic for F32x8 {
        #[inline(always)]
        fn sqrt(self) -> Self {
            lanes!(vsqrtq_f32, self)
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            lanes!(select, self, other, self, other)
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            lanes!(select, other, self, self, other)
        }
        #[inline(always)]
        fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
            lanes!(select, self, than, then, otherwise)
        }
        #[inline(always)]
        fn is_zero(self) -> bool {
            // SAFETY: the token proves NEON.
            unsafe {
                let zeros = vandq_u32(vceqzq_f32(self.0), vceqzq_f32(self.1));
                vminvq_u32(zeros) == u32::MAX
            }
        }
        #[inline(always)]
        fn round(self) -> Self {
            lanes!(vrndnq_f32, self)
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            lanes!(power_of_two, self)
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            (lanes!(mantissa, self), lanes!(exponent, self))
        }
    }
}
