//! Operations that only move, cut or repeat elements: views of values and of constants alike.

use super::Reason;
use super::constant::Constants;
use super::proto::NodeProto;
use super::view::{MOST_DIMENSIONS, Strided, axes, axis, broadcast};
use crate::network::Axis;

/// A view, and other sizes for its elements row by row, where strides cannot have these.
pub(super) struct Moved {
    pub(super) view: Strided,
    pub(super) copied: Option<Vec<usize>>,
}

impl From<Strided> for Moved {
    fn from(view: Strided) -> Self {
        Self { view, copied: None }
    }
}

impl Moved {
    /// Other sizes over the same elements.
    pub(super) fn reshaped(view: Strided, dims: Vec<usize>) -> Self {
        match view.reshaped(&dims) {
            Some(view) => view.into(),
            None => Self { view, copied: Some(dims) },
        }
    }

    /// The view once its elements lie row by row, if they have to.
    pub(super) fn after_copy(&self) -> Option<Strided> {
        let dims = self.copied.as_ref()?;
        let copy = Strided { batch: self.view.batch, ..Strided::contiguous(&self.view.dims()) };
        copy.reshaped(dims)
    }
}

/// What a movement reads beside the value.
pub(super) struct Arguments<'a> {
    pub(super) constants: &'a Constants,
    /// Samples that the graph takes at once, where it fixes them; 1 where it does not.
    pub(super) batch: usize,
    /// Whether nothing may be left, as of a list of sizes.
    pub(super) may_be_empty: bool,
}

