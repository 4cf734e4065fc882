//! What the trainer computes with: vectors of f32, and f64 as the oracle of gradient checks.

pub use crate::simd::{Isa, Kernel, MAX_LANES as LANES, Vector};

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
    /// Runs a kernel with the longest vectors of an instruction set that divide the length of its rows,
    /// or of all it goes through in one.
    fn dispatch<K: Kernel<Self>>(isa: Isa, length: usize, kernel: K);
}

/// Memory is cast to numbers, so that only those known here may be any.
mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

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
        isa.dividing(length).run(kernel);
    }
}

/// A number in as few parts of at most `most` as there can be, and as even as can be: a kernel that
/// holds few sums at a time waits for each of them.
pub fn parts(number: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = number.div_ceil(most);
    (0..count).map(move |part| (number + part) / count)
}
