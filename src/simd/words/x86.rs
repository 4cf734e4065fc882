//! Words of AVX2, AVX-VNNI and VNNI of AVX-512.

use std::arch::x86_64::*;

use super::super::avx2;
#[cfg(feature = "avx512")]
use super::super::avx512;
use super::{WordKernel, Words};

#[inline(never)]
#[target_feature(enable = "avx2,fma")]
pub(super) fn by_avx2<K: WordKernel>(kernel: K) {
    kernel.run::<Widened>();
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) fn by_avx_vnni<K: WordKernel>(kernel: K) {
    kernel.run::<Eight>();
}

#[cfg(feature = "avx512")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vnni,avx2,fma")]
pub(super) fn by_avx512_vnni<K: WordKernel>(kernel: K) {
    kernel.run::<Sixteen>();
}

/// Words of a set of instructions. The types are private to functions that are compiled for it, and called
/// where the CPU has it: what "it is there" stands for below.
macro_rules! words {
    ($name:ident, $register:ty, $floats:ty, $registers:literal, $splat:path, $read:path, $add:path, $convert:path,
     $made:path, $dot:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name($register);

        impl Words for $name {
            type Floats = $floats;
            const REGISTERS: usize = $registers;

            #[inline(always)]
            fn splat(word: i32) -> Self {
                // SAFETY: it is there.
                Self(unsafe { $splat(word) })
            }

            #[inline(always)]
            unsafe fn read(from: *const i32) -> Self {
                // SAFETY: it is there; the words are the caller's promise.
                Self(unsafe { $read(from.cast()) })
            }

            #[inline(always)]
            fn dot(self, bytes: Self, weights: Self) -> Self {
                // SAFETY: it is there.
                Self(unsafe { $dot(self.0, bytes.0, weights.0) })
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: it is there.
                Self(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            fn floats(self) -> Self::Floats {
                // SAFETY: it is there.
                $made(unsafe { $convert(self.0) })
            }
        }
    };
}

words!(
    Widened,
    __m256i,
    avx2::F32x8,
    16,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_add_epi32,
    _mm256_cvtepi32_ps,
    avx2::F32x8::of,
    widened
);
words!(
    Eight,
    __m256i,
    avx2::F32x8,
    16,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_add_epi32,
    _mm256_cvtepi32_ps,
    avx2::F32x8::of,
    _mm256_dpbusd_avx_epi32
);
#[cfg(feature = "avx512")]
words!(
    Sixteen,
    __m512i,
    avx512::F32x16,
    32,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_add_epi32,
    _mm512_cvtepi32_ps,
    avx512::F32x16::of,
    _mm512_dpbusd_epi32
);

/// Even bytes and odd ones, widened, in pairs: a sum of two products of 8 by 8 bits fits 32.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn widened(sums: __m256i, bytes: __m256i, weights: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(bytes);
        let even_weights = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights));
        let odd_weights = _mm256_srai_epi16::<8>(weights);
        let even = _mm256_madd_epi16(even, even_weights);
        let odd = _mm256_madd_epi16(odd, odd_weights);
        _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
    }
}
