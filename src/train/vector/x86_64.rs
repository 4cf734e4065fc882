//! Eight f32 in a register of AVX2, sixteen in one of AVX-512. Their operations may only run on a
//! processor that has these, which holds because the types are private and used by `dispatch` alone.

use super::*;
use std::arch::x86_64::{__m256, __m512, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT};

/// AVX2 and FMA by short names.
mod avx2 {
    use std::arch::x86_64::*;

    pub(super) use std::arch::x86_64::{
        _mm256_add_epi32 as add_integers, _mm256_add_ps as add, _mm256_and_si256 as and,
        _mm256_castps_si256 as bits, _mm256_castsi256_ps as from_bits,
        _mm256_cvtepi32_ps as from_integers, _mm256_cvtps_epi32 as to_integers,
        _mm256_div_ps as div, _mm256_fmadd_ps as fma, _mm256_loadu_ps as load,
        _mm256_max_ps as max, _mm256_min_ps as min, _mm256_mul_ps as mul, _mm256_or_si256 as or,
        _mm256_round_ps as round, _mm256_set1_epi32 as splat_integer, _mm256_set1_ps as splat,
        _mm256_slli_epi32 as shift_left, _mm256_sqrt_ps as sqrt, _mm256_srli_epi32 as shift_right,
        _mm256_storeu_ps as store, _mm256_sub_ps as sub,
    };

    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    pub(super) unsafe fn select_greater(a: __m256, b: __m256, then: __m256, or: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_blendv_ps(or, then, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
    }

    /// # Safety
    /// The processor has AVX2.
    #[inline(always)]
    pub(super) unsafe fn is_zero(v: __m256) -> bool {
        // SAFETY: the caller's promise.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v, _mm256_setzero_ps())) == 0xff }
    }
}

/// AVX-512F by the same names.
mod avx512 {
    use std::arch::x86_64::*;

    pub(super) use std::arch::x86_64::{
        _mm512_add_epi32 as add_integers, _mm512_add_ps as add, _mm512_and_si512 as and,
        _mm512_castps_si512 as bits, _mm512_castsi512_ps as from_bits,
        _mm512_cvtepi32_ps as from_integers, _mm512_cvtps_epi32 as to_integers,
        _mm512_div_ps as div, _mm512_fmadd_ps as fma, _mm512_loadu_ps as load,
        _mm512_max_ps as max, _mm512_min_ps as min, _mm512_mul_ps as mul, _mm512_or_si512 as or,
        _mm512_roundscale_ps as round, _mm512_set1_epi32 as splat_integer, _mm512_set1_ps as splat,
        _mm512_slli_epi32 as shift_left, _mm512_sqrt_ps as sqrt, _mm512_srli_epi32 as shift_right,
        _mm512_storeu_ps as store, _mm512_sub_ps as sub,
    };

    /// # Safety
    /// The processor has AVX-512F.
    #[inline(always)]
    pub(super) unsafe fn select_greater(a: __m512, b: __m512, then: __m512, or: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), or, then) }
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[inline(always)]
    pub(super) unsafe fn is_zero(v: __m512) -> bool {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(v, _mm512_setzero_ps()) == 0xffff }
    }
}

macro_rules! operator {
    ($lanes:ident, $isa:ident, $trait:ident, $method:ident) => {
        impl $trait for $lanes {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the processor has the instruction, see the module.
                Self(unsafe { $isa::$method(self.0, other.0) })
            }
        }
    };
}

macro_rules! lanes {
    ($lanes:ident, $register:ty, $count:literal, $registers:literal, $isa:ident) => {
        #[derive(Clone, Copy)]
        pub(super) struct $lanes($register);

        operator!($lanes, $isa, Add, add);
        operator!($lanes, $isa, Sub, sub);
        operator!($lanes, $isa, Mul, mul);
        operator!($lanes, $isa, Div, div);

        impl Vector for $lanes {
            type Element = f32;
            const LANES: usize = $count;
            const REGISTERS: usize = $registers;

            #[inline(always)]
            fn splat(value: f64) -> Self {
                // SAFETY: the processor has the instruction, see the module; so below.
                Self(unsafe { $isa::splat(value as f32) })
            }
            #[inline(always)]
            fn load(values: &[f32]) -> Self {
                let values = &values[..$count];
                // SAFETY: as many values are there.
                Self(unsafe { $isa::load(values.as_ptr()) })
            }
            #[inline(always)]
            fn store(self, values: &mut [f32]) {
                let values = &mut values[..$count];
                // SAFETY: there is room for as many values.
                unsafe { $isa::store(values.as_mut_ptr(), self.0) }
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $isa::fma(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $isa::sqrt(self.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $isa::max(self.0, other.0) })
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $isa::min(self.0, other.0) })
            }
            #[inline(always)]
            fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $isa::select_greater(self.0, than.0, then.0, otherwise.0) })
            }
            #[inline(always)]
            fn is_zero(self) -> bool {
                // SAFETY: as above.
                unsafe { $isa::is_zero(self.0) }
            }
            #[inline(always)]
            fn round(self) -> Self {
                const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                // SAFETY: as above.
                Self(unsafe { $isa::round::<NEAREST>(self.0) })
            }
            #[inline(always)]
            fn power_of_two(self) -> Self {
                // SAFETY: as above.
                Self(unsafe {
                    let bias = $isa::splat_integer(127);
                    let biased = $isa::add_integers($isa::to_integers(self.0), bias);
                    $isa::from_bits($isa::shift_left::<23>(biased))
                })
            }
            #[inline(always)]
            fn split(self) -> (Self, Self) {
                // SAFETY: as above.
                unsafe {
                    let bits = $isa::bits(self.0);
                    let bias = $isa::splat_integer(-127);
                    let exponent = $isa::add_integers($isa::shift_right::<23>(bits), bias);
                    let mantissa = $isa::or(
                        $isa::and(bits, $isa::splat_integer((1 << 23) - 1)),
                        $isa::splat_integer(127 << 23),
                    );
                    (Self($isa::from_bits(mantissa)), Self($isa::from_integers(exponent)))
                }
            }
        }
    };
}

lanes!(Eight, __m256, 8, 16, avx2);
lanes!(Sixteen, __m512, 16, 32, avx512);
