//! Kernels, written once over a vector of eight numbers, or sixteen, and compiled for each instruction
//! set.
//!
//! A [`Simd`] token proves that the CPU has what its methods need; [`Isa`] chooses one when the
//! engine is made. All unsafe code of the engine is in this folder, behind functions that check
//! their bounds.
#![allow(unsafe_code)]

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aarch64;
mod aligned;
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
mod avx512;
mod bounds;
mod dense;
mod gather;
mod pool;
mod portable;
mod tiles;
mod transpose;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(super) use aligned::Aligned;
pub use bounds::{Bounds, peak_gflops};
pub(super) use dense::DenseRows;
pub(super) use gather::SlicedRows;
pub(super) use pool::{covered, every_other, pool};
pub(super) use tiles::{Onto, Span, Spans, TapRows};
pub(super) use transpose::{one_by_one, side_by_side};

use crate::error::{Error, Result};

/// Numbers in a vector of most instruction sets, and the least samples of a panel.
pub(super) const WIDTH: usize = 8;

/// Numbers in the longest vector.
const MOST: usize = 16;

/// An instruction set with kernels of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, for whatever the program was compiled for.
    Portable,
    /// 64-bit ARM with NEON.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F: sixteen numbers to a vector.
    Avx512,
}

impl Isa {
    const ALL: [(&'static str, Self); 4] = [
        ("portable", Self::Portable),
        ("neon", Self::Neon),
        ("avx2", Self::Avx2),
        ("avx512", Self::Avx512),
    ];

    /// The isas that this CPU runs, the best one last.
    pub fn supported() -> Vec<Self> {
        Self::ALL.iter().map(|(_, isa)| *isa).filter(|isa| isa.is_supported()).collect()
    }

    fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86_64::Avx2::new().is_some(),
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Self::Avx512 => avx512::Avx512::new().is_some(),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => aarch64::Neon::new().is_some(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// This isa, or the portable one if this CPU has not got it.
    pub(super) fn or_portable(self) -> Self {
        if self.is_supported() { self } else { Self::Portable }
    }

    /// The best isa of this CPU, or the one that is named: the value of `SVDO_CPU`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is not an isa of this CPU.
    pub fn detect(clamp: Option<&str>) -> Result<Self> {
        let supported = Self::supported();
        let Some(name) = clamp.filter(|name| !name.is_empty()) else {
            return Ok(supported.last().copied().unwrap_or(Self::Portable));
        };
        supported.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = supported.iter().map(|isa| isa.name()).collect();
            Error::Argument {
                problem: format!("SVDO_CPU={name}: on this CPU there are {}", names.join(", ")),
            }
        })
    }

    /// Its name, as `SVDO_CPU` takes it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, isa)| *isa == self).map_or("portable", |(name, _)| *name)
    }

    /// Numbers in its vectors.
    pub(super) fn width(self) -> usize {
        if self == Self::Avx512 { MOST } else { WIDTH }
    }

    /// Runs `work` with the isa's token, compiled for its instruction set.
    #[inline]
    pub(super) fn with<W: Work>(self, work: W) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                if let Some(token) = x86_64::Avx2::new() {
                    return token.run(work);
                }
                portable::Portable.run(work);
            }
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Self::Avx512 => match avx512::Avx512::new() {
                Some(token) => token.run(work),
                None => portable::Portable.run(work),
            },
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => match aarch64::Neon::new() {
                Some(token) => token.run(work),
                None => portable::Portable.run(work),
            },
            _ => portable::Portable.run(work),
        }
    }
}

/// Something to do with any instruction set. Implementations are `#[inline(always)]`, so that
/// they are compiled for the set of the token they get.
pub(super) trait Work {
    fn run<S: Simd>(self, simd: S);
}

/// Vectors of f32. A value of an implementing type exists only where the CPU has its instructions.
pub(super) trait Simd: Copy {
    /// A vector.
    type V: Copy;

    /// Numbers in it, a multiple of [`WIDTH`].
    const WIDTH: usize;

    /// Sums that the registers hold at a time, in vectors: 4 to 12.
    const TILE: usize;

    /// Half vectors, where vectors are not of eight.
    type Eight: Eight;

    /// For what is eight numbers wide.
    fn eight(self) -> Self::Eight;

    /// Calls `work` from a function compiled for the instruction set.
    fn run<W: Work>(self, work: W);

    /// All lanes the same.
    fn splat(self, value: f32) -> Self::V;

    /// # Safety
    /// A vector's numbers at `from` can be read.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// # Safety
    /// A vector's numbers at `to` can be written.
    unsafe fn store(self, to: *mut f32, v: Self::V);

    /// The first lanes, at most all of them.
    ///
    /// # Safety
    /// `count` numbers at `to` can be written.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: Self::V, count: usize) {
        let mut lanes = [0f32; MOST];
        // SAFETY: the array is as long as the longest vector; the rest is the caller's promise.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            for (i, value) in lanes.into_iter().enumerate().take(count.min(Self::WIDTH)) {
                to.add(i).write(value);
            }
        }
    }

    /// `a * b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// `max(v, 0)`; NaN stays NaN.
    fn relu(self, v: Self::V) -> Self::V;

    /// Lane i is `x[at[i]]`.
    ///
    /// # Safety
    /// A vector's indices at `at` can be read and the numbers there too.
    unsafe fn gather(self, x: *const f32, at: *const u16) -> Self::V;

    /// The sum of the lanes.
    fn sum(self, v: Self::V) -> f32;
}

/// Vectors of [`WIDTH`] numbers, and what is done across them.
pub(super) trait Eight: Simd<Eight = Self> {
    /// The larger of each two; NaN where one is.
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        let (a, b) = (self.to_array(a), self.to_array(b));
        let larger = |i| if b[i] > a[i] || f32::is_nan(b[i]) { b[i] } else { a[i] };
        self.vector(std::array::from_fn(larger))
    }

    /// Lanes 0, 2, 4 and 6 of a, then of b; and the others.
    #[inline(always)]
    fn unzip(self, a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let (a, b) = (self.to_array(a), self.to_array(b));
        let half =
            |i: usize| [a[i], a[i + 2], a[i + 4], a[i + 6], b[i], b[i + 2], b[i + 4], b[i + 6]];
        (self.vector(half(0)), self.vector(half(1)))
    }

    /// The lanes.
    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; WIDTH] {
        let mut lanes = [0.0; WIDTH];
        // SAFETY: the array is eight long.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes
    }

    /// Eight lanes.
    #[inline(always)]
    fn vector(self, lanes: [f32; WIDTH]) -> Self::V {
        // SAFETY: the array is eight long.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// Rows to columns of eight by eight.
    fn transpose(self, rows: [Self::V; 8]) -> [Self::V; 8];
}

/// Eight numbers to the front of y.
#[inline(always)]
fn store_checked<S: Eight>(s: S, y: &mut [f32], v: S::V) {
    // SAFETY: the slice is eight long.
    unsafe { s.store(y[..WIDTH].as_mut_ptr(), v) };
}

/// Eight numbers from `at` on.
#[inline(always)]
fn load_checked<S: Eight>(s: S, x: &[f32], at: usize) -> S::V {
    // SAFETY: the slice is eight long.
    unsafe { s.load(x[at..at + WIDTH].as_ptr()) }
}
