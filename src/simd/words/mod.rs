//! Words: four bytes in each lane of 32 bits, and sums of their products.
//!
//! Bytes of activations are unsigned, those of weights signed; where instructions multiply signed bytes alone, as
//! ARM's, activations are [shifted](Dots::shift) by 128, and sums begin with what that takes from them. Sums are
//! whole numbers of 32 bits, exact, so that all instruction sets give the same. [`Dots`] says which instructions a
//! CPU has for them; what a token is to [`Vector`]s, its [`Dots::run`] is to words: no other code names their types.

use super::{Isa, MIN_LANES, Vector, portable};

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

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

    /// These sums and, in each lane, the products of four bytes, shifted ones or else unsigned, with four signed
    /// ones from -127; modulo 2^32.
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
    /// NEON: products of 16 bits, in which two have room.
    Neon,
    /// `sdot` of ARMv8.2 and later: 16 products to an instruction.
    NeonDot,
    /// AVX2: bytes widened to 16 bits, in which no product saturates.
    Avx2,
    /// AVX-VNNI: 32 products to an instruction.
    AvxVnni,
    /// VNNI of AVX-512: 64.
    Avx512Vnni,
}

impl Dots {
    /// All of them, a better one later.
    const ALL: [Self; 6] =
        [Self::Portable, Self::Neon, Self::NeonDot, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni];

    /// The best of this CPU that belong to an instruction set.
    pub(crate) fn of(isa: Isa) -> Self {
        let best =
            Self::ALL.into_iter().rev().find(|dots| dots.isa() <= isa && dots.is_supported());
        best.unwrap_or(Self::Portable)
    }

    /// Those that this CPU has.
    #[cfg(test)]
    pub(crate) fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|dots| dots.is_supported())
    }

    fn isa(self) -> Isa {
        match self {
            Self::Portable => Isa::Portable,
            Self::Neon | Self::NeonDot => Isa::Neon,
            Self::Avx2 | Self::AvxVnni => Isa::Avx2,
            Self::Avx512Vnni => Isa::Avx512,
        }
    }

    fn is_supported(self) -> bool {
        self.isa().is_supported() && self.has_instructions()
    }

    fn has_instructions(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => true,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => true,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => is_x86_feature_detected!("avxvnni"),
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Self::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
            #[allow(unreachable_patterns)] // where there are all
            _ => false,
        }
    }

    /// What is taken off each byte of activations, that signed ones remain: nothing, or 128.
    pub(crate) fn shift(self) -> u8 {
        if self.isa() == Isa::Neon && self.is_supported() { 128 } else { 0 }
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
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => unsafe { neon::by_neon(kernel) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDot => unsafe { neon::by_dotprod(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::by_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => unsafe { x86::by_avx_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Self::Avx512Vnni => unsafe { x86::by_avx512_vnni(kernel) },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the sums of products of every pair of bytes, others in each lane.
    struct Products {
        dots: Dots,
        done: usize,
    }

    impl WordKernel for &mut Products {
        #[inline(always)]
        fn run<W: Words>(self) {
            let lanes = <W::Floats as Vector>::LANES;
            assert_eq!(lanes, self.dots.lanes());
            let signed = self.dots.shift() == 128;
            for at in 0..=u16::MAX {
                let (mut x, mut w, mut expected) = ([0; 16], [0; 16], [0; 16]);
                for lane in 0..16 {
                    let [byte, weight] = at.to_le_bytes().map(|byte| byte.wrapping_add(lane as u8));
                    let bytes = [byte, byte ^ 0xff, 255, 128];
                    let weights =
                        [weight, weight ^ 0x55, 0x81, 127].map(|w: u8| (w as i8).max(-127));
                    let product = |(x, w): (u8, i8)| match signed {
                        true => i32::from(x as i8) * i32::from(w),
                        false => i32::from(x) * i32::from(w),
                    };
                    x[lane] = i32::from_le_bytes(bytes);
                    w[lane] = i32::from_le_bytes(weights.map(|w| w as u8));
                    expected[lane] = bytes.into_iter().zip(weights).map(product).sum::<i32>() - 2;
                }
                // SAFETY: there are sixteen of both.
                let (x, w) = unsafe { (W::read(x.as_ptr()), W::read(w.as_ptr())) };
                let mut floats = [0.0; 16];
                W::splat(-3).dot(x, w).add(W::splat(1)).floats().store(&mut floats);
                assert_eq!(
                    floats.map(|sum| sum as i32)[..lanes],
                    expected[..lanes],
                    "{:?} {at}",
                    self.dots
                );
                self.done += 1;
            }
        }
    }

    #[test]
    fn products_of_all_bytes_are_exact() {
        for dots in Dots::supported() {
            let mut products = Products { dots, done: 0 };
            dots.run(&mut products);
            assert_eq!(products.done, 1 << 16, "{dots:?}");
        }
    }

    /// The largest products, and sums that go round.
    struct Extremes(Dots);

    impl WordKernel for Extremes {
        #[inline(always)]
        fn run<W: Words>(self) {
            let signed = self.0.shift() == 128;
            for byte in [0, 1, 127, 128, 129, 255] {
                for weight in [-127i8, -1, 1, 127] {
                    let x = if signed { i32::from(byte as i8) } else { i32::from(byte) };
                    let [bytes, weights] = [byte, weight as u8].map(|b| i32::from_le_bytes([b; 4]));
                    for start in [0, i32::MAX, i32::MIN] {
                        let sums = W::splat(start).dot(W::splat(bytes), W::splat(weights));
                        let sum = start.wrapping_add(4 * x * i32::from(weight));
                        let mut floats = [0.0; 16];
                        sums.add(W::splat(sum.wrapping_neg())).floats().store(&mut floats);
                        assert_eq!(floats, [0.0; 16], "{:?} {byte} {weight} {start}", self.0);
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_products_are_exact_modulo_the_words() {
        Dots::supported().for_each(|dots| dots.run(Extremes(dots)));
    }

    #[test]
    fn a_clamped_instruction_set_has_no_instructions_of_a_better_one() {
        assert_eq!(Dots::of(Isa::Portable), Dots::Portable);
        assert!(Dots::of(Isa::Avx2) != Dots::Avx512Vnni);
        assert_eq!(Dots::of(Isa::Neon) != Dots::Portable, Isa::Neon.is_supported());
        for dots in Dots::supported() {
            assert!(dots.isa().is_supported());
        }
    }
}
