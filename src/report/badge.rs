//! A compression as a badge: the JSON of a shields.io endpoint.

use super::Compression;

/// `{"schemaVersion": 1, ...}` with the size ratio, red if a gate failed.
pub fn render(report: &Compression) -> String {
    let passed = report.gates.iter().all(|gate| gate.passed);
    let badge = serde_json::json!({
        "schemaVersion": 1,
        "label": "svdo",
        "message": format!("{:.0}x smaller", report.size_ratio),
        "color": if passed { "brightgreen" } else { "red" },
    });
    format!("{badge}\n")
}
