//! Values of a graph as views: what is moved, cut or repeated costs nothing until something needs the
//! numbers in one order.

use super::Reason;
use crate::network::Axis;

/// Axes over the elements of something that lies in one run: element `i, j, ...` is at `offset` plus the
/// sum of index times stride.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strided {
    pub(super) offset: usize,
    /// As many as the graph's value has dimensions.
    pub(super) axes: Vec<Axis>,
    /// The axis that counts samples, of which there is one here: a network is a graph for one sample. Where
    /// the batch became the outer part of an axis, that axis.
    pub(super) batch: Option<usize>,
}

/// Dimensions that a value may have on its way.
pub(super) const MOST_DIMENSIONS: usize = 16;

impl Strided {
    /// Row by row.
    pub(super) fn contiguous(sizes: &[usize]) -> Self {
        let order: Vec<usize> = (0..sizes.len()).collect();
        Self::in_order(sizes, &order)
    }

    /// Of these sizes, lying in memory in the order of the axes named, the last of which is the fastest;
    /// axes that are not named have one step.
    pub(super) fn in_order(sizes: &[usize], order: &[usize]) -> Self {
        let mut axes: Vec<Axis> = sizes.iter().map(|&size| Axis { size, stride: 0 }).collect();
        let mut stride = 1usize;
        for &axis in order.iter().rev() {
            axes[axis].stride = stride as isize;
            stride = stride.saturating_mul(sizes[axis]);
        }
        Self { offset: 0, axes, batch: None }
    }

