//! One number as a vector: what is left of a row that does not fill one, and f64 for the oracle of
//! gradient checks.

use super::portable::F32x8;
use super::{Arithmetic, Kernel, Vector};

macro_rules! scalar {
    ($float:ident, $bits:ident, $mantissa_bits:literal, $bias:literal { $($elementary:item)* }) => {
        impl Vector for $float {
            type Element = $float;
            const LANES: usize = 1;
            const REGISTERS: usize = 16;
            type Eight = F32x8;

            #[inline(always)]
            fn splat(value: impl Into<f64>) -> Self {
                value.into() as $float
            }
            #[inline(always)]
            unsafe fn read(from: *const $float) -> Self {
                // SAFETY: the caller's promise.
                unsafe { *from }
            }
            #[inline(always)]
            unsafe fn write(self, to: *mut $float) {
                // SAFETY: the caller's promise.
                unsafe { *to = self }
            }
            #[inline(always)]
            unsafe fn gather(x: *const $float, at: *const u16) -> Self {
                // SAFETY: the caller's promise.
                unsafe { *x.add(usize::from(*at)) }
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                self * b + c
            }
            #[inline(always)]
            fn relu(self) -> Self {
                if self < 0.0 { 0.0 } else { self }
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                if other > self || other.is_nan() { other } else { self }
            }
            #[inline(always)]
            fn sum(self) -> $float {
                self
            }
            #[inline(never)]
            fn call<K: Kernel<$float>>(kernel: K) {
                kernel.run::<Self>();
            }
            $($elementary)*
        }

        impl Arithmetic for $float {
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$float>::sqrt(self)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                if self > other { self } else { other }
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                if self < other { self } else { other }
            }
            #[inline(always)]
            fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self {
                if self > than { then } else { otherwise }
            }
            #[inline(always)]
            fn is_zero(self) -> bool {
                self == 0.0
            }
            #[inline(always)]
            fn round(self) -> Self {
                self.round_ties_even()
            }
            #[inline(always)]
            fn power_of_two(self) -> Self {
                <$float>::from_bits((((self as i32) + $bias) as $bits) << $mantissa_bits)
            }
            #[inline(always)]
            fn split(self) -> (Self, Self) {
                let bits = self.to_bits();
                let exponent = (bits >> $mantissa_bits) as i32 - $bias;
                let mantissa = bits & ((1 << $mantissa_bits) - 1);
                let one = ($bias as $bits) << $mantissa_bits;
                (<$float>::from_bits(mantissa | one), exponent as $float)
            }
        }
    };
}

scalar!(f32, u32, 23, 127 {});
scalar!(f64, u64, 52, 1023 {
    #[inline(always)]
    fn exp(self) -> Self {
        libm::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        libm::log(self)
    }
});
