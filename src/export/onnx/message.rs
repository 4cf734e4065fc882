//! Protocol buffers, written by hand: a message is a run of fields, each a number, a kind and a value, and
//! only three kinds are needed.

/// The element type binary32.
pub(super) const FLOAT: u64 = 1;
/// The element type of whole numbers.
pub(super) const INT64: u64 = 7;
/// The element type of truth values.
pub(super) const BOOL: u64 = 9;

/// A protocol buffer.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    pub(super) fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }
}

pub(super) fn tensor(name: &str, dims: &[usize], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw_tensor(name, dims, FLOAT, &raw)
}

pub(super) fn tensor_of_integers(name: &str, values: &[i64]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw_tensor(name, &[values.len()], INT64, &raw)
}

pub(super) fn raw_tensor(name: &str, dims: &[usize], kind: u64, raw: &[u8]) -> Message {
    let mut tensor = Message::default();
    dims.iter().for_each(|&d| tensor.number(1, d as u64));
    tensor.number(2, kind);
    tensor.text(8, name);
    tensor.bytes(9, raw);
    tensor
}

pub(super) fn int(name: &str, value: u64) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.number(3, value);
    attribute.number(20, 2);
    attribute
}

pub(super) fn ints(name: &str, values: &[usize]) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    values.iter().for_each(|&v| attribute.number(8, v as u64));
    attribute.number(20, 7);
    attribute
}

pub(super) fn strings(name: &str, values: &[&str]) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    values.iter().for_each(|value| attribute.text(9, value));
    attribute.number(20, 8);
    attribute
}

pub(super) fn floats(name: &str, values: &[f32]) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    for value in values {
        attribute.varint(7 << 3 | 5);
        attribute.0.extend(value.to_le_bytes());
    }
    attribute.number(20, 6);
    attribute
}

pub(super) fn string(name: &str, value: &str) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.text(4, value);
    attribute.number(20, 3);
    attribute
}

pub(super) fn float(name: &str, value: f32) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.varint(2 << 3 | 5);
    attribute.0.extend(value.to_le_bytes());
    attribute.number(20, 1);
    attribute
}
