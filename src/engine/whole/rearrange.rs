//! Elements in another order.

use crate::engine::execute::Panel;
use crate::network::{Axis, View};

/// Rows of a transposition that are written side by side.
const TILE: usize = 8;

const ONE: Axis = Axis { size: 1, stride: 0 };

/// A view with as few axes as it can have: no axis of one element, none that goes on where the next one
/// ends.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Runs {
    offset: usize,
    axes: Vec<Axis>,
}

impl Runs {
    /// Of a view, every element of which lies in its source.
    pub(in crate::engine) fn new(view: &View) -> Self {
        Self::of(view.offset, view.axes())
    }

    pub(in crate::engine) fn of(offset: usize, all: &[Axis]) -> Self {
        let mut axes: Vec<Axis> = Vec::with_capacity(all.len());
        for &axis in all.iter().filter(|axis| axis.size != 1) {
            match axes.last_mut() {
                Some(last) if last.stride == axis.stride * axis.size as isize => {
                    *last = Axis { size: last.size * axis.size, stride: axis.stride };
                }
                _ => axes.push(axis),
            }
        }
        Self { offset, axes }
    }

    /// Whether elements stay in order, all of so many.
    pub(in crate::engine) fn is_identity(&self, elements: usize) -> bool {
        self.offset == 0
            && match self.axes[..] {
                [] => elements == 1,
                [Axis { size, stride }] => stride == 1 && size == elements,
                _ => false,
            }
    }

    /// Elements of the last axis, which are copied together.
    fn columns(&self) -> Axis {
        self.axes.last().copied().unwrap_or(ONE)
    }

    /// Copies the elements, `lanes` floats each.
    pub(super) fn copy(&self, panel: Panel<'_>, x: &[f32], y: &mut [f32]) {
        let row = self.columns().size * panel.lanes;
        let rows = y.len() / row;
        panel.by_rows((y, row), [rows, TILE], &|first, y| self.rows(x, y, first, panel.lanes));
    }

    /// Copies rows, from row `first` on as many as y holds.
    fn rows(&self, x: &[f32], mut y: &mut [f32], first: usize, lanes: usize) {
        let columns = self.columns();
        let (outer, rows) = match &self.axes[..] {
            [outer @ .., rows, _] => (outer, *rows),
            _ => (&[][..], ONE),
        };
        // Where in the outer axes the first plane is, and where it begins.
        let mut at = [0; View::MOST_AXES];
        let (mut left, mut from) = (first / rows.size, self.offset as isize);
        for (at, axis) in at.iter_mut().zip(outer).rev() {
            *at = left % axis.size;
            left /= axis.size;
            from += *at as isize * axis.stride;
        }
        let mut skipped = first % rows.size;
        while !y.is_empty() {
            let floats = (rows.size - skipped) * columns.size * lanes;
            let (here, later) = y.split_at_mut(floats.min(y.len()));
            plane(x, from + skipped as isize * rows.stride, here, [rows, columns], lanes);
            (y, skipped) = (later, 0);
            for (at, axis) in at.iter_mut().zip(outer).rev() {
                *at += 1;
                from += axis.stride;
                if *at < axis.size {
                    break;
                }
                *at = 0;
                from -= axis.stride * axis.size as isize;
            }
        }
    }
}

/// Rows of the innermost two axes.
fn plane(x: &[f32], from: isize, y: &mut [f32], [rows, columns]: [Axis; 2], lanes: usize) {
    let n = columns.size;
    if columns.stride != 1 && rows.stride == 1 && lanes == 1 {
        for (tile, y) in y.chunks_mut(TILE * n).enumerate() {
            let (from, height) = (from + (tile * TILE) as isize, y.len() / n);
            for column in 0..n {
                let from = (from + column as isize * columns.stride) as usize;
                for (row, &x) in x[from..from + height].iter().enumerate() {
                    y[row * n + column] = x;
                }
            }
        }
        return;
    }
    for (row, y) in y.chunks_exact_mut(n * lanes).enumerate() {
        let from = from + row as isize * rows.stride;
        match columns.stride {
            1 => y.copy_from_slice(&x[from as usize * lanes..][..n * lanes]),
            stride if lanes == 1 => {
                for (column, y) in y.iter_mut().enumerate() {
                    *y = x[(from + column as isize * stride) as usize];
                }
            }
            stride => {
                for (column, y) in y.chunks_exact_mut(lanes).enumerate() {
                    let from = (from + column as isize * stride) as usize * lanes;
                    y.copy_from_slice(&x[from..from + lanes]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_are_one_run_are_merged() {
        let axis = |size, stride| Axis { size, stride };
        let runs = Runs::of(0, &[axis(2, 12), axis(1, 7), axis(3, 4), axis(4, 1)]);
        assert!(runs.is_identity(24) && !runs.is_identity(25));
        let runs = Runs::of(0, &[axis(3, 0), axis(2, 0), axis(4, 1)]);
        assert_eq!(runs.axes, [axis(6, 0), axis(4, 1)]);
        assert!(Runs::of(0, &[axis(1, 5)]).is_identity(1));
        assert!(!Runs::of(1, &[axis(4, 1)]).is_identity(4));
    }
}
