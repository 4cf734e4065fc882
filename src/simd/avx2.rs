//! AVX2 with FMA.

use std::arch::x86_64::*;

use super::{Eight, Kernel, MIN_LANES, Token, Vector};

/// Exists only where the CPU has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Token for Avx2 {
    type F32s = F32x8;

    #[inline]
    fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }

    #[inline]
    fn compiled<K: Kernel>(self) -> unsafe fn(K) {
        compiled::<K>
    }
}

#[inline(never)]
#[target_feature(enable = "avx2,fma")]
fn compiled<K: Kernel>(kernel: K) {
    kernel.run::<F32x8>();
}

/// Eight floats. Only kernels that the token runs know the type, so the CPU that gets here has the
/// instructions: "the token proves" below.
#[derive(Clone, Copy)]
pub struct F32x8(__m256);

#[cfg(feature = "int8")]
impl F32x8 {
    /// The floats of a register.
    #[inline(always)]
    pub(super) fn of(floats: __m256) -> Self {
        Self(floats)
    }
}

/// All ones in the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __m256i {
    // SAFETY: the token proves AVX2.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(MIN_LANES) as i32), lanes)
    }
}

/// Four floats.
///
/// # Safety
/// The CPU has SSE4.1; four indices at `at` can be read, and the floats there.
#[inline(always)]
unsafe fn four(x: *const f32, at: *const u16) -> __m128 {
    // SAFETY: the caller's promises.
    unsafe {
        let at = at.cast::<u64>().read_unaligned();
        let two = _mm_load_ss(x.add(at as u16 as usize));
        let two = _mm_insert_ps::<0x10>(two, _mm_load_ss(x.add((at >> 16) as u16 as usize)));
        let three = _mm_insert_ps::<0x20>(two, _mm_load_ss(x.add((at >> 32) as u16 as usize)));
        _mm_insert_ps::<0x30>(three, _mm_load_ss(x.add((at >> 48) as usize)))
    }
}

/// Two pairs of floats.
///
/// # Safety
/// Two indices at `at` can be read, and the pairs there.
#[cfg(feature = "uncertainty")]
#[inline(always)]
unsafe fn two_pairs(x: *const f32, at: *const u16) -> __m128 {
    // SAFETY: the caller's promises.
    unsafe {
        let pair = |at: *const u16| x.add(2 * usize::from(*at)).cast::<f64>();
        _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(pair(at)), pair(at.add(1))))
    }
}

/// A vector, whose lanes an intrinsic makes of those of others.
macro_rules! lanes {
    ($intrinsic:path, $first:ident $(, $other:ident)*) => {
        // SAFETY: the token proves AVX2 and FMA.
        F32x8(unsafe { $intrinsic($first.0 $(, $other.0)*) })
    };
}

impl Vector for F32x8 {
    type Element = f32;
    const LANES: usize = MIN_LANES;
    const REGISTERS: usize = 16;
    type Eight = Self;

    #[inline(always)]
    fn splat(value: impl Into<f64>) -> Self {
        // SAFETY: the token proves AVX2.
        Self(unsafe { _mm256_set1_ps(value.into() as f32) })
    }

    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the token proves AVX2, the caller eight readable floats.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn write(self, to: *mut f32) {
        // SAFETY: the token proves AVX2, the caller eight writable floats.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn read_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the token proves AVX2; what the mask leaves out is not touched, the rest the caller's
        // promise.
        Self(unsafe { _mm256_maskload_ps(from, first(count)) })
    }

    #[inline(always)]
    unsafe fn write_first(self, to: *mut f32, count: usize) {
        // SAFETY: as for reading.
        unsafe { _mm256_maskstore_ps(to, first(count), self.0) }
    }

    /// Eight loads: on the cores this was measured on they are almost twice as fast as the gather
    /// instruction, which for eight floats takes as many loads and some forty operations more.
    #[inline(always)]
    unsafe fn gather(x: *const f32, at: *const u16) -> Self {
        // SAFETY: the token proves AVX2; the caller promises eight indices and what they point to.
        Self(unsafe { _mm256_set_m128(four(x, at.add(4)), four(x, at)) })
    }