/// The movements.
pub(super) const MOVEMENTS: [&str; 14] = [
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherND",
    "Identity",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

impl Arguments<'_> {
    /// The outputs of a movement of `x`.
    pub(super) fn moved(&self, node: &NodeProto, x: &Strided) -> Reason<Vec<Moved>> {
        let one = match node.op_type.as_str() {
            "DepthToSpace" => self.depth_to_space(node, x)?,
            "SpaceToDepth" => space_to_depth(node, x)?,
            "Expand" => self.expand(node, x)?.into(),
            "Flatten" => flatten(node, x)?,
            "Gather" => self.gather(node, x)?,
            "GatherND" => self.gather_nd(node, x)?,
            "Reshape" => self.reshape(node, x)?,
            "Slice" => self.slice(node, x)?.into(),
            "Split" => return self.split(node, x),
            "Squeeze" => self.squeeze(node, x)?.into(),
            "Tile" => self.tile(node, x)?,
            "Transpose" => transpose(node, x)?.into(),
            "Unsqueeze" => self.unsqueeze(node, x)?.into(),
            _ => x.clone().into(),
        };
        Ok(vec![one])
    }

    fn integers(&self, node: &NodeProto, name: &str, at: usize) -> Reason<Option<Vec<i64>>> {
        node.integers(name, at, self.constants)
    }

    fn reshape(&self, node: &NodeProto, x: &Strided) -> Reason<Moved> {
        let wanted = self.integers(node, "shape", 1)?.ok_or("has no shape")?;
        let told = || format!("of shape {:?} to {wanted:?}", x.dims());
        if wanted.len() > MOST_DIMENSIONS {
            return Err(format!("to {} dimensions", wanted.len()));
        }
        let samples = if x.batch.is_some() { self.batch } else { 1 };
        let old = |at: usize| {
            let axis = x.axes.get(at)?;
            Some(if x.batch == Some(at) { samples * axis.size } else { axis.size })
        };
        let zero_copies = node.int("allowzero", 0) == 0;
        let (mut dims, mut open) = (Vec::with_capacity(wanted.len()), None);
        for (at, &size) in wanted.iter().enumerate() {
            dims.push(match size {
                -1 if open.is_none() => {
                    open = Some(at);
                    1
                }
                0 if zero_copies => old(at).ok_or_else(told)?,
                size => usize::try_from(size).map_err(|_| told())?,
            });
        }
        let known = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(told)?;
        let all = x.elements() * samples;
        if known == 0 || !all.is_multiple_of(known) {
            return Err(told());
        }
        match open {
            Some(at) => dims[at] = all / known,
            None if known != all => return Err(told()),
            None => {}
        }
        if samples > 1 {
            // A batch that the graph fixes has to stay where it is, to be a batch of one.
            match x.batch {
                Some(at) if x.axes[at].size == 1 && dims.get(at) == Some(&samples) => dims[at] = 1,
                _ => return Err(format!("{}; the batch must stay where it is", told())),
            }
        }
        Ok(Moved::reshaped(x.clone(), dims))
    }

    fn squeeze(&self, node: &NodeProto, x: &Strided) -> Reason<Strided> {
        let mut gone = match self.integers(node, "axes", 1)? {
            Some(stated) => axes(&stated, x.rank())?,
            None => (0..x.rank()).filter(|&at| x.axes[at].size == 1).collect(),
        };
        if gone.iter().any(|&at| x.axes[at].size != 1 || x.batch == Some(at)) {
            return Err(format!("axes {gone:?} of shape {:?}", x.dims()));
        }
        gone.sort_unstable();
        Ok(gone.into_iter().rev().fold(x.clone(), |x, at| x.without(at)))
    }

    fn unsqueeze(&self, node: &NodeProto, x: &Strided) -> Reason<Strided> {
        let stated = self.integers(node, "axes", 1)?.ok_or("has no axes")?;
        let rank = x.rank().saturating_add(stated.len());
        if rank > MOST_DIMENSIONS {
            return Err(format!("{} axes of shape {:?}", stated.len(), x.dims()));
        }
        let mut new = axes(&stated, rank)?;
        new.sort_unstable();
        Ok(new.into_iter().fold(x.clone(), |x, at| x.with(at)))
    }

    fn slice(&self, node: &NodeProto, x: &Strided) -> Reason<Strided> {
        let starts = self.integers(node, "starts", 1)?.ok_or("has no starts")?;
        let ends = self.integers(node, "ends", 2)?.ok_or("has no ends")?;
        let of = match self.integers(node, "axes", 3)? {
            Some(stated) => axes(&stated, x.rank())?,
            None => (0..starts.len().min(x.rank())).collect(),
        };
        let steps = self.integers(node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [starts.len(), ends.len(), steps.len()] != [of.len(); 3] {
            return Err("starts, ends, axes and steps of different lengths".into());
        }
        let mut view = x.clone();
        for ((at, (start, end)), step) in
            of.into_iter().zip(starts.into_iter().zip(ends)).zip(steps)
        {
            if x.batch == Some(at) {
                // TensorFlow writes a thousand million for the end.
                let all = end >= 1 << 28 || self.batch > 1 && end == self.batch as i64;
                if start != 0 || step != 1 || !all {
                    return Err("cuts the batch".into());
                }
                continue;
            }
            let size = x.axes[at].size as i64;
            let count = |from: i64, to: i64, step: i64| {
                ((to - from).max(0) as u64).div_ceil(step.unsigned_abs()) as usize
            };
            let absolute = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
            let (start, end) = (absolute(start), absolute(end));
            let (first, steps) = match step {
                1.. => {
                    let (start, end) = (start.clamp(0, size), end.clamp(0, size));
                    (start, count(start, end, step))
                }
                ..=-1 => {
                    let (start, end) = (start.clamp(-1, size - 1), end.clamp(-1, size - 1));
                    (start, count(end, start, step))
                }
                0 => return Err("a step of 0".into()),
            };
            if steps == 0 && !self.may_be_empty {
                return Err(format!("nothing of axis {at} of shape {:?}", x.dims()));
            }
            let step = if steps == 1 { 1 } else { step };
            let first = if steps == 0 { 0 } else { first as usize };
            view = view.sliced(at, first, step as isize, steps);
        }
        Ok(view)
    }

    fn split(&self, node: &NodeProto, x: &Strided) -> Reason<Vec<Moved>> {
        let at = axis(node.int("axis", 0), x.rank())?;
        let size = x.axes[at].size;
        let sizes: Vec<usize> = match self.integers(node, "split", 1)? {
            Some(stated) => stated.iter().map(|&v| usize::try_from(v).unwrap_or(0)).collect(),
            None => {
                let parts = usize::try_from(node.int("num_outputs", node.output.len() as i64))
                    .map_err(|_| "num_outputs")?
                    .max(1);
                let each = size.div_ceil(parts);
                (0..parts).map(|part| each.min(size.saturating_sub(part * each))).collect()
            }
        };
        let all = sizes.iter().try_fold(0usize, |n, &v| n.checked_add(v));
        if x.batch == Some(at) || all != Some(size) || sizes.contains(&0) && !self.may_be_empty {
            return Err(format!("into {sizes:?} of axis {at} of shape {:?}", x.dims()));
        }
        let mut first = 0;
        let parts = sizes.into_iter().map(|count| {
            first += count;
            x.sliced(at, first - count, 1, count).into()
        });
        Ok(parts.collect())
    }

    fn expand(&self, node: &NodeProto, x: &Strided) -> Reason<Strided> {
        let wanted = self.integers(node, "shape", 1)?.ok_or("has no shape")?;
        let sizes = wanted.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v > 0));
        let mut sizes =
            sizes.collect::<Option<Vec<usize>>>().ok_or_else(|| format!("to {wanted:?}"))?;
        if sizes.len() > MOST_DIMENSIONS {
            return Err(format!("to {} dimensions", sizes.len()));
        }
        if let Some(batch) = x.batch
            && let Some(at) = (batch + sizes.len()).checked_sub(x.rank())
            && sizes.get(at) == Some(&self.batch)
        {
            sizes[at] = 1;
        }
        let dims = broadcast(&x.dims(), &sizes)?;
        self.fits(&dims)?;
        x.expanded(&dims)
    }

    /// Repeated values must stay in proportion to the file, as everything else.
    fn fits(&self, dims: &[usize]) -> Reason<()> {
        const MOST: usize = 1 << 28;
        match dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
            Some(count) if count <= MOST => Ok(()),
            _ => Err(format!("to shape {dims:?}, which is too large")),
        }
    }

    fn tile(&self, node: &NodeProto, x: &Strided) -> Reason<Moved> {
        let repeats = self.integers(node, "repeats", 1)?.ok_or("has no repeats")?;
        let repeats = repeats.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v > 0));
        let repeats = repeats.collect::<Option<Vec<usize>>>().ok_or("repeats of 0")?;
        if repeats.len() != x.rank() || x.batch.is_some_and(|at| repeats[at] != 1) {
            return Err(format!("{repeats:?} times shape {:?}", x.dims()));
        }
        let dims: Vec<usize> =
            x.dims().iter().zip(&repeats).map(|(&d, &r)| d.saturating_mul(r)).collect();
        self.fits(&dims)?;
        let mut view = x.clone();
        for (at, &repeat) in repeats.iter().enumerate().rev() {
            view = view.with(at);
            view.axes[at].size = repeat;
        }
        Ok(Moved::reshaped(view, dims))
    }

    /// Indices that are runs of equal steps, or such runs in equal steps, and so on.
    fn gather(&self, node: &NodeProto, x: &Strided) -> Reason<Moved> {
        let at = axis(node.int("axis", 0), x.rank())?;
        let indices = self.constants.tensor(node.input(1).ok_or("has no indices")?)?;
        if x.batch == Some(at) {
            return Err("picks samples of the batch".into());
        }
        self.picked(x, at, indices.integers()?, &indices.dims)
    }

    /// Rows of indices into the first axes, of which one has more than one step.
    fn gather_nd(&self, node: &NodeProto, x: &Strided) -> Reason<Moved> {
        let indices = self.constants.tensor(node.input(1).ok_or("has no indices")?)?;
        let (Some((&count, dims)), 0) = (indices.dims.split_last(), node.int("batch_dims", 0))
        else {
            return Err("has no indices, or batch_dims".into());
        };
        let axes = x.axes.get(..count).ok_or_else(|| format!("of shape {:?}", x.dims()))?;
        let mut long = (0..count).filter(|&at| axes[at].size != 1);
        let at = match (long.next(), long.next(), x.batch) {
            (at, None, None) if count > 0 => at.unwrap_or(count - 1),
            (.., Some(_)) => return Err("picks samples of the batch".into()),
            _ => return Err(format!("by {count} indices of shape {:?}", x.dims())),
        };
        let all = indices.integers()?;
        let rows = all.chunks_exact(count);
        let fine = |row: &[i64]| (0..count).all(|i| i == at || matches!(row[i], 0 | -1));
        if !rows.clone().all(fine) {
            return Err("by an index that there is not".into());
        }
        let found: Vec<i64> = rows.map(|row| row[at]).collect();
        let others = (0..count).rev().filter(|&i| i != at);
        let x = others.fold(x.clone(), |x, at| x.without(at));
        self.picked(&x, 0, &found, dims)
    }

    /// Steps of an axis, in its place those of these sizes.
    fn picked(&self, x: &Strided, at: usize, indices: &[i64], sizes: &[usize]) -> Reason<Moved> {
        let size = x.axes[at].size;
        let found = indices.iter().map(|&v| axis(v, size));
        let found = found.collect::<Reason<Vec<usize>>>()?;
        let &first = found.first().ok_or("picks nothing")?;
        let runs = runs(&found).ok_or(IRREGULAR)?;
        let mut view = x.clone();
        let stride = view.axes[at].stride;
        view.offset = (view.offset as isize + stride * first as isize) as usize;
        let steps = runs.iter().map(|run| Axis { size: run.size, stride: run.stride * stride });
        let count = runs.len();
        view.axes.splice(at..=at, steps);
        view.batch = x.batch.map(|batch| if batch > at { batch + count - 1 } else { batch });
        let dims = x.dims();
        let dims = [&dims[..at], sizes, &dims[at + 1..]].concat();
        Ok(Moved::reshaped(view, dims))
    }

    fn depth_to_space(&self, node: &NodeProto, x: &Strided) -> Reason<Moved> {
        let side = usize::try_from(node.int("blocksize", 0)).unwrap_or(0);
        let dims = x.dims();
        let [n, c, h, w] = dims[..] else { return Err(format!("of shape {dims:?}")) };
        if side == 0 || !c.is_multiple_of(side.saturating_mul(side)) {
            return Err(format!("blocks of {side} of shape {dims:?}"));
        }
        let channels = c / side / side;
        let view = match node.text("mode").as_str() {
            "CRD" => x.split(1, &[channels, side, side]).permuted(&[0, 1, 4, 2, 5, 3]),
            _ => x.split(1, &[side, side, channels]).permuted(&[0, 3, 4, 1, 5, 2]),
        };
        Ok(Moved::reshaped(view, vec![n, channels, h * side, w * side]))
    }
}

