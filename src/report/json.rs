//! Reports as JSON: which schema of `formats/` they fit and which program wrote them come first.

use serde::Serialize;

use super::Report;
use crate::error::{Error, Result};

/// The program that writes reports.
pub(crate) const PROGRAM: &str = concat!("svdo ", env!("CARGO_PKG_VERSION"));

/// The schema of [`Report`] and of a benchmark.
pub(crate) const REPORT: &str = "report.schema.json";

/// A report with what it is of, both in front of its own members.
#[derive(Serialize)]
struct Stamped<'a, T> {
    schema: &'static str,
    program: &'static str,
    #[serde(flatten)]
    report: &'a T,
}

/// The report as pretty-printed JSON with a newline at the end.
///
/// # Errors
/// [`Error::Data`] if a number is not finite, since JSON would silently turn it into null.
pub fn render(report: &Report) -> Result<String> {
    let unserializable = |e: serde_json::Error| Error::data(format!("report: {e}"));
    let value = serde_json::to_value(report).map_err(unserializable)?;
    if has_null(&value) {
        return Err(Error::data("report: a number is not finite"));
    }
    stamped(REPORT, report)
}

/// Any report as [`render`] has it, by the name of its schema in `formats/`; what is not finite becomes null.
pub(crate) fn stamped(schema: &'static str, report: &impl Serialize) -> Result<String> {
    pretty(&Stamped { schema, program: PROGRAM, report })
}

/// Any value as pretty-printed JSON with a newline at the end; what is not finite becomes null.
pub(crate) fn pretty(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Format { format: "JSON", problem: e.to_string() })?;
    Ok(text + "\n")
}

fn has_null(value: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Null, Object};
    match value {
        Null => true,
        Array(items) => items.iter().any(has_null),
        Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}
