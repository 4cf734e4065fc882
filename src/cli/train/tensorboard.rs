//! Event files of TensorBoard: records of a length, a protobuf `Event` and checksums of both
//! (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::error::IoContext;

/// One record.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// `brain.Event:2`, in the first record.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// A file that grows by an event for each epoch.
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new file in a folder, which is made if it is not there.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).at(folder)?;
        // Names have to begin so, and no two may be the same.
        let name = format!("events.out.tfevents.{}.{}", now() as u64, std::process::id());
        let path = folder.join(name);
        let file = File::create(&path).at(&path)?;
        let mut events = Self { path, file };
        events.write(&Event {
            wall_time: now(),
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        })?;
        Ok(events)
    }

    /// Adds numbers by name.
    pub(super) fn scalars(&mut self, step: i64, numbers: &[(String, f64)]) -> anyhow::Result<()> {
        let value = |(tag, number): &(String, f64)| Value {
            tag: tag.clone(),
            simple_value: *number as f32,
        };
        let summary = Summary { value: numbers.iter().map(value).collect() };
        self.write(&Event { wall_time: now(), step, file_version: None, summary: Some(summary) })
    }

    fn write(&mut self, event: &Event) -> anyhow::Result<()> {
        Ok(self.file.write_all(&record(&event.encode_to_vec())).at(&self.path)?)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The checksum, turned, so that a checksum of checksums is another.
fn masked(bytes: &[u8]) -> [u8; 4] {
    static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read back by the format's definition.
    #[test]
    fn records_are_lengths_events_and_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(&folder.path().join("runs")).unwrap();
        events.scalars(7, &[("train/nll".into(), 0.5), ("x".into(), -2.0)]).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(*rest.first_chunk().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data));
            found.push(Event::decode(data).unwrap());
            rest = &rest[16 + length..];
        }
        assert_eq!(found[0].file_version.as_deref(), Some("brain.Event:2"));
        let summary = found[1].summary.as_ref().unwrap();
        assert_eq!((found.len(), found[1].step), (2, 7));
        assert_eq!((&summary.value[0].tag[..], summary.value[0].simple_value), ("train/nll", 0.5));
        // CRC-32C of "123456789" is 0xe3069283.
        let by_hand = 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked(b"123456789"), by_hand.to_le_bytes());
    }
}
