//! What levels stand for, in steps, and the levels around a value.

use crate::model::{Scale, Values};

/// The values of the levels in steps.
#[derive(Debug)]
pub(super) struct ReconstructionLevels {
    step: f64,
    /// Empty for even levels.
    values: Vec<f64>,
    most: i32,
}

impl ReconstructionLevels {
    pub(super) fn new(scale: Scale) -> Self {
        let most = scale.most() as i32 - 1;
        let values = match scale.companding {
            0 => Vec::new(),
            _ => {
                let values = Scale { step: 1.0, ..scale }.values(most as u32);
                let finite = values.into_iter().take_while(|v| (v * scale.step).is_finite());
                finite.map(f64::from).collect()
            }
        };
        let most = if values.is_empty() { most } else { values.len() as i32 - 1 };
        Self { step: f64::from(scale.step), values, most }
    }

    /// The value of one step.
    pub(super) fn step(&self) -> f64 {
        self.step
    }

    /// The magnitude of a level in steps, if there is such a level.
    pub(super) fn value(&self, level: i32) -> Option<f64> {
        if level > self.most {
            return None;
        }
        Some(self.values.get(level as usize).copied().unwrap_or(f64::from(level)))
    }

    /// The weight that a level is.
    pub(super) fn dequantize(&self, level: i32) -> f64 {
        let size = self.value(level.abs()).unwrap_or(0.0) * self.step;
        if level < 0 { -size } else { size }
    }

    /// The largest level not above a value.
    pub(super) fn below(&self, value: f64) -> i32 {
        if self.values.is_empty() {
            return value.min(f64::from(self.most)) as i32;
        }
        self.values.partition_point(|&v| v <= value) as i32 - 1
    }

    pub(super) fn nearest(&self, value: f32) -> i32 {
        let size = f64::from(value.abs()) / self.step;
        let below = self.below(size);
        let distance = |level| self.value(level).map_or(f64::INFINITY, |v| (v - size).abs());
        let level = if distance(below + 1) < distance(below) { below + 1 } else { below };
        if value < 0.0 { -level } else { level }
    }
}

/// The level next to a value, on a scale without companding.
pub(super) fn even_level(value: f64, scale: Scale) -> i32 {
    let most = f64::from(scale.most() - 1);
    (value / f64::from(scale.step)).round_ties_even().clamp(-most, most) as i32
}

/// What one of some levels on such a scale stands for; 0 of values that are no levels.
pub(super) fn even_value(values: &Values, at: usize) -> f64 {
    match values {
        Values::Levels { scale, levels } => f64::from(levels[at]) * f64::from(scale.step),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ladders_find_the_level_below_and_the_nearest() {
        for companding in [0, 13, 64] {
            let reconstruction = ReconstructionLevels::new(Scale { step: 0.5, companding });
            let c = f64::from(companding) / 64.0;
            for level in 1..20 {
                let formula = match companding {
                    0 => f64::from(level),
                    _ => ((1.0 + c).powi(level) - 1.0) / c,
                };
                let value = reconstruction.value(level).unwrap();
                assert!((value / formula - 1.0).abs() < 1e-6, "{companding} {level} {value}");
                assert_eq!(reconstruction.below(value * 1.0001), level);
                assert_eq!(reconstruction.below(value * 0.9999), level - 1);
                assert_eq!(reconstruction.nearest((-0.5 * value) as f32), -level);
            }
        }
        assert_eq!(
            ReconstructionLevels::new(Scale { step: 1.0, companding: 64 }).nearest(f32::MAX),
            127
        );
    }
}
