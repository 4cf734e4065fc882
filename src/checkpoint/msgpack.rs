//! Flax: msgpack as `flax.serialization.to_bytes` writes it, dictionaries in one another with arrays
//! as extensions. Values stay in the file.

use super::stored::{Entry, Part, Stored};
use super::tensor::DType;
use crate::budget::ReadBudget;
use crate::error::{Error, Result};

/// Flax's extension for an array: shape, name of the type, bytes.
const ARRAY: u8 = 1;
/// Bytes of a name or a shape.
const MOST_OF_A_TEXT: u64 = 1 << 12;
/// Dimensions of an array.
const MOST_DIMENSIONS: u64 = 64;
/// Bytes that an array takes in memory beside its name.
const OF_AN_ARRAY: u64 = 512;
/// How often an array's name is kept.
const NAMES: u64 = 4;

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "msgpack", problem: problem.into() }
}

/// Whether a file begins as a map with a text as its first key.
pub(super) fn is_map(head: &[u8]) -> bool {
    let key = match head {
        [0x81..=0x8f, rest @ ..] | [0xde, _, _, rest @ ..] | [0xdf, _, _, _, _, rest @ ..] => rest,
        _ => return false,
    };
    matches!(key, [0xa1..=0xbf | 0xd9 | 0xda, ..]) && head.get(8) != Some(&b'{')
}

/// The arrays of a file.
///
/// # Errors
/// What is damaged, or that there are none.
pub(super) fn open(part: Part) -> Result<Stored> {
    let mut reader =
        Reader { budget: ReadBudget::new(part.length()), part: &part, at: 0, arrays: Vec::new() };
    reader.value(&mut String::new(), 0)?;
    let arrays = reader.arrays;
    if arrays.is_empty() {
        return Err(invalid(
            "it holds no array as flax.serialization.to_bytes writes them: save the arrays by \
             numpy.savez under their names",
        ));
    }
    let mut stored = Stored::new("msgpack (Flax)");
    let part = stored.add_part(part);
    for Array { name, dtype, shape, start } in arrays {
        stored.push(Entry { name, dtype, shape, part, start, strides: None })?;
    }
    stored.check_names()?;
    Ok(stored)
}

struct Array {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    start: u64,
}

struct Reader<'a> {
    part: &'a Part,
    at: u64,
    budget: ReadBudget,
    arrays: Vec<Array>,
}

/// What begins with a byte.
enum Kind {
    /// This many bytes that say nothing here.
    Bytes(u64),
    Text(u64),
    List(u64),
    Map(u64),
    Extension(u64),
    Number(u64),
}

