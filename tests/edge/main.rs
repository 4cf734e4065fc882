//! Tests that need only the edge runtime: they also run on other CPUs, and on the edge build of
//! `svdo-infer`.
#![allow(clippy::unwrap_used)]

#[path = "../suite/kernels.rs"]
mod kernels;
#[path = "../suite/noise.rs"]
mod noise;
mod program;
mod serve;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The file of the specification's example: y = [x1 - 2 x2, x0 / 2 - 1/4].
fn example() -> Vec<u8> {
    let text = include_str!("../../formats/svdo-v1.md");
    let example = text.split("## Example").nth(1).unwrap();
    let lines = example.lines().filter_map(|line| line.strip_prefix("    ")?.split_once("  "));
    let bytes = lines.flat_map(|(hex, _)| hex.split(' '));
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The same with names of its classes.
fn named() -> Vec<u8> {
    let plain = example();
    let mut file = [&plain[..5], &[0x1e, 0x01], &plain[7..17], &[0x00], &plain[17..24]].concat();
    file.extend(b"\x80\x08\ndown\nup\x00");
    file.extend(&plain[26..32]);
    let sum = crc32fast::hash(&file);
    file.extend(sum.to_le_bytes());
    file
}

/// A folder of its own for a test, removed at its end.
struct Folder(tempfile::TempDir);

impl Folder {
    /// With the example as `m.svdo`.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("m.svdo", &example());
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// `svdo-infer` of this build, under the emulator named by `SVDO_TEST_RUNNER` if there is one.
fn infer(folder: &Folder) -> Command {
    let program = env!("CARGO_BIN_EXE_svdo-infer");
    let runner = std::env::var("SVDO_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().chain([program]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir(folder.path()).env_remove("SVDO_CPU");
    command
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
