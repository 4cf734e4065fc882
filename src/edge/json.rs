//! JSON as the edge build writes it, without a serializer.

use std::fmt::Write;

/// Text as a JSON string, in quotes.
pub fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// Finite outputs as JSON: a list for each sample.
pub(super) fn rows(outputs: &[f32], outs: usize) -> String {
    let mut json = String::from('[');
    for (sample, row) in outputs.chunks(outs).enumerate() {
        json.push_str(if sample > 0 { ",[" } else { "[" });
        for (at, value) in row.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(json, "{comma}{value:?}");
        }
        json.push(']');
    }
    json.push_str("]\n");
    json
}
