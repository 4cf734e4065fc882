//! Any bytes as images, arrays or labels.

use svdo::data;
use svdo::network::Shape;

use super::scratch;

fn shape(choice: u8) -> Shape {
    match choice & 7 {
        0 => Shape::new(1, 28, 28),
        1 => Shape::new(1, 4, 4),
        2 => Shape::new(3, 4, 4),
        3 => Shape::new(3, 2, 5),
        4 => Shape::vector(1),
        5 => Shape::vector(12),
        6 => Shape::new(2, 3, 1),
        _ => Shape::new(4, 2, 2),
    }
}

/// IDX, .npy, either gzipped, .npz, raw: read as their first bytes say, raw under its extension.
pub fn samples(bytes: &[u8]) {
    let [choice, rest @ ..] = bytes else { return };
    let path = scratch::file(if choice & 8 == 0 { "x" } else { "x.raw" }, rest);
    let name = (choice & 16 != 0).then_some("x");
    let shape = shape(*choice);
    if let Ok(samples) = data::read_samples(&[path.clone(), path], name, shape) {
        assert_eq!(samples.values.len() % shape.elements().unwrap(), 0);
        assert!(!samples.is_empty());
        let _ = (samples.rows().unwrap(), samples.maps().unwrap());
    }
}

/// A PNG's chunks with their checksums repaired.
pub fn png(bytes: &[u8]) {
    let [choice, rest @ ..] = bytes else { return };
    let mut rest = rest;
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    while let [high, low, chunk @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (body, behind) = chunk.split_at((4 + length).min(chunk.len()));
        file.extend((body.len().saturating_sub(4) as u32).to_be_bytes());
        file.extend(body);
        file.extend(super::container::checksum(body).to_be_bytes());
        rest = behind;
    }
    let _ = data::read_samples(&[scratch::file("x.png", &file)], None, shape(*choice));
}

pub fn labels(bytes: &[u8]) {
    let _ = data::read_labels(&scratch::file("y", bytes));
}
