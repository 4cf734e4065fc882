//! What kernels do with vectors.

use super::{Arithmetic, Kernel, MAX_LANES};

/// A few numbers at once, in a register or two of an instruction set.
pub trait Vector: Copy + Arithmetic {
    /// The number in each lane: f32 or f64.
    type Element: Copy + Default;
    /// Lanes.
    const LANES: usize;
    /// How many vectors the registers hold.
    const REGISTERS: usize;
    /// The vector of eight f32 of the same instruction set.
    type Eight: Eight;

    /// The same value in each lane, the nearest that there is.
    fn splat(value: impl Into<f64>) -> Self;

    /// The numbers at `from`.
    ///
    /// # Safety
    /// As many as there are lanes can be read there.
    unsafe fn read(from: *const Self::Element) -> Self;

    /// The numbers to `to`.
    ///
    /// # Safety
    /// As many as there are lanes can be written there.
    unsafe fn write(self, to: *mut Self::Element);

    /// The first `count` numbers at `from`, at most one for each lane, and zeros.
    ///
    /// # Safety
    /// `count` numbers at `from` can be read.
    #[inline(always)]
    unsafe fn read_first(from: *const Self::Element, count: usize) -> Self {
        let mut lanes = [Self::Element::default(); MAX_LANES];
        // SAFETY: the array is as long as the longest vector; the rest is the caller's promise.
        unsafe {
            for (i, lane) in lanes.iter_mut().enumerate().take(count.min(Self::LANES)) {
                *lane = *from.add(i);
            }
            Self::read(lanes.as_ptr())
        }
    }

    /// The first lanes, at most all of them.
    ///
    /// # Safety
    /// `count` numbers at `to` can be written.
    #[inline(always)]
    unsafe fn write_first(self, to: *mut Self::Element, count: usize) {
        let mut lanes = [Self::Element::default(); MAX_LANES];
        // SAFETY: the array is as long as the longest vector; the rest is the caller's promise.
        unsafe {
            self.write(lanes.as_mut_ptr());
            for (i, value) in lanes.into_iter().enumerate().take(count.min(Self::LANES)) {
                to.add(i).write(value);
            }
        }
    }

    /// The first values of a slice; panics if it has fewer than lanes.
    #[inline(always)]
    fn load(values: &[Self::Element]) -> Self {
        let values = &values[..Self::LANES];
        // SAFETY: the slice has a number for each lane.
        unsafe { Self::read(values.as_ptr()) }
    }

    /// Into the first positions of a slice; panics if it has fewer than lanes.
    #[inline(always)]
    fn store(self, values: &mut [Self::Element]) {
        let values = &mut values[..Self::LANES];
        // SAFETY: the slice has room for each lane.
        unsafe { self.write(values.as_mut_ptr()) }
    }

    /// Lane i is `x[at[i]]`.
    ///
    /// # Safety
    /// As many indices as there are lanes can be read at `at`, and the numbers there too.
    unsafe fn gather(x: *const Self::Element, at: *const u16) -> Self;

    /// Lane i is `x[2 at[i]]`, and that of the other one `x[2 at[i] + 1]`.
    ///
    /// # Safety
    /// As many indices as there are lanes can be read at `at`, and the pairs of numbers there too.
    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    unsafe fn gather_pairs(x: *const Self::Element, at: *const u16) -> (Self, Self) {
        let mut even = [Self::Element::default(); MAX_LANES];
        let mut odd = even;
        // SAFETY: the arrays are as long as the longest vector; the rest is the caller's promise.
        unsafe {
            for (lane, pair) in even.iter_mut().zip(&mut odd).enumerate().take(Self::LANES) {
                let from = x.add(2 * usize::from(*at.add(lane)));
                (*pair.0, *pair.1) = (*from, *from.add(1));
            }
            (Self::read(even.as_ptr()), Self::read(odd.as_ptr()))
        }
    }

    /// `self * b + c`, rounded once where the instruction set can.
    fn fma(self, b: Self, c: Self) -> Self;

    /// The same of plain numbers, for loops that compilers make vectors of.
    #[cfg(feature = "uncertainty")]
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    /// `max(self, 0)`; NaN stays NaN.
    fn relu(self) -> Self;

    /// The larger of each two; NaN where one is.
    fn maximum(self, other: Self) -> Self;

    /// The sum of the lanes.
    fn sum(self) -> Self::Element;

    /// Runs a kernel with this vector from a function of its own, for the sake of its registers.
    fn call<K: Kernel<Self::Element>>(kernel: K);

    /// Natural exponential of x in [-87, 88], beyond that of the nearer end. Relative error at most
    /// 2e-7 (f32).
    #[cfg(feature = "train")]
    #[inline(always)]
    fn exp(self) -> Self {
        super::math::exp(self)
    }

    /// Natural logarithm of a normal positive number. Absolute error at most 2e-7 plus 1.2e-7 of the
    /// result (f32).
    #[cfg(feature = "train")]
    #[inline(always)]
    fn ln(self) -> Self {
        super::math::ln(self)
    }
}

/// Vectors of eight f32, and what is done across them.
pub trait Eight: Vector<Element = f32, Eight = Self> {
    /// Lanes 0, 2, 4 and 6 of self, then of `other`; and the others.
    fn unzip(self, other: Self) -> (Self, Self);

    /// Lanes of self and of `other` in turn: the first four of both, and the others.
    fn zip(self, other: Self) -> (Self, Self);

    /// Rows to columns of eight by eight.
    fn transpose(rows: [Self; 8]) -> [Self; 8];
}
