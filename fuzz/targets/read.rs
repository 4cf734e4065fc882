//! Any bytes: `container::read` gives a model or an error, and what it gives is written again as
//! something that reads the same. Checksums are repaired first, so that the parser behind them is met.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svdo::container;

fuzz_target!(|bytes: &[u8]| {
    let mut file = [&b"SVDO\x01"[..], bytes].concat();
    file.extend(checksum(&file).to_le_bytes());
    if let Ok(model) = container::read(&file) {
        let written = container::write(&model, false).expect("what is read can be written").bytes;
        let again = container::read(&written).expect("what is written can be read");
        // Not the models: a NaN is not equal to itself.
        assert!(container::write(&again, false).expect("a model").bytes == written);
    }
});

/// CRC-32 of IEEE 802.3, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8)
            .fold(sum ^ u32::from(byte), |sum, _| sum >> 1 ^ 0xedb8_8320 & (sum & 1).wrapping_neg())
    })
}
