//! Interpolation along one axis.

use crate::engine::execute::Panel;
use crate::network::{Resize, Shape};

/// Every element along an axis as a sum of some others.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Interpolation {
    /// Elements along the axis, before and after.
    sizes: [usize; 2],
    /// Elements that stand side by side for one along the axis.
    inner: usize,
    /// Elements of a sum.
    width: usize,
    /// `[element][width]`: where it is taken from, and its factor.
    taps: Vec<(u32, f32)>,
}

impl Interpolation {
    /// Along the rows (0) or the columns (1) of a value, if that changes anything.
    pub(in crate::engine) fn new(resize: &Resize, axis: usize, x: Shape) -> Option<Self> {
        let sizes = [[x.height, x.width][axis], resize.size[axis]];
        let width = resize.width();
        let mut taps = Vec::with_capacity(sizes[1] * width);
        for at in 0..sizes[1] {
            let found = resize.taps(axis, at, sizes[0]);
            taps.extend(found[..width].iter().map(|&(from, share)| (from as u32, share)));
        }
        let own = |(at, &(from, share)): (usize, &(u32, f32))| {
            share == if from as usize == at / width { 1.0 } else { 0.0 }
        };
        let same = sizes[0] == sizes[1] && taps.iter().enumerate().all(own);
        let inner = [x.width, 1][axis];
        (!same).then_some(Self { sizes, inner, width, taps })
    }

    /// Bytes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        8 * self.taps.len()
    }

    pub(super) fn apply(&self, panel: Panel<'_>, x: &[f32], y: &mut [f32]) {
        let [before, after] = self.sizes.map(|size| size * self.inner * panel.lanes);
        let planes = y.len() / after;
        panel.by_rows((y, after), [planes, 1], &|first, y| {
            self.planes(&x[first * before..], y, panel.lanes);
        });
    }

    fn planes(&self, x: &[f32], y: &mut [f32], lanes: usize) {
        let (inner, [before, after]) = (self.inner * lanes, self.sizes);
        let planes = x.chunks_exact(before * inner).zip(y.chunks_exact_mut(after * inner));
        for (x, y) in planes {
            let taps = self.taps.chunks_exact(self.width);
            if inner == 1 {
                for (y, taps) in y.iter_mut().zip(taps) {
                    *y = taps.iter().map(|&(from, share)| x[from as usize] * share).sum();
                }
                continue;
            }
            for (y, taps) in y.chunks_exact_mut(inner).zip(taps) {
                y.fill(0.0);
                for &(from, share) in taps {
                    let x = &x[from as usize * inner..][..inner];
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += share * x);
                }
            }
        }
    }
}
