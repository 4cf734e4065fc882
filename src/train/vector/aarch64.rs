//! Four f32 in one register, which every aarch64 processor has.

use super::*;
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(super) struct Lanes(float32x4_t);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for Lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: NEON is part of the target.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}
operator!(Add, add, vaddq_f32);
operator!(Sub, sub, vsubq_f32);
operator!(Mul, mul, vmulq_f32);
operator!(Div, div, vdivq_f32);

impl Lanes {
    /// `self` where the mask is set, else `other`.
    #[inline(always)]
    fn or(self, mask: uint32x4_t, other: Self) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe { vbslq_f32(mask, self.0, other.0) })
    }
}

impl Vector for Lanes {
    type Element = f32;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe { vdupq_n_f32(value as f32) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..4];
        // SAFETY: NEON is part of the target; four values are there.
        Self(unsafe { vld1q_f32(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..4];
        // SAFETY: NEON is part of the target; there is room for four values.
        unsafe { vst1q_f32(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe { vsqrtq_f32(self.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: NEON is part of the target.
        self.or(unsafe { vcgtq_f32(self.0, other.0) }, other)
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: NEON is part of the target.
        self.or(unsafe { vcltq_f32(self.0, other.0) }, other)
    }
    #[inline(always)]
    fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: NEON is part of the target.
        then.or(unsafe { vcgtq_f32(self.0, than.0) }, otherwise)
    }
    #[inline(always)]
    fn is_zero(self) -> bool {
        // SAFETY: NEON is part of the target.
        unsafe { vminvq_u32(vceqzq_f32(self.0)) == u32::MAX }
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe { vrndnq_f32(self.0) })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: NEON is part of the target.
        Self(unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: NEON is part of the target.
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let exponent = vreinterpretq_s32_u32(vshrq_n_u32::<23>(bits));
            let exponent = vcvtq_f32_s32(vsubq_s32(exponent, vdupq_n_s32(127)));
            let mantissa = vandq_u32(bits, vdupq_n_u32((1 << 23) - 1));
            let mantissa = vorrq_u32(mantissa, vdupq_n_u32(127 << 23));
            (Self(vreinterpretq_f32_u32(mantissa)), Self(exponent))
        }
    }
}
