//! Gates: conditions on a report that fail a build.

use serde::{Deserialize, Serialize};

/// A condition and whether it held; one on what is not a number never does.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_fails() {
        for (limit, found) in [(0.5, f64::NAN), (f64::NAN, 0.5), (f64::NAN, f64::NAN)] {
            assert!(!Gate::at_most("assert-max-error", limit, found).passed);
            assert!(!Gate::at_least("assert-ratio", limit, found).passed);
        }
        assert!(Gate::at_most("a", 0.5, 0.5).passed && Gate::at_least("a", 0.5, 0.5).passed);
    }
}
