//! Arithmetic beyond a multiply-add, and the elementary functions made of it: what training needs.

use std::ops::{Add, Div, Mul, Sub};

use super::Vector;

/// The operations of training, lane by lane.
pub trait Arithmetic:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger; `other` where self is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` where self is NaN.
    fn min(self, other: Self) -> Self;
    /// `then` in lanes where self > than, else `otherwise`.
    fn select_greater(self, than: Self, then: Self, otherwise: Self) -> Self;
    /// Whether every lane is zero; false with NaN.
    fn is_zero(self) -> bool;
    /// To the nearest integer.
    fn round(self) -> Self;
    /// 2 to the power of an integer from -126 to 127.
    fn power_of_two(self) -> Self;
    /// Mantissa in [1, 2) and exponent of a normal positive number.
    fn split(self) -> (Self, Self);
}

/// See [`Vector::exp`].
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
    let n = (x * V::splat(std::f64::consts::LOG2_E)).round();
    // ln 2 in two parts, the first with few bits, so that the remainder is exact.
    let r = n.fma(V::splat(-0.693359375), x);
    let r = n.fma(V::splat(2.121_944_400_546_905_8e-4), r);
    let mut p = V::splat(1.0 / 5040.0);
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.fma(r, V::splat(factor));
    }
    p * n.power_of_two()
}

/// See [`Vector::ln`].
#[inline(always)]
pub(super) fn ln<V: Vector>(x: V) -> V {
    let (m, e) = x.split();
    let large = V::splat(std::f64::consts::SQRT_2);
    let e = m.select_greater(large, e + V::splat(1.0), e);
    let m = m.select_greater(large, m * V::splat(0.5), m);
    // ln m = 2 artanh((m - 1) / (m + 1)), the argument at most 0.172.
    let s = (m - V::splat(1.0)) / (m + V::splat(1.0));
    let z = s * s;
    let mut p = V::splat(2.0 / 9.0);
    for factor in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        p = p.fma(z, V::splat(factor));
    }
    let low = e.fma(V::splat(-2.121_944_400_546_905_8e-4), p * s);
    e.fma(V::splat(0.693359375), low)
}

/// The four operators of a vector by a macro that applies a function to the lanes of its operands.
macro_rules! operators {
    ($vector:ident, $lanes:ident: $($trait:ident $method:ident $function:path),+) => {$(
        impl $trait for $vector {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                $lanes!($function, self, other)
            }
        }
    )+};
}
pub(super) use operators;
