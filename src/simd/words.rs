//! Words: four bytes in each lane of 32 bits, and sums of their products.
//!
//! Bytes of activations are unsigned, those of weights signed; sums are whole numbers of 32 bits, exact, so
//! that all instruction sets give the same. [`Dots`] says which instructions a CPU has for them; what a token is
//! to [`Vector`]s, its [`Dots::run`] is to words: no other code names their types.

use super::{Isa, MIN_LANES, Vector, portable};

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use super::avx512;

/// A few words, or as many sums, in a register.
pub trait Words: Copy {
    /// As many floats.
    type Floats: Vector<Element = f32>;
    /// How many registers there are.
    const REGISTERS: usize;

    /// The same word, or sum, in each lane.
    fn splat(word: i32) -> Self;

    /// The words at `from`.
    ///
    /// # Safety
    /// As many as there are lanes can be read there.
    unsafe fn read(from: *const i32) -> Self;

    /// These sums and, in each lane, the products of four unsigned bytes with four signed ones; modulo 2^32.
    fn dot(self, bytes: Self, weights: Self) -> Self;

    /// Sums of sums; modulo 2^32.
    fn add(self, other: Self) -> Self;

    /// The nearest float of each.
    fn floats(self) -> Self::Floats;
}

/// A computation written once for all words. Implementations of `run` are `#[inline(always)]`, as those of
/// [`super::Kernel`].
pub trait WordKernel {
    /// Computes with words of type `W`.
    fn run<W: Words>(self);
}

/// Instructions for the products of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dots {
    /// Plain Rust.
    Portable,
    /// AVX2: bytes widened to 16 bits, in which no product saturates.
    Avx2,
    /// AVX-VNNI: 32 products to an instruction.
    AvxVnni,
    /// VNNI of AVX-512: 64.
    Avx512Vnni,
}

