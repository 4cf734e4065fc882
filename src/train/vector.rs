//! One source for every kernel: code is written over [`Vector`] and run with sixteen lanes of AVX-512,
//! eight of AVX2, four of NEON, or one lane of f32 (the portable twin) or f64 (the oracle of gradient
//! checks).

#![allow(unsafe_code)]

use std::ops::{Add, Div, Mul, Sub};
use std::sync::OnceLock;

/// A number that networks are trained in: f32 or f64.
pub trait Real:
    Vector<Element = Self>
    + PartialOrd
    + Default
    + std::fmt::Debug
    + Send
    + Sync
    + sealed::Sealed
    + 'static
{
    /// Nearest value.
    fn of(value: f64) -> Self;
    /// Exact value.
    fn wide(self) -> f64;
    /// A whole number from 0 to 2^23 - 1.
    fn index(self) -> usize;
    /// Runs a kernel with the longest vectors of an isa that divide the length of its rows, or of all it
    /// goes through in one.
    fn dispatch<K: Kernel<Self>>(isa: Isa, length: usize, kernel: K);
}

/// Memory is cast to numbers, so that only those known here may be any.
mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A computation written once for all vectors. Implementations of `run` are `#[inline(always)]`, so
/// that they are compiled for the instruction set of the caller.
pub trait Kernel<T> {
    /// Computes with vectors of type `V`.
    fn run<V: Vector<Element = T>>(self);
}

/// The vectors that a processor can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// One lane, no instruction beyond the target's baseline.
    Portable,
    /// Eight lanes with fused multiply-add; see [`Isa::detect`].
    Avx2(Avx2Token),
    /// Sixteen lanes where lengths allow, else eight.
    Avx512(Avx512Token),
    /// Four lanes with fused multiply-add, on every aarch64 processor.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Exists only where the processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2Token(());

/// Exists only where the processor has AVX-512F, and AVX2 with FMA beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512Token(Avx2Token);

impl Isa {
    /// The widest that this processor has.
    pub fn detect() -> Self {
        static WIDEST: OnceLock<Isa> = OnceLock::new();
        *WIDEST.get_or_init(|| Self::supported().pop().unwrap_or(Self::Portable))
    }

    /// What rows are padded to: a multiple of its vectors' lanes, and of those of every lesser isa.
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512(_) => 16,
            _ => 8,
        }
    }

    /// All that this processor has, the widest last.
    pub fn supported() -> Vec<Self> {
        #[allow(unused_mut)] // where there is nothing more
        let mut isas = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            isas.push(Self::Avx2(Avx2Token(())));
            if is_x86_feature_detected!("avx512f") {
                isas.push(Self::Avx512(Avx512Token(Avx2Token(()))));
            }
        }
        #[cfg(target_arch = "aarch64")]
        isas.push(Self::Neon);
        isas
    }
}

/// Lanes of the longest vector.
pub const LANES: usize = 16;

/// A number in as few parts of at most `most` as there can be, and as even as can be: a kernel that
/// holds few sums at a time waits for each of them.
pub fn parts(number: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = number.div_ceil(most);
    (0..count).map(move |part| (number + part) / count)
}

/// A few numbers at once.
pub trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// The number in each lane.
    type Element: Copy;
    /// Lanes.
    const LANES: usize;
    /// How many the processor holds.
    const REGISTERS: usize;

    /// The same value in each lane.
    fn splat(value: f64) -> Self;
    /// The first values of a slice; panics if it has fewer than lanes.
    fn load(values: &[Self::Element]) -> Self;
    /// Into the first places of a slice; panics if it has fewer than lanes.
    fn store(self, values: &mut [Self::Element]);
    /// `self * b + c`.
    fn fma(self, b: Self, c: Self) -> Self;
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

    /// Natural exponential of x in [-87, 88], beyond that of the nearer end. Relative error at most
    /// 2e-7 (f32).
    #[inline(always)]
    fn exp(self) -> Self {
        let x = self.max(Self::splat(-87.0)).min(Self::splat(88.0));
        let n = (x * Self::splat(std::f64::consts::LOG2_E)).round();
        // ln 2 in two parts, the first with few bits, so that the remainder is exact.
        let r = n.fma(Self::splat(-0.693359375), x);
        let r = n.fma(Self::splat(2.121_944_400_546_905_8e-4), r);
        let mut p = Self::splat(1.0 / 5040.0);
        for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = p.fma(r, Self::splat(factor));
        }
        p * n.power_of_two()
    }

    /// Natural logarithm of a normal positive number. Absolute error at most 2e-7 plus 1.2e-7 of the
    /// result (f32).
    #[inline(always)]
    fn ln(self) -> Self {
        let (m, e) = self.split();
        let large = Self::splat(std::f64::consts::SQRT_2);
        let e = m.select_greater(large, e + Self::splat(1.0), e);
        let m = m.select_greater(large, m * Self::splat(0.5), m);
        // ln m = 2 artanh((m - 1) / (m + 1)), the argument at most 0.172.
        let s = (m - Self::splat(1.0)) / (m + Self::splat(1.0));
        let z = s * s;
        let mut p = Self::splat(2.0 / 9.0);
        for factor in [2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
            p = p.fma(z, Self::splat(factor));
        }
        let low = e.fma(Self::splat(-2.121_944_400_546_905_8e-4), p * s);
        e.fma(Self::splat(0.693359375), low)
    }
}

