//! Eight f32 in one register. Its operations may only run on a processor with AVX2 and FMA, which
//! holds because the type is private and used by `dispatch` alone.

use super::*;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Lanes(__m256);

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for Lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the processor has AVX2, see the module.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}
operator!(Add, add, _mm256_add_ps);
operator!(Sub, sub, _mm256_sub_ps);
operator!(Mul, mul, _mm256_mul_ps);
operator!(Div, div, _mm256_div_ps);

impl Vector for Lanes {
    type Element = f32;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f64) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe { _mm256_set1_ps(value as f32) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..8];
        // SAFETY: AVX2 as above; eight values are there.
        Self(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..8];
        // SAFETY: AVX2 as above; there is room for eight values.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: the processor has FMA, see the module.
        Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe {
            let mask = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, than.0);
            _mm256_blendv_ps(otherwise.0, then.0, mask)
        })
    }
    #[inline(always)]
    fn is_zero(self) -> bool {
        // SAFETY: the processor has AVX2, see the module.
        unsafe {
            let equal = _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, _mm256_setzero_ps());
            _mm256_movemask_ps(equal) == 0xff
        }
    }
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: the processor has AVX2, see the module.
        Self(unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        // SAFETY: the processor has AVX2, see the module.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
            let mantissa = _mm256_or_si256(
                _mm256_and_si256(bits, _mm256_set1_epi32((1 << 23) - 1)),
                _mm256_set1_epi32(127 << 23),
            );
            (Self(_mm256_castsi256_ps(mantissa)), Self(_mm256_cvtepi32_ps(exponent)))
        }
    }
}