impl Dots {
    /// All of them, a better one later.
    const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni];

    /// The best of this CPU that belong to an instruction set.
    pub(crate) fn of(isa: Isa) -> Self {
        let best =
            Self::ALL.into_iter().rev().find(|dots| dots.isa() <= isa && dots.is_supported());
        best.filter(|_| isa >= Isa::Avx2).unwrap_or(Self::Portable)
    }

    /// Those that this CPU has.
    #[cfg(test)]
    pub(crate) fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|dots| dots.is_supported())
    }

    fn isa(self) -> Isa {
        match self {
            Self::Portable => Isa::Portable,
            Self::Avx2 | Self::AvxVnni => Isa::Avx2,
            Self::Avx512Vnni => Isa::Avx512,
        }
    }

    fn is_supported(self) -> bool {
        self.isa().is_supported() && self.has_instructions()
    }

    #[cfg(target_arch = "x86_64")]
    fn has_instructions(self) -> bool {
        match self {
            Self::Portable | Self::Avx2 => true,
            Self::AvxVnni => is_x86_feature_detected!("avxvnni"),
            Self::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn has_instructions(self) -> bool {
        self == Self::Portable
    }

    /// Lanes of its words.
    pub(crate) fn lanes(self) -> usize {
        if self == Self::Avx512Vnni { 2 * MIN_LANES } else { MIN_LANES }
    }

    /// Runs a kernel with its instructions, or by plain Rust where the CPU has not got them.
    pub(crate) fn run<K: WordKernel>(self, kernel: K) {
        if !self.is_supported() {
            return kernel.run::<Plain>();
        }
        match self {
            Self::Portable => kernel.run::<Plain>(),
            // SAFETY: the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { by_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => unsafe { by_avx_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Self::Avx512Vnni => unsafe { by_avx512_vnni(kernel) },
            #[allow(unreachable_patterns)] // where there are all
            _ => kernel.run::<Plain>(),
        }
    }
}

/// The portable twin, and what the others are tested by.
#[derive(Clone, Copy)]
struct Plain([i32; MIN_LANES]);

impl Words for Plain {
    type Floats = portable::F32x8;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(word: i32) -> Self {
        Self([word; MIN_LANES])
    }

    #[inline(always)]
    unsafe fn read(from: *const i32) -> Self {
        // SAFETY: the caller's promise; an array of i32 needs no more alignment than one.
        Self(unsafe { from.cast::<[i32; MIN_LANES]>().read() })
    }

    #[inline(always)]
    fn dot(mut self, bytes: Self, weights: Self) -> Self {
        for lane in 0..MIN_LANES {
            for byte in [0, 8, 16, 24] {
                let (x, w) =
                    ((bytes.0[lane] >> byte) & 0xff, (weights.0[lane] << (24 - byte)) >> 24);
                self.0[lane] = self.0[lane].wrapping_add(x * w);
            }
        }
        self
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        for lane in 0..MIN_LANES {
            self.0[lane] = self.0[lane].wrapping_add(other.0[lane]);
        }
        self
    }

    #[inline(always)]
    fn floats(self) -> Self::Floats {
        Vector::load(&self.0.map(|sum| sum as f32))
    }
}

#[cfg(target_arch = "x86_64")]
use x86::*;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn by_avx2<K: WordKernel>(kernel: K) {
        kernel.run::<Widened>();
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,avxvnni")]
    pub(super) fn by_avx_vnni<K: WordKernel>(kernel: K) {
        kernel.run::<Eight>();
    }

    #[cfg(feature = "avx512")]
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512vnni,avx2,fma")]
    pub(super) fn by_avx512_vnni<K: WordKernel>(kernel: K) {
        kernel.run::<Sixteen>();
    }

    /// Words of a set of instructions. The types are private to functions that are compiled for it, and called
    /// where the CPU has it: what "it is there" stands for below.
    macro_rules! words {
        ($name:ident, $register:ty, $floats:ty, $registers:literal, $splat:path, $read:path, $add:path, $convert:path,
         $made:path, $dot:expr) => {
            #[derive(Clone, Copy)]
            pub(super) struct $name($register);

            impl Words for $name {
                type Floats = $floats;
                const REGISTERS: usize = $registers;

                #[inline(always)]
                fn splat(word: i32) -> Self {
                    // SAFETY: it is there.
                    Self(unsafe { $splat(word) })
                }

                #[inline(always)]
                unsafe fn read(from: *const i32) -> Self {
                    // SAFETY: it is there; the words are the caller's promise.
                    Self(unsafe { $read(from.cast()) })
                }

                #[inline(always)]
                fn dot(self, bytes: Self, weights: Self) -> Self {
                    // SAFETY: it is there.
                    Self(unsafe { $dot(self.0, bytes.0, weights.0) })
                }

                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    // SAFETY: it is there.
                    Self(unsafe { $add(self.0, other.0) })
                }

                #[inline(always)]
                fn floats(self) -> Self::Floats {
                    // SAFETY: it is there.
                    $made(unsafe { $convert(self.0) })
                }
            }
        };
    }

    words!(
        Widened,
        __m256i,
        avx2::F32x8,
        16,
        _mm256_set1_epi32,
        _mm256_loadu_si256,
        _mm256_add_epi32,
        _mm256_cvtepi32_ps,
        avx2::F32x8::of,
        widened
    );
    words!(
        Eight,
        __m256i,
        avx2::F32x8,
        16,
        _mm256_set1_epi32,
        _mm256_loadu_si256,
        _mm256_add_epi32,
        _mm256_cvtepi32_ps,
        avx2::F32x8::of,
        _mm256_dpbusd_avx_epi32
    );
    #[cfg(feature = "avx512")]
    words!(
        Sixteen,
        __m512i,
        avx512::F32x16,
        32,
        _mm512_set1_epi32,
        _mm512_loadu_si512,
        _mm512_add_epi32,
        _mm512_cvtepi32_ps,
        avx512::F32x16::of,
        _mm512_dpbusd_epi32
    );

    /// Even bytes and odd ones, widened, in pairs: a sum of two products of 8 by 8 bits fits 32.
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn widened(sums: __m256i, bytes: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
            let odd = _mm256_srli_epi16::<8>(bytes);
            let even_weights = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights));
            let odd_weights = _mm256_srai_epi16::<8>(weights);
            let even = _mm256_madd_epi16(even, even_weights);
            let odd = _mm256_madd_epi16(odd, odd_weights);
            _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sums of a kernel's products with every pair of bytes, lane by lane.
    struct Products<'a>(&'a mut Vec<i64>);

    impl WordKernel for Products<'_> {
        #[inline(always)]
        fn run<W: Words>(self) {
            let lanes = <W::Floats as Vector>::LANES;
            for at in 0..=u16::MAX {
                let [x, w] = at.to_le_bytes();
                let bytes = [x, x ^ 0xff, 255, 128];
                let weights = [w, w ^ 0x55, 0x80, 127];
                let mut words = [0; 16];
                words[..lanes].fill(i32::from_le_bytes(bytes));
                // SAFETY: there are sixteen.
                let bytes = unsafe { W::read(words.as_ptr()) };
                let sums = W::splat(-3).dot(bytes, W::splat(i32::from_le_bytes(weights)));
                let mut floats = [0.0; 16];
                sums.add(W::splat(1)).floats().store(&mut floats);
                assert!(floats[..lanes].iter().all(|&sum| sum == floats[0]));
                self.0.push(floats[0] as i64);
            }
        }
    }

    #[test]
    fn products_of_all_bytes_are_exact() {
        for dots in Dots::supported() {
            let mut found = Vec::new();
            dots.run(Products(&mut found));
            assert_eq!(found.len(), 1 << 16, "{dots:?}");
            for (at, found) in found.into_iter().enumerate() {
                let [x, w] = (at as u16).to_le_bytes();
                let products = [(x, w), (x ^ 0xff, w ^ 0x55), (255, 0x80), (128, 127)];
                let product = |(x, w): (u8, u8)| i64::from(x) * i64::from(w as i8);
                assert_eq!(found, products.map(product).iter().sum::<i64>() - 2, "{dots:?} {at}");
            }
        }
    }

    #[test]
    fn a_clamped_instruction_set_has_no_instructions_of_a_better_one() {
        assert_eq!(Dots::of(Isa::Portable), Dots::Portable);
        assert!(Dots::of(Isa::Avx2) != Dots::Avx512Vnni);
        for dots in Dots::supported() {
            assert!(dots.isa().is_supported());
        }
    }
}