/// Indices as axes whose steps reach them one after the other; `None` where they have no such order.
fn runs(indices: &[usize]) -> Option<Vec<Axis>> {
    const MOST: usize = 8;
    let mut left: Vec<isize> = indices.iter().map(|&index| index as isize).collect();
    let mut found = Vec::new();
    while let [first, second, ..] = left[..] {
        let step = second - first;
        let alike = left.windows(2).take_while(|pair| pair[1] - pair[0] == step).count() + 1;
        let regular = |&size: &usize| {
            left.len().is_multiple_of(size)
                && left.chunks(size).all(|run| run.windows(2).all(|pair| pair[1] - pair[0] == step))
        };
        let size = (2..=alike).rev().find(regular).filter(|_| found.len() < MOST)?;
        found.push(Axis { size, stride: step });
        left = left.into_iter().step_by(size).collect();
    }
    found.reverse();
    Some(found)
}

/// Why a `Gather` is no view.
pub(super) const IRREGULAR: &str = "picks in no regular steps";

fn space_to_depth(node: &NodeProto, x: &Strided) -> Reason<Moved> {
    let side = usize::try_from(node.int("blocksize", 0)).unwrap_or(0);
    let dims = x.dims();
    let [n, c, h, w] = dims[..] else { return Err(format!("of shape {dims:?}")) };
    if side == 0 || !h.is_multiple_of(side) || !w.is_multiple_of(side) {
        return Err(format!("blocks of {side} of shape {dims:?}"));
    }
    let (down, right) = (h / side, w / side);
    let order = match node.text("mode").as_str() {
        "CRD" => [0, 1, 3, 5, 2, 4],
        _ => [0, 3, 5, 1, 2, 4],
    };
    let view = x.split(3, &[right, side]).split(2, &[down, side]).permuted(&order);
    Ok(Moved::reshaped(view, vec![n, c * side * side, down, right]))
}

