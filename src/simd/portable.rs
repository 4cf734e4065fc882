//! The portable twin: plain Rust over arrays of eight, in loops that compilers turn into whatever
//! vectors there are.

use super::{Eight, Kernel, MIN_LANES, Token, Vector};

/// Needs nothing of the CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Token for Portable {
    type F32s = F32x8;

    #[inline]
    fn new() -> Option<Self> {
        Some(Self)
    }

    #[inline]
    fn compiled<K: Kernel>(self) -> unsafe fn(K) {
        F32x8::call::<K>
    }
}

/// Eight floats.
#[derive(Debug, Clone, Copy)]
pub struct F32x8([f32; MIN_LANES]);

impl Vector for F32x8 {
    type Element = f32;
    const LANES: usize = MIN_LANES;
    /// Of the usual sixteen registers of four floats.
    const REGISTERS: usize = 8;
    type Eight = Self;

    #[inline(always)]
    fn splat(value: impl Into<f64>) -> Self {
        Self([value.into() as f32; MIN_LANES])
    }

    #[inline(always)]
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 needs no more alignment than one.
        Self(unsafe { from.cast::<[f32; MIN_LANES]>().read() })
    }

    #[inline(always)]
    unsafe fn write(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; MIN_LANES]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn gather(x: *const f32, at: *const u16) -> Self {
        let mut v = [0.0; MIN_LANES];
        for (lane, v) in v.iter_mut().enumerate() {
            // SAFETY: the caller promises eight indices and the floats they point to.
            *v = unsafe { *x.add(usize::from(*at.add(lane))) };
        }
        Self(v)
    }

    #[inline(always)]
    fn fma(self, b: Self, mut c: Self) -> Self {
        for lane in 0..MIN_LANES {
            c.0[lane] += self.0[lane] * b.0[lane];
        }
        c
    }

    #[inline(always)]
    fn relu(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = if *lane < 0.0 { 0.0 } else { *lane };
        }
        self
    }

    #[inline(always)]
    fn maximum(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = if b > *a || b.is_nan() { b } else { *a };
        }
        self
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let v = self.0;
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }

    #[inline(never)]
    fn call<K: Kernel>(kernel: K) {
        kernel.run::<Self>();
    }
}

impl Eight for F32x8 {
    #[inline(always)]
    fn unzip(self, other: Self) -> (Self, Self) {
        let (a, b) = (self.0, other.0);
        let half = |i: usize| {
            Self([a[i], a[i + 2], a[i + 4], a[i + 6], b[i], b[i + 2], b[i + 4], b[i + 6]])
        };
        (half(0), half(1))
    }

    #[inline(always)]
    fn zip(self, other: Self) -> (Self, Self) {
        let (a, b) = (self.0, other.0);
        let half = |i: usize| {
            Self([a[i], b[i], a[i + 1], b[i + 1], a[i + 2], b[i + 2], a[i + 3], b[i + 3]])
        };
        (half(0), half(4))
    }

    #[inline(always)]
    fn transpose(rows: [Self; 8]) -> [Self; 8] {
        let mut columns = [Self([0.0; MIN_LANES]); 8];
        for (i, row) in rows.iter().enumerate() {
            for (j, value) in row.0.iter().enumerate() {
                columns[j].0[i] = *value;
            }
        }
        columns
    }
}

/// Each lane by the arithmetic of f32.
#[cfg(feature = "train")]
mod arithmetic {
    use std::ops::{Add, Div, Mul, Sub};

    use super::{F32x8, MIN_LANES};
    use crate::simd::Arithmetic;
    use crate::simd::math::operators;

    /// A vector, whose lanes a function of f32 makes of those of others.
    macro_rules! lanes {
        ($function:expr, $first:ident $(, $other:ident)*) => {{
            let mut lanes = $first.0;
            for at in 0..MIN_LANES {
                lanes[at] = $function($first.0[at] $(, $other.0[at])*);
            }
            F32x8(lanes)
        }};
    }

    operators!(F32x8, lanes: Add add Add::add, Sub sub Sub::sub, Mul mul Mul::mul, Div div Div::div);

    impl Arithmetic for F32x8 {
        #[inline(always)]
        fn sqrt(self) -> Self {
            lanes!(Arithmetic::sqrt, self)
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            lanes!(Arithmetic::max, self, other)
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            lanes!(Arithmetic::min, self, other)
        }
        #[inline(always)]
        fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
            lanes!(Arithmetic::select_greater, self, than, then, otherwise)
        }
        #[inline(always)]
        fn is_zero(self) -> bool {
            self.0 == [0.0; MIN_LANES]
        }
        #[inline(always)]
        fn round(self) -> Self {
            lanes!(Arithmetic::round, self)
        }
        #[inline(always)]
        fn power_of_two(self) -> Self {
            lanes!(Arithmetic::power_of_two, self)
        }
        #[inline(always)]
        fn split(self) -> (Self, Self) {
            let (mut mantissas, mut exponents) = (self, self);
            for at in 0..MIN_LANES {
                (mantissas.0[at], exponents.0[at]) = self.0[at].split();
            }
            (mantissas, exponents)
        }
    }
}