    pub(super) fn dims(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.size).collect()
    }

    pub(super) fn rank(&self) -> usize {
        self.axes.len()
    }

    pub(super) fn elements(&self) -> usize {
        product(self.axes.iter().map(|axis| axis.size))
    }

    /// Axes of more than one step, the slowest first.
    pub(super) fn real_by_stride(&self) -> Vec<usize> {
        let mut real: Vec<usize> = self.real().collect();
        real.sort_by_key(|&axis| std::cmp::Reverse(self.axes[axis].stride.unsigned_abs()));
        real
    }

    /// Axes of more than one step beside these, the slowest first.
    pub(super) fn others(&self, but: &[usize]) -> Vec<usize> {
        self.real_by_stride().into_iter().filter(|axis| !but.contains(axis)).collect()
    }

    /// Axes of more than one step.
    pub(super) fn real(&self) -> impl Iterator<Item = usize> {
        (0..self.rank()).filter(|&axis| self.axes[axis].size != 1)
    }

    /// Whether these axes, in this order, run through `elements` one after the other.
    pub(super) fn runs_through(&self, order: &[usize], elements: usize) -> bool {
        let mut stride = 1;
        for &axis in order.iter().rev().filter(|&&axis| self.axes[axis].size != 1) {
            if self.axes[axis].stride != stride as isize {
                return false;
            }
            stride *= self.axes[axis].size;
        }
        self.offset == 0 && stride == elements
    }

    /// Whether every one of `elements` stands exactly once in the view.
    pub(super) fn is_whole(&self, elements: usize) -> bool {
        self.runs_through(&self.real_by_stride(), elements)
    }

    /// The offsets of all elements, row by row.
    pub(super) fn offsets(&self) -> impl Iterator<Item = usize> {
        let (dims, count) = (self.dims(), self.elements());
        let mut index = vec![0usize; dims.len()];
        let mut at = self.offset as isize;
        (0..count).map(move |_| {
            let found = at as usize;
            for axis in (0..dims.len()).rev() {
                index[axis] += 1;
                at += self.axes[axis].stride;
                if index[axis] < dims[axis] {
                    break;
                }
                at -= self.axes[axis].stride * dims[axis] as isize;
                index[axis] = 0;
            }
            found
        })
    }

    /// The axes in another order.
    pub(super) fn permuted(&self, order: &[usize]) -> Self {
        Self {
            offset: self.offset,
            axes: order.iter().map(|&axis| self.axes[axis]).collect(),
            batch: self.batch.and_then(|batch| order.iter().position(|&axis| axis == batch)),
        }
    }

    /// `count` steps of an axis from `start` on, each `step` further.
    pub(super) fn sliced(&self, axis: usize, start: usize, step: isize, count: usize) -> Self {
        let mut view = self.clone();
        let of = &mut view.axes[axis];
        view.offset = (view.offset as isize + of.stride * start as isize) as usize;
        *of = Axis { size: count, stride: of.stride * step };
        view
    }

    /// Without an axis of one step.
    pub(super) fn without(&self, axis: usize) -> Self {
        let mut view = self.clone();
        view.axes.remove(axis);
        view.batch = match self.batch {
            Some(batch) if batch == axis => None,
            Some(batch) if batch > axis => Some(batch - 1),
            same => same,
        };
        view
    }

    /// With another axis of one step.
    pub(super) fn with(&self, at: usize) -> Self {
        let mut view = self.clone();
        view.axes.insert(at, Axis { size: 1, stride: 0 });
        view.batch = self.batch.map(|batch| batch + usize::from(batch >= at));
        view
    }

    /// An axis as several, the first the slowest.
    pub(super) fn split(&self, axis: usize, sizes: &[usize]) -> Self {
        let mut view = self.clone();
        let mut stride = self.axes[axis].stride;
        let mut parts: Vec<Axis> = Vec::with_capacity(sizes.len());
        for &size in sizes.iter().rev() {
            parts.push(Axis { size, stride });
            stride *= size as isize;
        }
        parts.reverse();
        view.axes.splice(axis..=axis, parts);
        view.batch = match self.batch {
            Some(batch) if batch > axis => Some(batch + sizes.len() - 1),
            Some(batch) if batch == axis && sizes.is_empty() => None,
            same => same,
        };
        view
    }

    /// Repeated to these sizes, as ONNX spreads one value over another: aligned at the last axis.
    pub(super) fn expanded(&self, dims: &[usize]) -> Reason<Self> {
        let mut view = self.clone();
        while view.rank() < dims.len() {
            view = view.with(0);
        }
        for (axis, &size) in view.axes.iter_mut().zip(dims) {
            match (axis.size, size) {
                (a, b) if a == b => {}
                (1, size) => *axis = Axis { size, stride: 0 },
                _ => return Err(format!("spreads shape {:?} over {dims:?}", self.dims())),
            }
        }
        Ok(view)
    }

    /// Other sizes over the same elements in the same order, if strides can have that.
    pub(super) fn reshaped(&self, dims: &[usize]) -> Option<Self> {
        if product(dims.iter().copied()) != self.elements() {
            return None;
        }
        // Old axes as the fewest runs, taken apart by the new sizes.
        let mut runs: Vec<Axis> = Vec::new();
        for &axis in self.axes.iter().filter(|axis| axis.size != 1) {
            match runs.last_mut() {
                Some(last) if last.stride == axis.stride * axis.size as isize => {
                    *last = Axis { size: last.size * axis.size, stride: axis.stride };
                }
                _ => runs.push(axis),
            }
        }
        let mut runs = runs.into_iter();
        let (mut rest, mut stride) = (1, 0);
        let mut axes = Vec::with_capacity(dims.len());
        for &size in dims {
            if size == 1 {
                axes.push(Axis { size, stride: 0 });
                continue;
            }
            if rest == 1 {
                let run = runs.next()?;
                (rest, stride) = (run.size, run.stride);
            }
            if rest % size != 0 {
                return None;
            }
            rest /= size;
            axes.push(Axis { size, stride: stride * rest as isize });
        }
        let batch = self.batch.and_then(|batch| {
            // Where as many elements stand before it, an axis of one step is the batch again. In front of
            // all, it can only have become a part of the first.
            let before = |axes: &[Axis]| product(axes.iter().map(|axis| axis.size));
            let wanted = before(&self.axes[..batch]);
            let alone = |&at: &usize| axes[at].size == 1 && before(&axes[..at]) == wanted;
            let merged = (wanted == 1 && !axes.is_empty()).then_some(0);
            (0..axes.len()).find(alone).or(merged)
        });
        Some(Self { offset: self.offset, axes, batch })
    }
}