fn flatten(node: &NodeProto, x: &Strided) -> Reason<Moved> {
    let rank = x.rank();
    let stated = node.int("axis", 1);
    let at = if stated < 0 { stated.saturating_add(rank as i64) } else { stated };
    let at = usize::try_from(at).ok().filter(|&at| at <= rank);
    let at = at.filter(|&at| x.batch.is_none_or(|batch| batch < at));
    let at = at.ok_or_else(|| format!("axis {stated} of shape {:?}", x.dims()))?;
    let product = |axes: &[Axis]| axes.iter().map(|a| a.size).product::<usize>();
    Ok(Moved::reshaped(x.clone(), vec![product(&x.axes[..at]), product(&x.axes[at..])]))
}

fn transpose(node: &NodeProto, x: &Strided) -> Reason<Strided> {
    let order = match node.attribute("perm") {
        Some(perm) => axes(&perm.ints, x.rank())?,
        None => (0..x.rank()).rev().collect(),
    };
    match order.len() == x.rank() {
        true => Ok(x.permuted(&order)),
        false => Err(format!("{order:?} of shape {:?}", x.dims())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_reach_all_indices_in_turn() {
        let found = |indices: &[usize]| -> Option<Vec<[isize; 2]>> {
            let runs = runs(indices)?;
            Some(runs.iter().map(|axis| [axis.size as isize, axis.stride]).collect())
        };
        assert_eq!(found(&[3]), Some(vec![]));
        assert_eq!(found(&[5, 3, 1]), Some(vec![[3, -2]]));
        assert_eq!(found(&[0, 1, 4, 5, 8, 9]), Some(vec![[3, 4], [2, 1]]));
        assert_eq!(found(&[2, 2, 0, 0]), Some(vec![[2, -2], [2, 0]]));
        assert_eq!(found(&[0, 1, 2, 1, 2, 3]), Some(vec![[2, 1], [3, 1]]));
        assert_eq!(found(&[0, 1, 3]), None);
    }
}
