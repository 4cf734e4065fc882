//! AVX-512: sixteen floats to a vector, eight by AVX2.

use std::arch::x86_64::*;

use super::avx2::{self, Avx2};
use super::{Kernel, MAX_LANES, Token, Vector};

/// Exists only where the CPU has AVX-512F, and AVX2 with FMA beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Token for Avx512 {
    type F32s = F32x16;

    #[inline]
    fn new() -> Option<Self> {
        Avx2::new().filter(|_| is_x86_feature_detected!("avx512f")).map(|_| Self(()))
    }

    #[inline]
    fn compiled<K: Kernel>(self) -> unsafe fn(K) {
        compiled::<K>
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx2,fma")]
fn compiled<K: Kernel>(kernel: K) {
    kernel.run::<F32x16>();
}

/// Sixteen floats. Only kernels that the token runs know the type, so the CPU that gets here has the
/// instructions: "the token proves" below.
#[derive(Clone, Copy)]
pub struct F32x16(__m512);

#[cfg(feature = "int8")]
impl F32x16 {
    /// The floats of a register.
    #[inline(always)]
    pub(super) fn of(floats: __m512) -> Self {
        Self(floats)
    }
}

/// A vector, whose lanes an intrinsic makes of those of others.
macro_rules! lanes {
    ($intrinsic:path, $first:ident $(, $other:ident)*) => {
        // SAFETY: the token proves AVX-512F.
        F32x16(unsafe { $intrinsic($first.0 $(, $other.0)*) })
    };
}

impl Vector for F32x16 {
    type Element = f32;
    const LANES: usize = MAX_LANES;
    const REGISTERS: usize = 32;
    type Eight = avx2::F32x8;

    #[inline(always)]
    fn splat(value: impl Into<f64>) -> Self {
        // SAFETY: the token proves AVX-512F.
        Self(unsafe { _mm512_set1_ps(value.into() as f32) })
    }

    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the token proves AVX-512F, the caller sixteen readable floats.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn write(self, to: *mut f32) {
        // SAFETY: the token proves AVX-512F, the caller sixteen writable floats.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn read_first(from: *const f32, count: usize) -> Self {
        let lanes = (1u32 << count.min(MAX_LANES)) - 1;
        // SAFETY: the token proves AVX-512F; what the mask leaves out is not touched, the rest the
        // caller's promise.
        Self(unsafe { _mm512_maskz_loadu_ps(lanes as u16, from) })
    }

    #[inline(always)]
    unsafe fn write_first(self, to: *mut f32, count: usize) {
        let lanes = (1u32 << count.min(MAX_LANES)) - 1;
        // SAFETY: the token proves AVX-512F; what the mask leaves out is not touched, the rest the
        // caller's promise.
        unsafe { _mm512_mask_storeu_ps(to, lanes as u16, self.0) }
    }

    #[inline(always)]
    unsafe fn gather(x: *const f32, at: *const u16) -> Self {
        // SAFETY: the token proves AVX-512F; the caller promises sixteen indices and what they
        // point to.
        Self(unsafe {
            let at = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_i32gather_ps::<4>(at, x)
        })
    }

    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    unsafe fn gather_pairs(x: *const f32, at: *const u16) -> (Self, Self) {
        // SAFETY: the token proves AVX-512F; the caller promises sixteen indices and the pairs they point to.
        unsafe {
            let eight = |at: *const u16| {
                let at = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm512_castpd_ps(_mm512_i32gather_pd::<8>(at, x.cast()))
            };
            let (a, b) = (eight(at), eight(at.add(8)));
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (Self(_mm512_permutex2var_ps(a, even, b)), Self(_mm512_permutex2var_ps(a, odd, b)))
        }
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        lanes!(_mm512_fmadd_ps, self, b, c)
    }

    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: the token proves AVX-512F. The second operand is the result where one is NaN.
        Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
    }

    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        // SAFETY: the token proves AVX-512F. The instruction takes the other where one is NaN.
        Self(unsafe {
            let missing = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            _mm512_mask_mov_ps(_mm512_max_ps(self.0, other.0), missing, self.0)
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) {
        // SAFETY: the token proves AVX-512F, AVX2 and FMA.
        unsafe { compiled(kernel) }
    }
}

#[cfg(feature = "train")]
mod arithmetic {
    use std::ops::{Add, Div, Mul, Sub};

    use super::*;
    use crate::simd::{Arithmetic, math::operators};

    operators!(F32x16, lanes: Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);

    impl Arithmetic for F32x16 {
        #[inline(always)]
        fn sqrt(self) -> Self {
            lanes!(_mm512_sqrt_ps, self)
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            lanes!(_mm512_max_ps, self, other)
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            lanes!(_mm512_min_ps, self, other)
        }
        #[inline(always)]
        fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
            // SAFETY: the token proves AVX-512F.
            Self(unsafe {
                let greater = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, than.0);
                _mm512_mask_blend_ps(greater, otherwise.0, then.0)
            })
        }
        #[inline(always)]
        fn is_zero(self) -> bool {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, _mm512_setzero_ps()) == 0xffff }
        }
        #[inline(always)]
        fn round(self) -> Self {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            lanes!(_mm512_roundscale_ps::<NEAREST>, self)
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            // SAFETY: the token proves AVX-512F.
            Self(unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            })
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            // SAFETY: the token proves AVX-512F.
            unsafe {
                let bits = _mm512_castps_si512(self.0);
                let exponent =
                    _mm512_add_epi32(_mm512_srli_epi32::<23>(bits), _mm512_set1_epi32(-127));
                let mantissa = _mm512_and_si512(bits, _mm512_set1_epi32((1 << 23) - 1));
                let mantissa = _mm512_or_si512(mantissa, _mm512_set1_epi32(127 << 23));
                (Self(_mm512_castsi512_ps(mantissa)), Self(_mm512_cvtepi32_ps(exponent)))
            }
        }
    }
}
