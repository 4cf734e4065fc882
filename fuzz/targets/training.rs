//! Any bytes as the state of a training.

use svdo::train::checkpoint;

/// Without the length of the header, which is put before: an error, or a training whose state reads as
/// the same.
pub fn state(bytes: &[u8]) {
    let [low, high, rest @ ..] = bytes else { return };
    let length = u64::from(u16::from_le_bytes([*low, *high]));
    let file = [&length.to_le_bytes(), rest].concat();
    let Ok(mut trainer) = checkpoint::resume(&file) else { return };
    let written = checkpoint::state(&mut trainer).unwrap();
    let mut again = checkpoint::resume(&written).unwrap();
    assert!(checkpoint::state(&mut again).unwrap() == written);
    checkpoint::checkpoint(&trainer).unwrap();
}
