//! Gates: conditions on a report that fail a build.

use serde::{Deserialize, Serialize};

/// A condition and whether it held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Gate {
    /// The option that set it.
    pub name: String,
    /// The bound.
    pub limit: f64,
    /// What was measured.
    pub found: f64,
    /// Whether it held.
    pub passed: bool,
}

impl Gate {
    /// Holds if `found` is at least `limit`.
    pub fn at_least(name: &str, limit: f64, found: f64) -> Self {
        Self { name: name.into(), limit, found, passed: found >= limit }
    }

    /// Holds if `found` is at most `limit`.
    pub fn at_most(name: &str, limit: f64, found: f64) -> Self {
        Self { name: name.into(), limit, found, passed: found <= limit }
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let Self { name, limit, found, .. } = self;
        match name.as_str() {
            "assert-max-error" | "max-growth" => {
                let (limit, found) = ((100.0 * limit) as f32, 100.0 * found);
                write!(f, "--{name} {limit}%: {found:.2} % {verdict}")
            }
            "assert-ratio" => write!(f, "--{name} {limit}: {found:.1}x {verdict}"),
            _ => write!(f, "--{name} {limit}: {found} {verdict}"),
        }
    }
}
