//! Named tensors, wherever they are stored.

use crate::error::Result;

/// Element types that can become f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary64; rounded to f32.
    F64,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// Zero or one, as masks are; read as 0 and 1.
    Bool,
    /// A byte, as masks are; read as a number.
    U8,
    /// Anything else: listed, not read.
    Other(&'static str),
}

impl DType {
    /// Whether it is a floating-point number, as means and variances are.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }

    /// Bytes of one element; `None` if it cannot be read.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
            Self::Bool | Self::U8 => Some(1),
            Self::Other(_) => None,
        }
    }

    /// Why it cannot be read, with the way out.
    pub(super) fn unread(self) -> String {
        let quantized = match self {
            Self::Other(name) => {
                ["I8", "U8", "F8", "I16", "I32"].iter().any(|t| name.starts_with(t))
            }
            other => other == Self::U8,
        };
        let way_out = match quantized {
            true => ": quantized weights have their scales elsewhere, save them dequantized",
            false => ": convert it",
        };
        format!("type {self}; F32, F16, BF16 and F64 can be read{way_out}")
    }

    /// Converts little-endian bytes, as many elements as `out` holds.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: fn([u8; N]) -> f32) {
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
                *value = convert(*chunk);
            }
        }
        match self {
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            Self::Bool => each(bytes, out, |[b]| f32::from(u8::from(b != 0))),
            Self::U8 => each(bytes, out, |[b]| f32::from(b)),
            Self::Other(_) => out.fill(f32::NAN),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::Other(name) => name,
        })
    }
}

/// Name, type and shape of a tensor.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// The full name.
    pub name: String,
    /// The element type as stored.
    pub dtype: DType,
    /// The shape as stored.
    pub shape: Vec<usize>,
}

/// A container of tensors that can be read in parts, by many threads at once.
pub trait TensorSource: Send + Sync {
    /// The container's name, for people.
    fn format(&self) -> &'static str;

    /// All tensors, in the order they are stored.
    fn tensors(&self) -> &[TensorInfo];

    /// How far apart neighbors lie along each dimension, in elements; `None` for row-major order.
    fn strides(&self, tensor: usize) -> Option<&[usize]> {
        let _ = tensor;
        None
    }

    /// Reads the elements from `start` on, in the order in which they lie in the file, until `out`
    /// is full. `start` counts from the tensor's first element.
    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()>;

    /// A text that the container carries beside its tensors.
    fn metadata(&self, key: &str) -> Option<&str>;

    /// The accuracy that the file says its network has, as it stands there, and under which name.
    fn accuracy(&self) -> Option<(&'static str, f64)> {
        None
    }

    /// The first tensor that has the very elements of this one: itself, unless one tensor stands
    /// under several names.
    fn first_of(&self, tensor: usize) -> usize {
        tensor
    }

    /// What the user should know about how the container was read.
    fn notes(&self) -> &[String] {
        &[]
    }
}
