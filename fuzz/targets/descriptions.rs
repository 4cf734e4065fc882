//! Any text as a network description or a report.

use svdo::network::describe::Description;
use svdo::network::{Layer, Network};
use svdo::report::diff::{self, Diff};

use super::scratch;

/// A description, against layers of the shapes that it most likely means.
pub fn network(bytes: &[u8]) {
    let [choice, rest @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let Ok(description) = Description::from_json(text) else { return };
    let shape = match choice & 3 {
        0 => vec![4, 4],
        1 => vec![4, 2, 3, 3],
        2 => vec![3, 4, 1, 1],
        _ => vec![1, 1],
    };
    let names = description.layer_names();
    let layer = |name: &&str| Layer { name: (*name).into(), shape: shape.clone() };
    let Ok(network) = description.resolve(names.iter().map(layer).collect()) else { return };
    again(&network);
}

/// A network's own description means that network.
fn again(network: &Network) {
    let text = serde_json::to_string(&Description::of(network)).unwrap();
    let read = Description::from_json(&text).unwrap().resolve(network.layers.clone()).unwrap();
    assert_eq!(read.shapes().unwrap(), network.shapes().unwrap());
}

/// A report beside itself, as the command compares it.
pub fn report(bytes: &[u8]) {
    let Ok(report) = diff::read(&scratch::file("report.json", bytes)) else { return };
    let diff = Diff::new(&report, &report);
    let _ = (diff.text(), diff.markdown());
}
