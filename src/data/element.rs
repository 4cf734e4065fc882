//! The element types of stored arrays.

/// A number type with its byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) kind: Kind,
    pub(super) big_endian: bool,
}

/// A number type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
}

impl Kind {
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub(super) fn is_integer(self) -> bool {
        !matches!(self, Self::Bool | Self::F16 | Self::F32 | Self::F64)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl Element {
    /// Bytes of one value.
    pub(super) fn size(self) -> usize {
        self.kind.size()
    }

    /// Gives every whole value in the bytes to `push`. Integers beyond 2^53 are rounded.
    pub(super) fn decode(self, bytes: &[u8], push: impl FnMut(f64)) {
        let big = self.big_endian;
        match self.kind {
            Kind::Bool => each(bytes, big, |[b]| f64::from(u8::from(b != 0)), push),
            Kind::U8 => each(bytes, big, |[b]| f64::from(b), push),
            Kind::I8 => each(bytes, big, |b| f64::from(i8::from_le_bytes(b)), push),
            Kind::U16 => each(bytes, big, |b| f64::from(u16::from_le_bytes(b)), push),
            Kind::I16 => each(bytes, big, |b| f64::from(i16::from_le_bytes(b)), push),
            Kind::U32 => each(bytes, big, |b| f64::from(u32::from_le_bytes(b)), push),
            Kind::I32 => each(bytes, big, |b| f64::from(i32::from_le_bytes(b)), push),
            Kind::U64 => each(bytes, big, |b| u64::from_le_bytes(b) as f64, push),
            Kind::I64 => each(bytes, big, |b| i64::from_le_bytes(b) as f64, push),
            Kind::F16 => each(bytes, big, |b| half(u16::from_le_bytes(b)), push),
            Kind::F32 => each(bytes, big, |b| f64::from(f32::from_le_bytes(b)), push),
            Kind::F64 => each(bytes, big, f64::from_le_bytes, push),
        }
    }
}

fn each<const N: usize>(
    bytes: &[u8],
    big_endian: bool,
    value: impl Fn([u8; N]) -> f64,
    mut push: impl FnMut(f64),
) {
    for &chunk in bytes.as_chunks::<N>().0 {
        let mut little = chunk;
        if big_endian {
            little.reverse();
        }
        push(value(little));
    }
}

/// The value of IEEE binary16 bits.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match (bits >> 10) & 0x1f {
        0 => fraction / f64::from(1 << 24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * f64::from(1u32 << exponent) / f64::from(1 << 25),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: Kind, bytes: &[u8]) -> [f64; 2] {
        let read = |big_endian, bytes: &[u8]| {
            let mut values = Vec::new();
            Element { kind, big_endian }.decode(bytes, |v| values.push(v));
            assert_eq!(values.len(), 1, "{kind}");
            values[0]
        };
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        [read(false, bytes), read(true, &reversed)]
    }

    #[test]
    fn every_kind_in_both_byte_orders() {
        for (kind, bytes, value) in [
            (Kind::Bool, vec![7], 1.0),
            (Kind::U8, vec![200], 200.0),
            (Kind::I8, vec![200], -56.0),
            (Kind::U16, 60_000u16.to_le_bytes().into(), 60_000.0),
            (Kind::I16, (-300i16).to_le_bytes().into(), -300.0),
            (Kind::U32, u32::MAX.to_le_bytes().into(), 4_294_967_295.0),
            (Kind::I32, (-70_000i32).to_le_bytes().into(), -70_000.0),
            (Kind::U64, (1u64 << 63).to_le_bytes().into(), 9_223_372_036_854_775_808.0),
            (Kind::I64, (-5_000_000_000i64).to_le_bytes().into(), -5e9),
            (Kind::F16, 0xc500u16.to_le_bytes().into(), -5.0),
            (Kind::F32, 0.1f32.to_le_bytes().into(), f64::from(0.1f32)),
            (Kind::F64, 0.1f64.to_le_bytes().into(), 0.1),
        ] {
            assert_eq!(bytes.len(), kind.size());
            assert_eq!(decode(kind, &bytes), [value; 2], "{kind}");
        }
    }

    #[test]
    fn half_precision_at_its_edges() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x0001, 2f64.powi(-24)),
            (0x03ff, 1023.0 * 2f64.powi(-24)),
            (0x0400, 2f64.powi(-14)),
            (0x3c00, 1.0),
            (0x3555, 0.333_251_953_125),
            (0x7bff, 65_504.0),
            (0x7c00, f64::INFINITY),
            (0xfc00, f64::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), value, "{bits:04x}");
        }
        assert!(half(0x7e00).is_nan());
        assert!(half(0x8000).is_sign_negative());
    }
}
