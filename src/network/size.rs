//! Sizes as descriptions have them: numbers, or terms in the steps T of a sequence.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Polynomial;
use crate::error::{Error, Result};

/// A whole number, or one that follows from the steps T of a sequence: `12`, `"T"`, `"2T^2 - 3T + 1"`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Size(pub Polynomial);

impl Size {
    /// The number.
    ///
    /// # Errors
    /// [`Error::Network`] if it follows from a length.
    pub(super) fn number(self) -> Result<i64> {
        match self.0.0 {
            [number, 0, 0] => Ok(number),
            _ => Err(Error::network(format!(
                "{self} has no value: \"time\" of the input says how long sequences are at most"
            ))),
        }
    }

    /// The number, which is none below 0.
    pub(super) fn size(self) -> Result<usize> {
        let number = self.number()?;
        usize::try_from(number).map_err(|_| Error::network(format!("a size of {number}")))
    }

    /// The numbers.
    pub(super) fn all<const N: usize>(sizes: [Self; N]) -> Result<[usize; N]> {
        let mut all = [0; N];
        for (number, size) in all.iter_mut().zip(sizes) {
            *number = size.size()?;
        }
        Ok(all)
    }

    /// Its value for so many steps.
    pub(super) fn at(self, steps: usize) -> Option<Self> {
        self.0.at(steps).map(Self::from)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut terms = [0i64; 3];
        let mut rest = text;
        for first in [true].into_iter().chain(std::iter::repeat(false)) {
            rest = rest.trim_start();
            let sign = match rest.as_bytes().first()? {
                b'-' => -1,
                b'+' => 1,
                _ if first => 0,
                _ => return None,
            };
            rest = if sign == 0 { rest } else { rest[1..].trim_start() };
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let (degree, after) = match after.strip_prefix('T') {
                None => (0, after),
                Some(after) => match after.strip_prefix("^2") {
                    Some(after) => (2, after),
                    None => (1, after),
                },
            };
            let factor = if number.is_empty() && degree > 0 { 1 } else { number.parse().ok()? };
            let factor = if sign < 0 { -factor } else { factor };
            terms[degree] = terms[degree].checked_add(factor)?;
            rest = after.trim_start();
            if rest.is_empty() {
                break;
            }
        }
        Some(Self(Polynomial(terms)))
    }
}

impl From<i64> for Size {
    fn from(number: i64) -> Self {
        Self(Polynomial([number, 0, 0]))
    }
}

impl From<usize> for Size {
    fn from(number: usize) -> Self {
        // What is larger is refused as a size anywhere.
        Self::from(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl PartialEq<usize> for Size {
    fn eq(&self, number: &usize) -> bool {
        *self == Self::from(*number)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (degree, &factor) in self.0.0.iter().enumerate().rev() {
            let last = degree == 0 && first;
            if factor == 0 && !last {
                continue;
            }
            match (first, factor < 0) {
                (true, true) => f.write_str("-")?,
                (true, false) => {}
                (false, true) => f.write_str(" - ")?,
                (false, false) => f.write_str(" + ")?,
            }
            first = false;
            if degree == 0 || factor.unsigned_abs() != 1 {
                write!(f, "{}", factor.unsigned_abs())?;
            }
            f.write_str(["", "T", "T^2"][degree])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.0 {
            [number, 0, 0] => to.serialize_i64(number),
            _ => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or one by the steps T of a sequence, as \"2T + 1\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Size, E> {
                Ok(number.into())
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Size, E> {
                let number = i64::try_from(number);
                let large =
                    |_| E::invalid_value(serde::de::Unexpected::Other("2^63 or more"), &self);
                Ok(number.map_err(large)?.into())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (terms, text) in [
            ([12, 0, 0], "12"),
            ([0, 0, 0], "0"),
            ([-3, 0, 0], "-3"),
            ([0, 1, 0], "\"T\""),
            ([0, -1, 0], "\"-T\""),
            ([-1, 1, 0], "\"T - 1\""),
            ([1, -3, 2], "\"2T^2 - 3T + 1\""),
            ([0, 0, -12], "\"-12T^2\""),
        ] {
            let size = Size(Polynomial(terms));
            assert_eq!(serde_json::to_string(&size).unwrap(), text);
            assert_eq!(serde_json::from_str::<Size>(text).unwrap(), size);
        }
        assert_eq!(Size::parse(" T+T^2 -1+ 2T").unwrap().0.0, [-1, 3, 1]);
        for wrong in ["", "T T", "2", "t", "T^3", "T2", "1.5", "--T", "T +", "9223372036854775808T"]
        {
            let read = serde_json::from_str::<Size>(&format!("\"{wrong}\""));
            assert_eq!(read.is_ok(), wrong == "2", "{wrong}");
        }
        let problem = serde_json::from_str::<Size>("\"two\"").unwrap_err().to_string();
        assert!(problem.contains("a whole number, or one by the steps T"), "{problem}");
        assert_eq!(Size::parse("T^2 - T").unwrap().at(5), Some(Size::from(20usize)));
    }
}