    /// Eight loads of a pair each.
    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    unsafe fn gather_pairs(x: *const f32, at: *const u16) -> (Self, Self) {
        // SAFETY: the token proves AVX2; the caller promises eight indices and the pairs they point to.
        unsafe {
            let a = _mm256_set_m128(two_pairs(x, at.add(4)), two_pairs(x, at));
            let b = _mm256_set_m128(two_pairs(x, at.add(6)), two_pairs(x, at.add(2)));
            let even = _mm256_shuffle_ps::<0b10_00_10_00>(a, b);
            (Self(even), Self(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)))
        }
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        lanes!(_mm256_fmadd_ps, self, b, c)
    }

    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: the token proves AVX2. The second operand is the result where one is NaN.
        Self(unsafe { _mm256_max_ps(_mm256_setzero_ps(), self.0) })
    }

    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        // SAFETY: the token proves AVX2. The instruction takes the other where one is NaN.
        Self(unsafe {
            let missing = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            _mm256_blendv_ps(_mm256_max_ps(self.0, other.0), self.0, missing)
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the token proves AVX2.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn call<K: Kernel>(kernel: K) {
        // SAFETY: the token proves AVX2 and FMA.
        unsafe { compiled(kernel) }
    }
}

impl Eight for F32x8 {
    #[inline(always)]
    fn unzip(self, other: Self) -> (Self, Self) {
        // SAFETY: the token proves AVX2.
        unsafe {
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(self.0, other.0));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(self.0, other.0));
            let even = _mm256_permute4x64_pd::<0b11_01_10_00>(even);
            let odd = _mm256_permute4x64_pd::<0b11_01_10_00>(odd);
            (Self(_mm256_castpd_ps(even)), Self(_mm256_castpd_ps(odd)))
        }
    }

    #[inline(always)]
    fn zip(self, other: Self) -> (Self, Self) {
        // SAFETY: the token proves AVX2.
        unsafe {
            let low = _mm256_unpacklo_ps(self.0, other.0);
            let high = _mm256_unpackhi_ps(self.0, other.0);
            let first = _mm256_permute2f128_ps::<0x20>(low, high);
            (Self(first), Self(_mm256_permute2f128_ps::<0x31>(low, high)))
        }
    }

    #[inline(always)]
    fn transpose(rows: [Self; 8]) -> [Self; 8] {
        // SAFETY: the token proves AVX2.
        unsafe {
            let pair =
                |a: Self, b: Self| (_mm256_unpacklo_ps(a.0, b.0), _mm256_unpackhi_ps(a.0, b.0));
            let (a0, a1) = pair(rows[0], rows[1]);
            let (b0, b1) = pair(rows[2], rows[3]);
            let (c0, c1) = pair(rows[4], rows[5]);
            let (d0, d1) = pair(rows[6], rows[7]);
            let low = |a, b| _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
            let high = |a, b| _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
            let (p0, p1, p2, p3) = (low(a0, b0), high(a0, b0), low(a1, b1), high(a1, b1));
            let (q0, q1, q2, q3) = (low(c0, d0), high(c0, d0), low(c1, d1), high(c1, d1));
            let first = |p, q| Self(_mm256_permute2f128_ps::<0x20>(p, q));
            let second = |p, q| Self(_mm256_permute2f128_ps::<0x31>(p, q));
            [
                first(p0, q0),
                first(p1, q1),
                first(p2, q2),
                first(p3, q3),
                second(p0, q0),
                second(p1, q1),
                second(p2, q2),
                second(p3, q3),
            ]
        }
    }
}

#[cfg(feature = "train")]
mod arithmetic {
    use std::ops::{Add, Div, Mul, Sub};

    use super::*;
    use crate::simd::{Arithmetic, math::operators};

    operators!(F32x8, lanes: Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

    impl Arithmetic for F32x8 {
        #[inline(always)]
        fn sqrt(self) -> Self {
            lanes!(_mm256_sqrt_ps, self)
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            lanes!(_mm256_max_ps, self, other)
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            lanes!(_mm256_min_ps, self, other)
        }
        #[inline(always)]
        fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
            // SAFETY: the token proves AVX2.
            Self(unsafe {
                let greater = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, than.0);
                _mm256_blendv_ps(otherwise.0, then.0, greater)
            })
        }
        #[inline(always)]
        fn is_zero(self) -> bool {
            // SAFETY: the token proves AVX2.
            unsafe {
                _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, _mm256_setzero_ps())) == 0xff
            }
        }
        #[inline(always)]
        fn round(self) -> Self {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            lanes!(_mm256_round_ps::<NEAREST>, self)
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            // SAFETY: the token proves AVX2.
            Self(unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            // SAFETY: the token proves AVX2.
            unsafe {
                let bits = _mm256_castps_si256(self.0);
                let exponent =
                    _mm256_add_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(-127));
                let mantissa = _mm256_and_si256(bits, _mm256_set1_epi32((1 << 23) - 1));
                let mantissa = _mm256_or_si256(mantissa, _mm256_set1_epi32(127 << 23));
                (Self(_mm256_castsi256_ps(mantissa)), Self(_mm256_cvtepi32_ps(exponent)))
            }
        }
    }
}
