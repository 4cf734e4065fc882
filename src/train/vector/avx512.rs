//! Sixteen f32 in one register. Its operations may only run on a processor with AVX-512F, which holds
//! because the type is private and used by `dispatch` alone.

use super::*;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Lanes(__m512);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for Lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the processor has AVX-512F, see the module.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}
operator!(Add, add, _mm512_add_ps);
operator!(Sub, sub, _mm512_sub_ps);
operator!(Mul, mul, _mm512_mul_ps);
operator!(Div, div, _mm512_div_ps);

impl Vector for Lanes {
    type Element = f32;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe { _mm512_set1_ps(value as f32) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..16];
        // SAFETY: AVX-512F as above; sixteen values are there.
        Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..16];
        // SAFETY: AVX-512F as above; there is room for sixteen values.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, than.0);
            _mm512_mask_blend_ps(mask, otherwise.0, then.0)
        })
    }
    #[inline(always)]
    fn is_zero(self) -> bool {
        // SAFETY: the processor has AVX-512F, see the module.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, _mm512_setzero_ps()) == 0xffff }
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: the processor has AVX-512F, see the module.
        Self(unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: the processor has AVX-512F, see the module.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let exponent = _mm512_sub_epi32(_mm512_srli_epi32::<23>(bits), _mm512_set1_epi32(127));
            let mantissa = _mm512_or_si512(
                _mm512_and_si512(bits, _mm512_set1_epi32((1 << 23) - 1)),
                _mm512_set1_epi32(127 << 23),
            );
            (Self(_mm512_castsi512_ps(mantissa)), Self(_mm512_cvtepi32_ps(exponent)))
        }
    }
}
