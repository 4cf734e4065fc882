//! Instruction sets at run time.

#[cfg(target_arch = "x86_64")]
use super::cpu::vendor;
use super::portable::Portable;
use super::{Kernel, MIN_LANES, Token, Vector};
use crate::error::{Error, Result};

/// An instruction set with kernels of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, for whatever the program was compiled for.
    Portable,
    /// 64-bit ARM with NEON.
    Neon,
    /// WebAssembly with vectors of 128 bits.
    Simd128,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F: sixteen floats to a vector.
    Avx512,
}

/// An expression in which `$token` is the type of an instruction set's token, or another for sets that
/// the program was not compiled with.
macro_rules! for_token {
    ($isa:expr, $token:ident => $then:expr, else $otherwise:expr) => {
        match $isa {
            Isa::Portable => {
                type $token = Portable;
                $then
            }
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => {
                type $token = super::neon::Neon;
                $then
            }
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128", not(feature = "train")))]
            Isa::Simd128 => {
                type $token = super::simd128::Simd128;
                $then
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                type $token = super::avx2::Avx2;
                $then
            }
            #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
            Isa::Avx512 => {
                type $token = super::avx512::Avx512;
                $then
            }
            #[allow(unreachable_patterns)] // where there are all
            _ => $otherwise,
        }
    };
}

impl Isa {
    /// All of them, a better one later.
    const ALL: [(&'static str, Self); 5] = [
        ("portable", Self::Portable),
        ("neon", Self::Neon),
        ("simd128", Self::Simd128),
        ("avx2", Self::Avx2),
        ("avx512", Self::Avx512),
    ];

    /// The instruction sets that this CPU runs, the best one last.
    pub fn supported() -> Vec<Self> {
        Self::ALL.iter().map(|(_, isa)| *isa).filter(|isa| isa.is_supported()).collect()
    }

    /// Whether this CPU, and this program, has it.
    pub(crate) fn is_supported(self) -> bool {
        for_token!(self, T => T::new().is_some(), else false)
    }

    /// The best one of this CPU.
    pub fn best() -> Self {
        let best = Self::ALL.iter().rev().find(|(_, isa)| isa.is_supported());
        best.map_or(Self::Portable, |(_, isa)| *isa)
    }

    /// The best one of this CPU, or the one that is named: the value of `SVDO_CPU`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is not an instruction set of this CPU.
    pub fn detect(clamp: Option<&str>) -> Result<Self> {
        let Some(name) = clamp.filter(|name| !name.is_empty()) else {
            return Ok(Self::best());
        };
        let supported = Self::supported();
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

    /// This one, or the portable one if this CPU has not got it.
    pub(crate) fn or_portable(self) -> Self {
        if self.is_supported() { self } else { Self::Portable }
    }

    /// Lanes of its longest vector of f32.
    pub(crate) fn lanes(self) -> usize {
        for_token!(self, T => <T as Token>::F32s::LANES, else MIN_LANES)
    }

    /// This one if its gather is the way to fetch numbers from anywhere, else the one beside it that loads
    /// them one by one: AMD's gathers of sixteen take twice as long (0.335 ns a number on a Zen 4, against
    /// 0.172 by eight loads).
    pub(crate) fn of_gathers(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512 && gathers_slowly(vendor()) {
            return Self::Avx2;
        }
        self
    }

    /// This one if its vectors divide a length, else the one of shorter vectors beside it.
    #[cfg(feature = "train")]
    pub(crate) fn dividing(self, length: usize) -> Self {
        match self {
            Self::Avx512 if !length.is_multiple_of(self.lanes()) => Self::Avx2,
            isa => isa,
        }
    }

    /// Runs a kernel compiled for the instruction set, or for the portable one where the CPU has not
    /// got it.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        // One call for all: a kernel is then moved once, not in every arm.
        let compiled = for_token!(self, T => T::new().map(T::compiled::<K>), else None);
        // SAFETY: a token has given the function.
        unsafe { compiled.unwrap_or_else(|| Portable.compiled())(kernel) }
    }
}

#[cfg(target_arch = "x86_64")]
fn gathers_slowly(vendor: [u8; 12]) -> bool {
    matches!(&vendor, b"AuthenticAMD" | b"HygonGenuine")
}
