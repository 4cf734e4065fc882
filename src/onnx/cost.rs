//! What decoding a model takes, counted over its bytes before anything is decoded: an empty message is
//! two bytes in a file and hundreds in memory.

use super::problem;
use super::proto::*;
use crate::budget::ReadBudget;
use crate::error::Result;

/// The messages that others hold.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Leaf,
}

/// What a field holds.
enum Held {
    Message(Kind, usize),
    /// Integers, one after the other.
    Integers,
    Other,
}

impl Kind {
    fn field(self, number: u64) -> Held {
        let of = Held::Message;
        match (self, number) {
            (Self::Model, 7) => of(Self::Graph, size_of::<GraphProto>()),
            (Self::Model, 8) => of(Self::Leaf, size_of::<OperatorSetIdProto>()),
            (Self::Graph, 1) => of(Self::Node, size_of::<NodeProto>()),
            (Self::Graph, 5) | (Self::Attribute, 5) => of(Self::Tensor, size_of::<TensorProto>()),
            (Self::Attribute, 6) => of(Self::Graph, size_of::<GraphProto>()),
            (Self::Graph, 11 | 12) => of(Self::ValueInfo, size_of::<ValueInfoProto>()),
            (Self::Graph, 15) | (Self::Attribute, 22) => {
                of(Self::Sparse, size_of::<SparseTensorProto>())
            }
            (Self::Node, 1 | 2) => of(Self::Leaf, size_of::<String>()),
            (Self::Attribute, 9) => of(Self::Leaf, size_of::<Vec<u8>>()),
            (Self::Node, 5) => of(Self::Attribute, size_of::<AttributeProto>()),
            (Self::Sparse, 1 | 2) => of(Self::Tensor, size_of::<TensorProto>()),
            (Self::Tensor, 13) => of(Self::Leaf, size_of::<StringStringEntryProto>()),
            (Self::ValueInfo, 2) => of(Self::Type, 0),
            (Self::Type, 1) => of(Self::TensorType, 0),
            (Self::TensorType, 2) => of(Self::Shape, 0),
            (Self::Shape, 1) => of(Self::Leaf, size_of::<DimensionProto>()),
            (Self::Attribute, 8) | (Self::Tensor, 1 | 5 | 7) | (Self::Sparse, 3) => Held::Integers,
            _ => Held::Other,
        }
    }
}

/// Takes what decoding the model will take.
///
/// # Errors
/// [`crate::Error::Limit`]; a file that is no model.
pub(super) fn charge(bytes: &[u8], budget: &ReadBudget) -> Result<()> {
    message(Kind::Model, bytes, budget)
}

fn message(kind: Kind, bytes: &[u8], budget: &ReadBudget) -> Result<()> {
    // A vector that grows holds its items twice for a moment.
    const GROWING: u64 = 2;
    let damaged = || problem("it ends within a field, or is damaged");
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(damaged)?;
        let held = kind.field(key >> 3);
        match key & 7 {
            0 => {
                varint(&mut rest).ok_or_else(damaged)?;
                budget.bytes(GROWING * 8)?;
            }
            1 => {
                take(&mut rest, 8).ok_or_else(damaged)?;
                budget.bytes(GROWING * 8)?;
            }
            5 => {
                take(&mut rest, 4).ok_or_else(damaged)?;
                budget.bytes(GROWING * 4)?;
            }
            2 => {
                let length = varint(&mut rest).ok_or_else(damaged)?;
                let content = take(&mut rest, length).ok_or_else(damaged)?;
                match held {
                    Held::Message(Kind::Leaf, size) => {
                        budget.bytes(GROWING * size as u64 + length)?;
                    }
                    Held::Message(kind, size) => {
                        budget.bytes(GROWING * size as u64)?;
                        message(kind, content, budget)?;
                    }
                    Held::Integers => {
                        let count = content.iter().filter(|&&byte| byte < 0x80).count() as u64;
                        budget.bytes(GROWING * 8 * count)?;
                    }
                    Held::Other => budget.bytes(length)?,
                }
            }
            _ => return Err(problem("it has groups of fields, which ONNX does not write")),
        }
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = tail;
    Some(taken)
}
