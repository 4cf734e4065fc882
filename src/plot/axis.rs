//! Axes: how values become positions, and which of them are labelled.

/// An axis.
#[derive(Clone, Default)]
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) name: String,
    /// Whether steps are factors of ten.
    logarithmic: bool,
    /// The ends; those of the data where `None`.
    range: Option<(f64, f64)>,
    /// Whether the data's lower end is zero.
    from_zero: bool,
    /// How a value is written.
    label: Option<fn(f64) -> String>,
}

/// An axis over its data: from `low` to `high`, logarithms of the values where it is logarithmic.
pub(super) struct Scale<'a> {
    axis: &'a Axis,
    ends: (f64, f64),
    /// Where the ends are drawn.
    drawn: (f64, f64),
}

impl Axis {
    /// A linear axis over its data.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A logarithmic axis over its data.
    pub(crate) fn logarithmic(name: &str) -> Self {
        Self { logarithmic: true, ..Self::new(name) }
    }

    /// The same from `low` to `high`.
    pub(crate) fn within(self, low: f64, high: f64) -> Self {
        Self { range: Some((low, high)), ..self }
    }

    /// The same from zero on.
    pub(crate) fn with_zero(self) -> Self {
        Self { from_zero: true, ..self }
    }

    /// The same with values written by `label`.
    pub(crate) fn labelled(self, label: fn(f64) -> String) -> Self {
        Self { label: Some(label), ..self }
    }

    /// Whether values may lie beyond its ends.
    pub(super) fn cuts(&self) -> bool {
        self.range.is_some()
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }

    fn position(&self, value: f64) -> f64 {
        if self.logarithmic { libm::log10(value) } else { value }
    }

    /// The axis over `values`, drawn from one coordinate to another.
    pub(super) fn scale(&self, values: impl Iterator<Item = f64>, drawn: (f64, f64)) -> Scale<'_> {
        Scale { axis: self, ends: self.ends(values), drawn }
    }

    fn ends(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        if let Some((low, high)) = self.range {
            return (self.position(low), self.position(high));
        }
        let positions = values.filter(|v| self.shows(*v)).map(|v| self.position(v));
        let (low, high) = positions
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p), high.max(p)));
        if low > high {
            return (0.0, 1.0);
        }
        let low = if self.from_zero { low.min(0.0) } else { low };
        let margin = if high > low { 0.04 * (high - low) } else { 0.5 };
        (if self.from_zero && low == 0.0 { 0.0 } else { low - margin }, high + margin)
    }

    /// Positions and labels (markup) of ticks.
    fn ticks(&self, ends: (f64, f64)) -> Vec<(f64, String)> {
        if !self.logarithmic {
            return self.linear_ticks(ends);
        }
        let powers = self.power_ticks(ends, &[1], raw_step(ends).ceil().max(1.0) as i32);
        if powers.len() > 1 {
            return powers;
        }
        let parts = self.power_ticks(ends, &[1, 2, 5], 1);
        if parts.len() > 1 {
            return parts;
        }
        let ten = |position| libm::pow(10.0, position);
        let ticks = self.linear_ticks((ten(ends.0), ten(ends.1)));
        ticks.into_iter().map(|(value, label)| (libm::log10(value), label)).collect()
    }

    fn linear_ticks(&self, ends: (f64, f64)) -> Vec<(f64, String)> {
        let step = raw_step(ends);
        let decimals = (-libm::floor(libm::log10(step))).clamp(0.0, 9.0) as usize;
        let plain = |value: f64| format!("{value:.decimals$}").replace('-', "\u{2212}");
        let ticks = (ends.0 / step).ceil() as i64..=(ends.1 / step).floor() as i64;
        ticks
            .map(|i| i as f64 * step)
            .map(|value| (value, self.label.map_or_else(|| plain(value), |label| label(value))))
            .collect()
    }

    /// Multiples of each `step`-th power of ten.
    fn power_ticks(&self, ends: (f64, f64), multiples: &[u32], step: i32) -> Vec<(f64, String)> {
        let mut ticks = Vec::new();
        let powers = ends.0.floor() as i32 / step - 1..=ends.1.ceil() as i32 / step + 1;
        for power in powers.map(|n| n * step) {
            for &multiple in multiples {
                let value = f64::from(multiple) * libm::pow(10.0, power.into());
                let position = libm::log10(value);
                if (ends.0..=ends.1).contains(&position) {
                    let plain = || power_label(multiple, power);
                    ticks.push((position, self.label.map_or_else(plain, |label| label(value))));
                }
            }
        }
        ticks
    }
}

