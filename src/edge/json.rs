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

/// How a report begins: by what the workstation's reports begin with.
pub(super) fn opening(report: &str, model: &std::path::Path) -> String {
    format!(
        "{{\n  \"schema\": \"report.schema.json\",\n  \"program\": \"svdo {}\",\n  \"report\": \"{report}\",\n  \
         \"model\": {},\n",
        env!("CARGO_PKG_VERSION"),
        quoted(&model.to_string_lossy())
    )
}

/// Finite outputs as JSON: a list for each sample.
pub(super) fn rows(outputs: &[&[f32]]) -> String {
    let mut json = String::from('[');
    for (sample, row) in outputs.iter().enumerate() {
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
