//! AVX-512: sixteen numbers to a vector, eight by AVX2.

use std::arch::x86_64::*;

use super::x86_64::Avx2;
use super::{MOST, Simd, Work};

/// Exists only where the CPU has AVX-512F, and AVX2 with FMA beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(Avx2);

impl Avx512 {
    /// The token, if the CPU qualifies.
    #[inline]
    pub(super) fn new() -> Option<Self> {
        Avx2::new().filter(|_| is_x86_feature_detected!("avx512f")).map(Self)
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx2,fma")]
fn compiled<W: Work>(token: Avx512, work: W) {
    work.run(token);
}

impl Simd for Avx512 {
    type V = __m512;
    const WIDTH: usize = MOST;
    const TILE: usize = 12;
    type Eight = Avx2;

    #[inline(always)]
    fn eight(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn run<W: Work>(self, work: W) {
        // SAFETY: the token proves that the CPU has AVX-512F, AVX2 and FMA.
        unsafe { compiled(self, work) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the token proves AVX-512F, the caller sixteen readable numbers.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        // SAFETY: the token proves AVX-512F, the caller sixteen writable numbers.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: __m512, count: usize) {
        let lanes = (1u32 << count.min(MOST)) - 1;
        // SAFETY: the token proves AVX-512F; what the mask leaves out is not touched, the rest the
        // caller's promise.
        unsafe { _mm512_mask_storeu_ps(to, lanes as u16, v) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn relu(self, v: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512F. The second operand is the result where one is NaN.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), v) }
    }

    #[inline(always)]
    unsafe fn gather(self, x: *const f32, at: *const u16) -> __m512 {
        // SAFETY: the token proves AVX-512F; the caller promises sixteen indices and what they
        // point to.
        unsafe {
            let at = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_i32gather_ps::<4>(at, x)
        }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: the token proves AVX-512F.
        unsafe { _mm512_reduce_add_ps(v) }
    }
}