/// Of sizes, as large as a number can be where that is too small.
pub(super) fn product(sizes: impl Iterator<Item = usize>) -> usize {
    sizes.fold(1, usize::saturating_mul)
}

/// Elements of an array of these sizes, if that many can be counted whatever is left out.
pub(super) fn elements(sizes: &[usize]) -> Option<usize> {
    const MOST: usize = 1 << 48;
    let all = product(sizes.iter().map(|&size| size.max(1)));
    (all <= MOST).then(|| product(sizes.iter().copied()))
}

/// The sizes to which values of both shapes are spread.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Reason<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |dims: &[usize], at: usize| match (at + dims.len()).checked_sub(rank) {
        Some(at) => dims[at],
        None => 1,
    };
    let both = (0..rank).map(|at| match (size(a, at), size(b, at)) {
        (x, y) if x == y || y == 1 => Some(x),
        (1, y) => Some(y),
        _ => None,
    });
    both.collect::<Option<Vec<usize>>>().ok_or_else(|| format!("of shapes {a:?} and {b:?}"))
}

/// An axis, counted from the end where it is negative.
pub(super) fn axis(stated: i64, rank: usize) -> Reason<usize> {
    let at = if stated < 0 { stated.saturating_add(rank as i64) } else { stated };
    usize::try_from(at).ok().filter(|&at| at < rank).ok_or_else(|| format!("axis {stated}"))
}

/// Several of them, none twice.
pub(super) fn axes(stated: &[i64], rank: usize) -> Reason<Vec<usize>> {
    let found = stated.iter().map(|&at| axis(at, rank)).collect::<Reason<Vec<_>>>()?;
    let mut sorted = found.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == found.len() { Ok(found) } else { Err(format!("axes {stated:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(view: &Strided) -> Vec<usize> {
        view.offsets().collect()
    }

    #[test]
    fn views_of_views() {
        let x = Strided::contiguous(&[2, 3, 4]);
        let y = x.permuted(&[2, 0, 1]);
        assert_eq!(y.dims(), [4, 2, 3]);
        assert_eq!(all(&y)[..6], [0, 4, 8, 12, 16, 20]);
        assert!(y.is_whole(24) && !y.is_whole(25));
        assert_eq!(y.reshaped(&[4, 6]).unwrap().axes[1], Axis { size: 6, stride: 4 });
        assert!(y.reshaped(&[8, 3]).is_none());
        let z = x.sliced(1, 2, -1, 3).sliced(2, 1, 2, 2);
        assert_eq!(all(&z)[..6], [9, 11, 5, 7, 1, 3]);
        assert!(!z.is_whole(12));
        let spread = Strided::contiguous(&[3, 1]).expanded(&[2, 3, 2]).unwrap();
        assert_eq!(all(&spread), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn the_batch_is_found_again() {
        let x = Strided { batch: Some(0), ..Strided::contiguous(&[1, 6, 4]) };
        assert_eq!(x.reshaped(&[1, 24]).unwrap().batch, Some(0));
        assert_eq!(x.reshaped(&[24]).unwrap().batch, Some(0));
        assert_eq!(x.reshaped(&[3, 8]).unwrap().reshaped(&[1, 24]).unwrap().batch, Some(0));
        let second = x.permuted(&[1, 0, 2]);
        assert_eq!(second.batch, Some(1));
        assert_eq!(second.reshaped(&[6, 1, 2, 2]).unwrap().batch, Some(1));
        // Within the first axis or the second, nobody knows.
        assert_eq!(second.reshaped(&[6, 4]).unwrap().batch, None);
        assert_eq!(second.with(0).batch, Some(2));
        assert_eq!(second.without(1).batch, None);
    }
}
