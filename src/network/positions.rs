//! Where the elements of a padded or resized value come from.

use super::{Coordinates, Fill, Interpolation, Resize, Rounding};

impl Fill {
    /// The element of a source of `n`, at least 1, that stands at `at`, `before` of the border first;
    /// `None` for a number of its own.
    pub(crate) fn source(self, at: usize, before: usize, n: usize) -> Option<usize> {
        let inside = at.checked_sub(before).filter(|&at| at < n);
        let (at, n) = (at as i64 - before as i64, n as i64);
        let found = match self {
            Self::Constant(_) => return inside,
            Self::Edge => at.clamp(0, n - 1),
            Self::Wrap => at.rem_euclid(n),
            Self::Reflect => {
                let period = (2 * (n - 1)).max(1);
                let at = at.rem_euclid(period);
                at.min(period - at)
            }
        };
        Some(found as usize)
    }
}

/// Elements of a source and their shares in an element of the result.
pub(crate) type Taps = [(usize, f32); 4];

impl Resize {
    /// How many elements along each axis an element of the result is made of.
    pub(crate) fn width(&self) -> usize {
        match self.interpolation {
            Interpolation::Nearest(_) => 1,
            Interpolation::Linear => 2,
            Interpolation::Cubic { .. } => 4,
        }
    }

    /// Those of element `at` along an axis whose source has `m`, at least 1; the first
    /// [`Resize::width`] count.
    ///
    /// Coordinates are computed in f32, as others do: where one is rounded, the last bit matters.
    pub(crate) fn taps(&self, axis: usize, at: usize, m: usize) -> Taps {
        let x = self.coordinates.of(at as f32, self.size[axis] as f32, m as f32, self.scale[axis]);
        // Far outside all is border; a scale may be too small for a number at all.
        let x = if x.is_nan() { 0.0 } else { x.clamp(-8.0, m as f32 + 8.0) };
        let inside = |index: i64| index.clamp(0, m as i64 - 1) as usize;
        let below = x.floor();
        let mut taps = [(0, 0.0); 4];
        match self.interpolation {
            Interpolation::Nearest(rounding) => {
                let nearest = match rounding {
                    Rounding::HalfDown => (x - 0.5).ceil(),
                    Rounding::HalfUp => (x + 0.5).floor(),
                    Rounding::Floor => below,
                    Rounding::Ceil => x.ceil(),
                };
                taps[0] = (inside(nearest as i64), 1.0);
            }
            Interpolation::Linear => {
                for (tap, share) in [1.0 - (x - below), x - below].into_iter().enumerate() {
                    taps[tap] = (inside(below as i64 + tap as i64), share);
                }
            }
            Interpolation::Cubic { a, exclude_outside } => {
                let mut sum = 0.0;
                for (tap, entry) in taps.iter_mut().enumerate() {
                    let index = below as i64 + tap as i64 - 1;
                    let out = exclude_outside && !(0..m as i64).contains(&index);
                    let share = if out { 0.0 } else { keys((x - index as f32).abs(), a) };
                    *entry = (inside(index), share);
                    sum += share;
                }
                if exclude_outside && sum != 0.0 {
                    taps.iter_mut().for_each(|(_, share)| *share /= sum);
                }
            }
        }
        taps
    }
}

/// Keys' kernel at a distance (1981, doi 10.1109/TASSP.1981.1163711).
fn keys(d: f32, a: f32) -> f32 {
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}

impl Coordinates {
    /// The coordinate in a source of `m` of element `i` of `n`, `s` being the scale.
    fn of(self, i: f32, n: f32, m: f32, s: f32) -> f32 {
        let middle = (i + 0.5) / s;
        let half = middle - 0.5;
        match self {
            Self::HalfPixel => half,
            Self::PytorchHalfPixel if n > 1.0 => half,
            Self::HalfPixelSymmetric => m / 2.0 * (1.0 - n / (s * m)) + middle - 0.5,
            Self::AlignCorners if n > 1.0 => i * (m - 1.0) / (n - 1.0),
            Self::PytorchHalfPixel | Self::AlignCorners => 0.0,
            Self::Asymmetric => i / s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_come_from_where_numpy_takes_them() {
        // numpy.pad of [0, 1, 2, 3] by 6 and 5.
        let of = |fill: Fill, n| {
            (0..6 + n + 5).map(|at| fill.source(at, 6, n).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(Fill::Reflect, 4), [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]);
        assert_eq!(of(Fill::Edge, 4), [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3]);
        assert_eq!(of(Fill::Wrap, 4), [2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0]);
        assert_eq!(of(Fill::Reflect, 1), [0; 12]);
        let constant = |at| Fill::Constant(7.0).source(at, 2, 3);
        assert_eq!([1, 2, 4, 5].map(constant), [None, Some(0), Some(2), None]);
    }

    #[test]
    fn coordinates_are_rounded_as_others_round_them() {
        // Three elements, 1.5 times as many: four, and the last of them is the last.
        let of = |i| Coordinates::HalfPixelSymmetric.of(i, 4.0, 3.0, 1.5);
        assert_eq!((of(0.0), of(3.0)), (0.0, 2.0));
    }

    #[test]
    fn no_scale_leaves_the_source() {
        let nearest = [Rounding::HalfDown, Rounding::HalfUp, Rounding::Floor, Rounding::Ceil];
        let others =
            [false, true].map(|exclude_outside| Interpolation::Cubic { a: -0.75, exclude_outside });
        let kinds = nearest
            .map(Interpolation::Nearest)
            .into_iter()
            .chain(others)
            .chain([Interpolation::Linear]);
        for interpolation in kinds {
            for coordinates in [
                Coordinates::HalfPixel,
                Coordinates::PytorchHalfPixel,
                Coordinates::HalfPixelSymmetric,
                Coordinates::AlignCorners,
                Coordinates::Asymmetric,
            ] {
                for scale in [f32::MIN_POSITIVE, 0.3, 1.0, 2.5, f32::MAX] {
                    for (n, m) in [(1, 1), (1, 9), (5, 1), (7, 3), (3, 7)] {
                        let size = [n, n];
                        let resize = Resize { size, scale: [scale; 2], interpolation, coordinates };
                        for at in 0..n {
                            let taps = resize.taps(0, at, m);
                            assert!(
                                taps.iter().all(|tap| tap.0 < m && tap.1.is_finite()),
                                "{resize:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}
