//! Vectors of numbers: one source for every instruction set.
//!
//! A computation is a [`Kernel`], written once over [`Vector`] and compiled for each instruction set.
//! [`Isa`] names a set and is what callers hold; [`Isa::run`] is the only way from there to
//! instructions:
//!
//! ```text
//! Isa::Avx2  --Avx2::new()-->  token  --Token::compiled-->  kernel.run::<avx2::F32x8>()
//! ```
//!
//! **What a token proves.** `Avx2::new` asks the CPU and returns a token only if it has AVX2 and FMA: a
//! value of the type is the proof. [`Token::compiled`] takes that value and gives a function, compiled
//! for the set, that calls kernels with the set's vector type as a parameter. Outside this folder no
//! vector type has a name, so code that has one as a parameter was called by a token, on a CPU that
//! has the instructions. That is why `V::splat` and `a + b` are safe; reading and writing through
//! pointers is not, and says so.
//!
//! **Inlining.** A vector's operations are inlined into the function that was compiled for the set, or
//! they are calls, several times slower. All of a kernel is therefore `#[inline(always)]`, and free of
//! closures and function pointers around vectors, which are not always inlined.
//!
//! **Which operations there are.** [`Vector`] has those of the engine; [`Arithmetic`], with feature
//! `train`, those of the trainer, of which [`Vector::exp`] and [`Vector::ln`] are made. The portable
//! twin does each lane by plain Rust; it is the reference, and it runs everywhere. With feature `train`
//! f32 and f64 are vectors of one lane: what is left of rows, and the oracle of gradient checks.
//!
//! **To add an instruction set**: a file with its token and its vector; a variant of [`Isa`] and its
//! name in `Isa::ALL`, where a better set stands later; a line in `for_token!`, and one in
//! `test_every_isa!`, which runs every test of vectors and kernels on the new set.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
mod avx512;
mod cpu;
mod isa;
#[cfg(feature = "train")]
mod math;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod portable;
#[cfg(feature = "train")]
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128", not(feature = "train")))]
mod simd128;
#[cfg(test)]
mod tests;
mod vector;
#[cfg(feature = "int8")]
mod words;

#[cfg(feature = "infer")]
pub(crate) use cpu::{first_cache, prefetch};
pub use isa::Isa;
#[cfg(feature = "train")]
pub use math::Arithmetic;
#[cfg(test)]
pub(crate) use tests::test_every_isa;
pub use vector::{Eight, Vector};
#[cfg(feature = "int8")]
pub(crate) use words::{Dots, WordKernel, Words};

/// Without the trainer there is nothing more that vectors do.
#[cfg(not(feature = "train"))]
pub trait Arithmetic {}

#[cfg(not(feature = "train"))]
impl<V> Arithmetic for V {}

/// Lanes of the longest vector.
pub const MAX_LANES: usize = 16;

/// Lanes of the shortest vector of an instruction set, and of those of most.
pub const MIN_LANES: usize = 8;

/// A computation written once for all vectors of an element. Implementations of `run` are
/// `#[inline(always)]`, so that they are compiled for the instruction set of the caller.
pub trait Kernel<T = f32> {
    /// Computes with vectors of type `V`.
    fn run<V: Vector<Element = T>>(self);
}

/// An instruction set: a value exists only where the CPU has it.
trait Token: Copy {
    /// Its longest vector of f32.
    type F32s: Vector<Element = f32>;

    /// The token, if the CPU has the instructions.
    fn new() -> Option<Self>;

    /// A function compiled for the instruction set that runs kernels: safe to call, as there is a token.
    fn compiled<K: Kernel>(self) -> unsafe fn(K);
}
