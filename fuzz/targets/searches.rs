//! Any bytes as the state of a search.

use std::sync::LazyLock;

use svdo::checkpoint::profile::DenseLayout;
use svdo::checkpoint::{Checkpoint, Options};
use svdo::compress::{Done, Goal, Job};

use super::scratch;

/// A network of two weights: its checkpoint, and the state of its search.
static STATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = scratch::file("first.state", b"");
    search(&path).unwrap();
    std::fs::read(path).unwrap()
});

fn search(state: &std::path::Path) -> svdo::Result<Done> {
    let header = r#"{"fc.theta":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"fc.log_sigma2":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}"#;
    let numbers = [0.5f32, -0.25, -8.0, -8.0].map(f32::to_le_bytes).concat();
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &numbers].concat();
    let checkpoint = scratch::file("tiny.safetensors", &bytes);
    let options = Options { dense: Some(DenseLayout::OutIn), ..Options::default() };
    let checkpoint = Checkpoint::open(&checkpoint, &options)?;
    Job::new(&checkpoint).goal(Goal::OutputError(0.1)).effort(1).search_state(state).run()
}

/// As they are, or behind the lines of a state of this search, as many as the first byte says: an error that
/// leaves the file as it is, or a search that goes on from it.
pub fn state(bytes: &[u8]) {
    let [lines, rest @ ..] = bytes else { return };
    let known: Vec<&[u8]> = STATE.split_inclusive(|&b| b == b'\n').collect();
    let content = [&known[..known.len().min((*lines).into())].concat(), rest].concat();
    let path = scratch::file("search.state", &content);
    let result = search(&path);
    let left = std::fs::read(&path).unwrap();
    match result {
        Ok(_) => assert!(left.starts_with(&STATE[..known[0].len()])),
        Err(_) => assert!(left.starts_with(&content[..content.len().min(left.len())])),
    }
}