impl Reader<'_> {
    fn number(&mut self, bytes: u64) -> Result<u64> {
        let start = self.at;
        self.skip(bytes)?;
        let bytes = self.part.bytes(start, bytes, 8)?;
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn kind(&mut self) -> Result<Kind> {
        self.budget.steps(1)?;
        let first = self.number(1)?;
        Ok(match first {
            0x00..=0x7f => Kind::Number(first),
            0x80..=0x8f => Kind::Map(first & 15),
            0x90..=0x9f => Kind::List(first & 15),
            0xa0..=0xbf => Kind::Text(first & 31),
            0xc4..=0xc6 => Kind::Bytes(self.number(1 << (first - 0xc4))?),
            0xc7..=0xc9 => Kind::Extension(self.number(1 << (first - 0xc7))?),
            0xca => Kind::Bytes(4),
            0xcb => Kind::Bytes(8),
            0xcc..=0xcf => Kind::Number(self.number(1 << (first - 0xcc))?),
            0xd0..=0xd3 => Kind::Bytes(1 << (first - 0xd0)),
            0xd4..=0xd8 => Kind::Extension(1 << (first - 0xd4)),
            0xd9..=0xdb => Kind::Text(self.number(1 << (first - 0xd9))?),
            0xdc | 0xdd => Kind::List(self.number(2 << (first - 0xdc))?),
            0xde | 0xdf => Kind::Map(self.number(2 << (first - 0xde))?),
            _ => Kind::Bytes(0),
        })
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.part.length());
        self.at = end.ok_or_else(|| {
            invalid(
                "it ends within a value: truncated, or not as Flax writes it (save the arrays by \
             numpy.savez under their names)",
            )
        })?;
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<String> {
        let start = self.at;
        self.skip(length)?;
        let bytes = self.part.bytes(start, length, MOST_OF_A_TEXT)?;
        String::from_utf8(bytes).map_err(|_| invalid("a text is not UTF-8"))
    }

    /// A value and all that is in it, under a name.
    fn value(&mut self, name: &mut String, depth: usize) -> Result<()> {
        if depth > ReadBudget::DEPTH {
            return Err(invalid("its dictionaries lie too deep in one another"));
        }
        let below = name.len();
        self.budget.steps(below as u64 / 8)?;
        match self.kind()? {
            Kind::Bytes(length) | Kind::Text(length) => self.skip(length)?,
            Kind::Number(_) => {}
            Kind::List(count) => {
                for index in 0..count {
                    push(name, &index.to_string());
                    self.value(name, depth + 1)?;
                    name.truncate(below);
                }
            }
            Kind::Map(count) => {
                for _ in 0..count {
                    let key = match self.kind()? {
                        Kind::Text(length) => self.text(length)?,
                        Kind::Number(number) => number.to_string(),
                        _ => return Err(invalid("a key is no text")),
                    };
                    if key == "__msgpack_chunked_array__" {
                        return Err(Error::Tensor {
                            tensor: name.clone(),
                            problem: "is stored in chunks (above 1 GB), which is not read: save \
                                      the arrays by numpy.savez under their names"
                                .into(),
                        });
                    }
                    push(name, &key);
                    self.value(name, depth + 1)?;
                    name.truncate(below);
                }
            }
            Kind::Extension(length) => {
                let of = self.number(1)?;
                let end = self.at.checked_add(length);
                if of == u64::from(ARRAY) {
                    self.array(name.clone())?;
                    if end != Some(self.at) {
                        return Err(invalid("an array is not as long as it says: damaged"));
                    }
                } else {
                    self.skip(length)?;
                }
            }
        }
        Ok(())
    }

    fn array(&mut self, name: String) -> Result<()> {
        let damaged = || invalid("what should be an array is none: damaged");
        self.budget.bytes(OF_AN_ARRAY + NAMES * name.len() as u64)?;
        let Kind::List(3) = self.kind()? else { return Err(damaged()) };
        let rank = match self.kind()? {
            Kind::List(rank) if rank <= MOST_DIMENSIONS => rank,
            _ => return Err(damaged()),
        };
        let mut shape = Vec::new();
        for _ in 0..rank {
            let Kind::Number(size) = self.kind()? else { return Err(damaged()) };
            shape.push(usize::try_from(size).map_err(|_| damaged())?);
        }
        let Kind::Text(length) = self.kind()? else { return Err(damaged()) };
        let dtype = match self.text(length)?.as_str() {
            "float32" => DType::F32,
            "float64" => DType::F64,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "bool" => DType::Bool,
            "uint8" => DType::U8,
            "int8" => DType::Other("I8"),
            "int32" | "uint32" => DType::Other("I32"),
            "int64" => DType::Other("I64"),
            "complex64" | "complex128" => DType::Other("complex"),
            other if other.starts_with("float8") => DType::Other("F8"),
            _ => DType::Other("another type"),
        };
        let Kind::Bytes(length) = self.kind()? else { return Err(damaged()) };
        let start = self.at;
        self.skip(length)?;
        let size = dtype.size().unwrap_or(0) as u64;
        let needed = shape.iter().try_fold(size, |n, &d| n.checked_mul(d as u64));
        if needed.is_none_or(|needed| size != 0 && needed != length) {
            let problem = format!("shape {shape:?} of type {dtype} does not take {length} bytes");
            return Err(Error::Tensor { tensor: name, problem });
        }
        self.arrays.push(Array { name, dtype, shape, start });
        Ok(())
    }
}

fn push(name: &mut String, key: &str) {
    if !name.is_empty() {
        name.push('/');
    }
    name.push_str(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"params": {"fc": {"kernel": float32 [1, 2], "n": 7}}}`.
    fn file(length: u8) -> Vec<u8> {
        let mut bytes = b"\x81\xa6params\x81\xa2fc\x82\xa6kernel\xc7".to_vec();
        let mut array = b"\x93\x92\x01\x02\xa7float32\xc4".to_vec();
        array.push(length);
        array.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend([array.len() as u8, ARRAY]);
        bytes.extend(array);
        bytes.extend(b"\xa1n\x07");
        bytes
    }

    #[test]
    fn arrays_have_the_names_of_their_dictionaries() {
        use super::super::tensor::TensorSource;
        let bytes = file(8);
        assert!(is_map(&bytes));
        let stored = open(Part::Memory(bytes)).unwrap();
        assert_eq!(stored.tensors()[0].name, "params/fc/kernel");
        let mut values = [0.0; 2];
        stored.read(0, 0, &mut values).unwrap();
        assert_eq!(values, [1.5, -2.0]);
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole = file(8);
        for cut in 1..whole.len() {
            assert!(open(Part::Memory(whole[..cut].to_vec())).is_err(), "{cut}");
        }
        assert!(open(Part::Memory(file(7))).is_err());
        assert!(open(Part::Memory(b"\x81\xa1a\x01".to_vec())).is_err());
    }
}
