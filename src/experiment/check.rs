//! What is expected beside what is found, and when the two agree.

use serde_json::{Value, json};

/// A number with its standard error, which is zero where no chance is involved.
#[derive(Debug, Clone, Copy)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// A number without error.
    pub fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// The mean of independent numbers of one law.
    pub fn mean(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let value = values.clone().sum::<f64>() / n;
        let square = values.map(|v| (v - value) * (v - value)).sum::<f64>() / n;
        Self { value, error: libm::sqrt(square / n) }
    }

    /// So many times it.
    pub fn times(self, factor: f64) -> Self {
        Self { value: factor * self.value, error: factor.abs() * self.error }
    }

    /// Itself and more.
    pub fn plus(self, more: f64) -> Self {
        Self { value: self.value + more, ..self }
    }
}

/// How what is found stands to what is expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// The same but for chance: within 4.5 standard errors.
    Same,
    /// Below it by more than 4.5 standard errors.
    Below,
    /// Above it by more than 4.5 standard errors.
    Above,
    /// A control: apart by more than 10 standard errors.
    Differs,
    /// Apart by this much at most.
    Within(f64),
    /// A control: apart by more than this.
    Beyond(f64),
}

/// One comparison.
pub struct Check {
    /// The link of the chain.
    pub link: &'static str,
    /// Of what.
    pub what: &'static str,
    /// What it is to be.
    pub expected: Estimate,
    /// What it is.
    pub found: Estimate,
    /// How the two are to stand to each other.
    pub rule: Rule,
}

impl Check {
    /// How far what is found lies above what is expected.
    fn apart(&self) -> f64 {
        self.found.value - self.expected.value
    }

    /// The standard error of that.
    fn error(&self) -> f64 {
        libm::hypot(self.found.error, self.expected.error)
    }

    /// How far it lies above in standard errors.
    fn z(&self) -> f64 {
        self.apart() / self.error().max(1e-300)
    }

    /// Whether it is as the rule says. What is no number never is.
    pub fn passed(&self) -> bool {
        match self.rule {
            Rule::Same => self.z().abs() < 4.5,
            Rule::Below => self.z() < -4.5,
            Rule::Above => self.z() > 4.5,
            Rule::Differs => self.z().abs() > 10.0,
            Rule::Within(most) => self.apart().abs() <= most,
            Rule::Beyond(least) => self.apart().abs() > least,
        }
    }

    /// A line for the terminal.
    pub fn line(&self) -> String {
        let verdict = match (self.passed(), self.rule) {
            (false, _) => "FAILED",
            (true, Rule::Differs | Rule::Beyond(_)) => "ok, differs as it must",
            (true, Rule::Below) => "ok, below",
            (true, Rule::Above) => "ok, above",
            (true, _) => "ok",
        };
        let by = match self.rule {
            Rule::Within(most) => format!("at most {most:9.2e} apart"),
            Rule::Beyond(least) => format!("beyond {least:10.2e} apart"),
            _ => format!("z {:20.1}", self.z()),
        };
        let Self { link, what, expected, found, .. } = self;
        format!(
            "{link:43} {what:43} expected {}  found {}  {by}  {verdict}",
            short(expected.value),
            short(found.value)
        )
    }

    /// A member of a summary.
    pub fn json(&self) -> Value {
        let (rule, tolerance) = match self.rule {
            Rule::Same => ("same", None),
            Rule::Below => ("below", None),
            Rule::Above => ("above", None),
            Rule::Differs => ("differs", None),
            Rule::Within(most) => ("within", Some(most)),
            Rule::Beyond(least) => ("beyond", Some(least)),
        };
        json!({"link": self.link, "quantity": self.what, "expected": self.expected.value,
            "found": self.found.value, "standard_error": self.error(), "rule": rule,
            "z": tolerance.is_none().then(|| self.z()), "tolerance": tolerance,
            "passed": self.passed()})
    }
}

/// Ten characters.
fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e4).contains(&value.abs()) {
        format!("{value:10.3e}")
    } else {
        format!("{value:10.5}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_tell_chance_from_difference() {
        let check = |expected: f64, found: f64, rule| {
            let (expected, found) =
                (Estimate::exact(expected), Estimate { value: found, error: 0.1 });
            Check { link: "a", what: "b", expected, found, rule }.passed()
        };
        for (found, rules) in [
            (1.0, [true, false, false, false, true, false]),
            (1.7, [false, false, true, false, false, true]),
            (-0.2, [false, true, false, true, false, true]),
            (f64::NAN, [false; 6]),
        ] {
            let all = [Rule::Same, Rule::Below, Rule::Above, Rule::Differs];
            let all = all.into_iter().chain([Rule::Within(0.5), Rule::Beyond(0.5)]);
            for (rule, passes) in all.zip(rules) {
                assert_eq!(check(1.0, found, rule), passes, "{found} {rule:?}");
            }
        }
    }

    #[test]
    fn means_have_their_standard_error() {
        let mean = Estimate::mean([1.0, 2.0, 3.0, 6.0].into_iter()).times(-2.0).plus(1.0);
        // The variance is 14 / 4, of the mean a fourth of it.
        assert!(
            (mean.value + 5.0).abs() < 1e-15 && (mean.error - 2.0 * 0.875f64.sqrt()).abs() < 1e-15
        );
    }
}
