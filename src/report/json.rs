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
    let mut text = serde_json::to_string_pretty(report).map_err(unserializable)?;
    text.push('\n');
    Ok(text)
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
