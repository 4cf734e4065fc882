//! WebAssembly's SIMD128: a vector of eight is a pair of four.
//!
//! A module has vector instructions or it has not: nothing can be asked while it runs, since an engine
//! without them refuses to load it. The token therefore exists wherever it was compiled.

use std::arch::wasm32::*;

use super::{Eight, Kernel, MIN_LANES, Token, Vector};

/// Exists only in modules compiled with `simd128`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Simd128(());

impl Token for Simd128 {
    type F32s = F32x8;

    #[inline]
    fn new() -> Option<Self> {
        Some(Self(()))
    }

    #[inline]
    fn compiled<K: Kernel>(self) -> unsafe fn(K) {
        F32x8::call::<K>
    }
}

/// Eight floats.
#[derive(Clone, Copy)]
pub struct F32x8(v128, v128);

impl Vector for F32x8 {
    type Element = f32;
    const LANES: usize = MIN_LANES;
    /// Of the sixteen registers of four floats that an x86-64 has.
    const REGISTERS: usize = 8;
    type Eight = Self;

    #[inline(always)]
    fn splat(value: impl Into<f64>) -> Self {
        let half = f32x4_splat(value.into() as f32);
        Self(half, half)
    }

    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the caller promises eight readable floats; no alignment is needed.
        unsafe { Self(v128_load(from.cast()), v128_load(from.add(4).cast())) }
    }

    #[inline(always)]
    unsafe fn write(self, to: *mut f32) {
        // SAFETY: the caller promises eight writable floats; no alignment is needed.
        unsafe {
            v128_store(to.cast(), self.0);
            v128_store(to.add(4).cast(), self.1);
        }
    }

    #[inline(always)]
    unsafe fn gather(x: *const f32, at: *const u16) -> Self {
        // SAFETY: the caller promises eight indices and the floats they point to.
        let float = |lane| unsafe { *x.add(usize::from(*at.add(lane))) };
        Self(
            f32x4(float(0), float(1), float(2), float(3)),
            f32x4(float(4), float(5), float(6), float(7)),
        )
    }

    /// Rounded twice: there is no other multiply-add that gives the same bits on every CPU.
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        Self(f32x4_add(f32x4_mul(self.0, b.0), c.0), f32x4_add(f32x4_mul(self.1, b.1), c.1))
    }

    /// `f32x4_pmax(a, b)` is b where a < b, else a: one instruction of most CPUs, and NaN stays.
    #[inline(always)]
    fn relu(self) -> Self {
        let zero = f32x4_splat(0.0);
        Self(f32x4_pmax(self.0, zero), f32x4_pmax(self.1, zero))
    }

    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        Self(f32x4_max(self.0, other.0), f32x4_max(self.1, other.1))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let v = f32x4_add(self.0, self.1);
        (f32x4_extract_lane::<0>(v) + f32x4_extract_lane::<1>(v))
            + (f32x4_extract_lane::<2>(v) + f32x4_extract_lane::<3>(v))
    }

    #[inline(never)]
    fn call<K: Kernel>(kernel: K) {
        kernel.run::<Self>();
    }
}

impl Eight for F32x8 {
    #[inline(always)]
    fn unzip(self, other: Self) -> (Self, Self) {
        let even = |v: Self| i32x4_shuffle::<0, 2, 4, 6>(v.0, v.1);
        let odd = |v: Self| i32x4_shuffle::<1, 3, 5, 7>(v.0, v.1);
        (Self(even(self), even(other)), Self(odd(self), odd(other)))
    }

    #[inline(always)]
    fn zip(self, other: Self) -> (Self, Self) {
        let low = |a, b| i32x4_shuffle::<0, 4, 1, 5>(a, b);
        let high = |a, b| i32x4_shuffle::<2, 6, 3, 7>(a, b);
        let both = |a, b| Self(low(a, b), high(a, b));
        (both(self.0, other.0), both(self.1, other.1))
    }

    #[inline(always)]
    fn transpose(rows: [Self; 8]) -> [Self; 8] {
        let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
        let (top_left, top_right) = (four(r0.0, r1.0, r2.0, r3.0), four(r0.1, r1.1, r2.1, r3.1));
        let (low_left, low_right) = (four(r4.0, r5.0, r6.0, r7.0), four(r4.1, r5.1, r6.1, r7.1));
        std::array::from_fn(|i| match i {
            0..4 => Self(top_left[i], low_left[i]),
            _ => Self(top_right[i - 4], low_right[i - 4]),
        })
    }
}

/// Rows to columns of four by four.
#[inline(always)]
fn four(a: v128, b: v128, c: v128, d: v128) -> [v128; 4] {
    // a0 b0 a1 b1, and so on.
    let (ab, cd) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<0, 4, 1, 5>(c, d));
    let (ab_high, cd_high) = (i32x4_shuffle::<2, 6, 3, 7>(a, b), i32x4_shuffle::<2, 6, 3, 7>(c, d));
    [
        i64x2_shuffle::<0, 2>(ab, cd),
        i64x2_shuffle::<1, 3>(ab, cd),
        i64x2_shuffle::<0, 2>(ab_high, cd_high),
        i64x2_shuffle::<1, 3>(ab_high, cd_high),
    ]
}
