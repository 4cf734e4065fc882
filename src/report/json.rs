//! A report as JSON.

use super::Report;
use crate::error::{Error, Result};

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
    pretty(report)
}

/// Any value as pretty-printed JSON with a newline at the end; what is not finite becomes null.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<String> {
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