/// A round step of which about five fit.
fn raw_step((low, high): (f64, f64)) -> f64 {
    let raw = (high - low) / 5.0;
    let power = libm::pow(10.0, libm::floor(libm::log10(raw)));
    let step = [1.0, 2.0, 5.0].map(|m| m * power).into_iter().find(|s| *s >= raw);
    step.unwrap_or(10.0 * power)
}

fn power_label(multiple: u32, power: i32) -> String {
    let decimals = power.min(0).unsigned_abs() as usize;
    match power {
        -2..=3 => {
            let value = f64::from(multiple) * libm::pow(10.0, power.into());
            format!("{value:.decimals$}")
        }
        _ => {
            let factor = if multiple == 1 { String::new() } else { format!("{multiple}\u{b7}") };
            let power = power.to_string().replace('-', "\u{2212}");
            format!("{factor}10<tspan dy='-5' font-size='10'>{power}</tspan>")
        }
    }
}

impl Scale<'_> {
    /// Where a value is drawn; `None` for one that has no place on the axis.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        // Far beyond the ends is beyond them.
        const FAR: f64 = 1e4;
        let at = self.axis.shows(value).then(|| self.drawn(self.axis.position(value)))?;
        Some(at.clamp(-FAR, FAR))
    }

    /// The same for one that lies between the ends.
    pub(super) fn within(&self, value: f64) -> Option<f64> {
        let inside = |v: &f64| (self.ends.0..=self.ends.1).contains(&self.axis.position(*v));
        self.at(value).filter(|_| inside(&value))
    }

    /// Where ticks are drawn, and their labels.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let ticks = self.axis.ticks(self.ends).into_iter();
        ticks.map(|(position, label)| (self.drawn(position), label))
    }

    fn drawn(&self, position: f64) -> f64 {
        let share = (position - self.ends.0) / (self.ends.1 - self.ends.0);
        self.drawn.0 + share * (self.drawn.1 - self.drawn.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let labels = |axis: &Axis, ends| -> Vec<String> {
            axis.ticks(ends).into_iter().map(|(_, label)| label).collect()
        };
        let (linear, logarithmic) = (Axis::new(""), Axis::logarithmic(""));
        assert_eq!(labels(&linear, (-0.3, 1.1)), ["0.0", "0.5", "1.0"]);
        assert_eq!(labels(&linear, (-10.0, 10.0)), ["\u{2212}10", "\u{2212}5", "0", "5", "10"]);
        assert_eq!(labels(&logarithmic, (-1.2, 1.2)), ["0.1", "1", "10"]);
        assert_eq!(labels(&logarithmic, (-0.2, 0.9)), ["1", "2", "5"]);
        // 2100 to 2900.
        assert_eq!(labels(&logarithmic, (3.322, 3.462)), ["2200", "2400", "2600", "2800"]);
        let percent = linear.labelled(|v| format!("{v} %"));
        assert_eq!(labels(&percent, (0.0, 2.0)), ["0 %", "0.5 %", "1 %", "1.5 %", "2 %"]);
        for (position, _) in logarithmic.ticks((-14.2, 7.3)) {
            assert!((-14.2..=7.3).contains(&position));
        }
    }

    #[test]
    fn data_fits_its_axis() {
        assert_eq!(Axis::new("").ends([].into_iter()), (0.0, 1.0));
        assert_eq!(Axis::new("").with_zero().ends([50.0, 100.0].into_iter()), (0.0, 104.0));
        assert_eq!(Axis::new("").ends([f64::NAN, 3.0].into_iter()), (2.5, 3.5));
        assert_eq!(Axis::logarithmic("").ends([-1.0, 0.0, 10.0].into_iter()), (0.5, 1.5));
    }
}