macro_rules! scalar {
    ($float:ident, $bits:ident, $mantissa_bits:literal, $bias:literal) => {
        impl Vector for $float {
            type Element = $float;
            const LANES: usize = 1;
            const REGISTERS: usize = 16;

            #[inline(always)]
            fn splat(value: f64) -> Self {
                value as $float
            }
            #[inline(always)]
            fn load(values: &[$float]) -> Self {
                values[0]
            }
            #[inline(always)]
            fn store(self, values: &mut [$float]) {
                values[0] = self;
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                self * b + c
            }
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
            scalar!(@elementary $float);
        }
    };
    (@elementary f32) => {};
    (@elementary f64) => {
        #[inline(always)]
        fn exp(self) -> Self {
            libm::exp(self)
        }
        #[inline(always)]
        fn ln(self) -> Self {
            libm::log(self)
        }
    };
}

scalar!(f32, u32, 23, 127);
scalar!(f64, u64, 52, 1023);

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
    #[inline(always)]
    fn index(self) -> usize {
        self as usize
    }
    fn dispatch<K: Kernel<f64>>(_: Isa, _: usize, kernel: K) {
        kernel.run::<f64>();
    }
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn index(self) -> usize {
        // Casts see to all that is no such number: this is quicker.
        const SHIFT: u32 = 1 << 23;
        ((self + SHIFT as f32).to_bits() % SHIFT) as usize
    }
    fn dispatch<K: Kernel<f32>>(isa: Isa, length: usize, kernel: K) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) if length.is_multiple_of(LANES) => {
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn with_avx512<K: Kernel<f32>>(kernel: K) {
                    kernel.run::<x86_64::Sixteen>();
                }
                // SAFETY: the token exists only where the processor has these.
                unsafe { with_avx512(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::Avx512(_) => {
                #[target_feature(enable = "avx2,fma")]
                fn with_avx2<K: Kernel<f32>>(kernel: K) {
                    kernel.run::<x86_64::Eight>();
                }
                // SAFETY: the token exists only where the processor has AVX2 and FMA.
                unsafe { with_avx2(kernel) }
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => kernel.run::<aarch64::Lanes>(),
            _ => {
                let _ = length; // every other vector divides what `padded` gives
                kernel.run::<f32>();
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
mod aarch64;

#[cfg(test)]
mod tests {
    use super::*;

    struct Map<'a, F> {
        values: &'a mut [f32],
        exponential: bool,
        marker: F,
    }

    impl Kernel<f32> for Map<'_, ()> {
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            let () = self.marker;
            for part in self.values.chunks_exact_mut(V::LANES) {
                let x = V::load(part);
                if self.exponential { x.exp() } else { x.ln() }.store(part);
            }
        }
    }

    fn map(isa: Isa, values: &[f32], exponential: bool) -> Vec<f32> {
        let (mut values, length) = (values.to_vec(), values.len());
        f32::dispatch(isa, length, Map { values: &mut values, exponential, marker: () });
        values
    }

    /// The error bounds that the documentation states, on every isa.
    #[test]
    fn exponential_and_logarithm_are_within_their_bounds() {
        for isa in Isa::supported() {
            let x: Vec<f32> = (-860_000..870_000).map(|i| i as f32 * 1e-4).collect();
            for (x, y) in x.iter().zip(map(isa, &x, true)) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 2e-7, "{isa:?} exp({x}) errs by {error}");
            }
            let x: Vec<f32> =
                (0x0080_0000..0x7f80_0000u32).step_by(1237).map(f32::from_bits).collect();
            let x = &x[..x.len() / 16 * 16];
            for (x, y) in x.iter().zip(map(isa, x, false)) {
                let exact = f64::from(*x).ln();
                let error = (f64::from(y) - exact).abs();
                assert!(error < 2e-7 + 1.2e-7 * exact.abs(), "{isa:?} ln({x}) errs by {error}");
            }
        }
    }

    #[test]
    fn exponential_saturates() {
        for isa in Isa::supported() {
            let x = [-1e30, 1e30, -200.0, 200.0, 0.0, 88.0, -87.0, 100.0];
            let y = map(isa, &[x, x].concat(), true);
            assert!(y.iter().all(|v| v.is_finite() && *v > 0.0), "{y:?}");
            assert_eq!(y[4], 1.0);
        }
    }
}
