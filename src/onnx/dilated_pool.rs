//! Pools whose windows have gaps: the steps of a window are slices of the map, joined along one axis after
//! the other.

use super::Reason;
use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::tensor::Tensor;
use crate::network::{Activation, Binary, Fill, Op, Pad, Source, Window};

/// Steps of a window along an axis.
const MOST_STEPS: usize = 32;

/// A pool of a map: the window with its gaps, and how far its steps are apart.
pub(super) struct DilatedPool {
    pub(super) window: Window,
    pub(super) dilations: [usize; 2],
    /// Whether an average counts the zeros around the map.
    pub(super) counts_padding: bool,
}

impl DilatedPool {
    /// How many steps the window has along an axis.
    fn steps(&self, axis: usize) -> usize {
        (self.window.kernel[axis] - 1) / self.dilations[axis] + 1
    }

    /// How many windows there are along an axis of a map with its padding.
    fn outputs(&self, axis: usize, size: usize) -> Reason<usize> {
        let rest = size.checked_sub(self.window.kernel[axis]);
        let rest = rest.ok_or_else(|| format!("dilated, is larger than a map of {size}"))?;
        Ok(rest / self.window.stride[axis] + 1)
    }

    /// How many steps of each window lie in the map, or in its padding where that counts.
    fn counts(&self, axis: usize, size: usize, outputs: usize) -> Vec<usize> {
        let before = self.window.padding[axis];
        let inside = |window: usize| {
            let first = window * self.window.stride[axis];
            let place = |step: usize| first + step * self.dilations[axis];
            let counts =
                |place: &usize| self.counts_padding || (before..before + size).contains(place);
            (0..self.steps(axis)).map(place).filter(counts).count()
        };
        (0..outputs).map(inside).collect()
    }
}

impl Reader {
    /// The pool of `source`, a map as the network has it; the second result is `x` as the graph has it.
    pub(super) fn dilated_pool(
        &mut self,
        node: &NodeProto,
        x: &Value,
        source: Source,
        pool: &DilatedPool,
    ) -> Reason<Value> {
        let is_max = node.op_type == "MaxPool";
        let shape = self.shape_at(source);
        let [top, left, bottom, right] = pool.window.padding;
        let fill = Fill::Constant(if is_max { f32::MIN } else { 0.0 });
        let pad = Pad { before: [0, top, left], after: [0, bottom, right], fill };
        let source = match pool.window.padding {
            [0, 0, 0, 0] => source,
            _ => self.push(Op::Pad(pad), vec![source])?,
        };
        let padded = self.shape_at(source);
        let dims = [1, padded.channels, padded.height, padded.width];
        let mut made = Self::made(source, &dims, [&[1], &[2], &[3]], x);
        let mut counts = [Vec::new(), Vec::new()];
        for (axis, size) in [shape.height, shape.width].into_iter().enumerate() {
            let (at, steps, stride) = (axis + 2, pool.steps(axis), pool.window.stride[axis]);
            if steps > MOST_STEPS {
                return Err(format!("dilations of a window of {steps} steps"));
            }
            let outputs = pool.outputs(axis, dims[at])?;
            counts[axis] = pool.counts(axis, size, outputs);
            let slice = |step: usize| {
                let start = step * pool.dilations[axis];
                made.seen(made.view.sliced(at, start, stride as isize, outputs))
            };
            let slices: Vec<Value> = (0..steps).map(slice).collect();
            made = match (&slices[..], is_max) {
                ([one], _) => one.clone(),
                (all, false) => self.apply(Op::Add, all)?,
                ([first, others @ ..], true) => {
                    let mut largest = first.clone();
                    for next in others {
                        largest = self.apply(Op::Binary(Binary::Max), &[largest, next.clone()])?;
                    }
                    largest
                }
                ([], true) => return Err("has no window".into()),
            };
        }
        if !is_max {
            made = self.shared_out(node, made, &counts)?;
        }
        let flat = x.view.rank() == 3;
        Ok(if flat { made.seen(made.view.without(2)) } else { made })
    }

    /// Sums over windows divided by the numbers of their values.
    fn shared_out(
        &mut self,
        node: &NodeProto,
        sums: Value,
        counts: &[Vec<usize>; 2],
    ) -> Reason<Value> {
        let [rows, columns] = counts;
        if counts.iter().all(|counts| counts.iter().all(|count| *count == counts[0])) {
            let scale = 1.0 / (rows[0] * columns[0]).max(1) as f32;
            return self.activate(sums, Activation::Affine { scale, shift: 0.0 });
        }
        let name = format!("{}.shares", node.output.first().map_or("", String::as_str));
        if self.constants.has(&name) || self.is_made(&name) {
            return Err(format!("needs the name {name:?}"));
        }
        self.constants.charge::<f32>(rows.len() * columns.len())?;
        let share = |row: usize, column: usize| 1.0 / (row * column).max(1) as f32;
        let of_row = |&row: &usize| columns.iter().map(move |&column| share(row, column));
        let shares: Vec<f32> = rows.iter().flat_map(of_row).collect();
        self.constants.put(&name, Tensor::reals(vec![1, 1, rows.len(), columns.len()], shares));
        let shares = self.operand(&name)?;
        self.apply(Op::Mul, &[sums, shares])
    }
}
