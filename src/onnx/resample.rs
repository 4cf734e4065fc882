//! Pools, borders and maps of other sizes.

use super::Reason;
use super::dilated_pool::DilatedPool;
use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::view::axes;
use super::weights::map_of;
use crate::network::{Coordinates, Fill, Interpolation, Op, Pad, Resize, Rounding};

impl Reader {
    pub(super) fn pool(&mut self, node: &NodeProto) -> Reason<Value> {
        if self.gives_more(node) {
            return Err("gives indices".into());
        }
        let x = self.first(node)?;
        let (order, flat) = map_of(&x, "pool")?;
        let source = self.arranged(&x, [&[1], order[0], order[1]])?;
        let (window, longer) = node.window(None, self.shape_at(source), flat)?;
        let dilations = node.dilations(flat)?;
        let op = match node.op_type.as_str() {
            "MaxPool" => Op::MaxPool2d(window),
            _ => {
                let stated = node.int("count_include_pad", 0) != 0;
                let padded = node.attribute("pads").is_some_and(|p| p.ints.iter().any(|&v| v > 0));
                // What ceil_mode adds is never counted, so with it the padding must not be either.
                if stated && longer && padded {
                    return Err("ceil_mode with count_include_pad and pads".into());
                }
                Op::AvgPool2d { window, count_include_pad: stated && !longer }
            }
        };
        if dilations != [1, 1] {
            let counts_padding = matches!(op, Op::AvgPool2d { count_include_pad: true, .. });
            let pool = DilatedPool { window, dilations, counts_padding };
            return self.dilated_pool(node, &x, source, &pool);
        }
        let source = self.push(op, vec![source])?;
        Ok(self.map(source, &x, order))
    }

    pub(super) fn pad(&mut self, node: &NodeProto) -> Reason<Value> {
        let mut x = self.first(node)?;
        let rank = x.view.rank();
        let stated = match node.attribute("paddings") {
            Some(old) => old.ints.clone(),
            None => node.integers("pads", 1, &self.constants)?.ok_or("has no pads")?,
        };
        let of: Vec<usize> = match node.input(3) {
            Some(name) => axes(&self.constants.integers(name)?, rank)?,
            None => (0..rank).collect(),
        };
        if stated.len() != 2 * of.len() {
            return Err(format!("pads {stated:?} of shape {:?}", x.dims()));
        }
        let (mut before, mut after) = (vec![0usize; rank], vec![0usize; rank]);
        for (at, &axis) in of.iter().enumerate() {
            let sides =
                [(&mut before, stated[at], true), (&mut after, stated[at + of.len()], false)];
            for (pads, value, in_front) in sides {
                let size = x.view.axes[axis].size;
                if value >= 0 {
                    pads[axis] = usize::try_from(value).unwrap_or(usize::MAX).min(1 << 30);
                    continue;
                }
                let cut = usize::try_from(value.unsigned_abs()).unwrap_or(usize::MAX);
                let left =
                    size.checked_sub(cut).filter(|&left| left > 0).ok_or("cuts everything")?;
                let start = if in_front { cut } else { 0 };
                x = x.seen(x.view.sliced(axis, start, 1, left));
            }
        }
        if x.view.batch.is_some_and(|batch| before[batch] + after[batch] > 0) {
            return Err("of the batch".into());
        }
        let fill = match node.text("mode").as_str() {
            "" | "constant" => {
                let value = match node.input(2) {
                    Some(name) => {
                        *self.constants.tensor(name)?.to_reals().first().ok_or("an empty value")?
                    }
                    None => node.float("value", 0.0),
                };
                Fill::Constant(value)
            }
            "reflect" => Fill::Reflect,
            "edge" => Fill::Edge,
            "wrap" => Fill::Wrap,
            other => return Err(format!("mode {other}")),
        };
        // The last two axes as they are, all that is padded before them as the channels.
        let padded: Vec<usize> = (0..rank).filter(|&at| before[at] + after[at] > 0).collect();
        if padded.is_empty() {
            return Ok(x);
        }
        let others: Vec<usize> = x.view.real_by_stride();
        let others: Vec<usize> = others.into_iter().filter(|at| !padded.contains(at)).collect();
        let (order, of): ([&[usize]; 3], [Option<usize>; 3]) = match padded[..] {
            [a] => ([&others, &[], &padded], [None, None, Some(a)]),
            [a, b] => ([&others, &padded[..1], &padded[1..]], [None, Some(a), Some(b)]),
            [a, b, c] if others.is_empty() => {
                ([&padded[..1], &padded[1..2], &padded[2..]], [Some(a), Some(b), Some(c)])
            }
            _ => return Err(format!("of more than three axes of shape {:?}", x.dims())),
        };
        let source = self.arranged(&x, order)?;
        let sizes = |pads: &[usize]| of.map(|axis| axis.map_or(0, |at| pads[at]));
        let op = Op::Pad(Pad { before: sizes(&before), after: sizes(&after), fill });
        let source = self.push(op, vec![source])?;
        let dims: Vec<usize> =
            (0..rank).map(|at| x.view.axes[at].size + before[at] + after[at]).collect();
        Ok(Self::made(source, &dims, order, &x))
    }

    /// `Resize` and its predecessor `Upsample`.
    pub(super) fn resize(&mut self, node: &NodeProto) -> Reason<Value> {
        let x = self.first(node)?;
        let rank = x.view.rank();
        let old = node.op_type == "Upsample" || self.opset < 11;
        if node.int("antialias", 0) != 0 {
            return Err("antialias".into());
        }
        let of: Vec<usize> = match node.attribute("axes") {
            Some(stated) => axes(&stated.ints, rank)?,
            None => (0..rank).collect(),
        };
        let reals = |at: usize| match node.input(at) {
            Some(name) => Ok(self.constants.reals(name)?.1),
            None => Ok::<_, String>(Vec::new()),
        };
        let scales = match (node.attribute("scales"), old) {
            (Some(stated), _) => stated.floats.clone(),
            (None, true) => reals(1)?,
            (None, false) => reals(2)?,
        };
        let stated = match node.input(3).filter(|_| !old) {
            Some(name) => self.constants.integers(name)?,
            None => Vec::new(),
        };
        let mut sizes = x.dims();
        let mut scale = vec![1.0f32; rank];
        if !stated.is_empty() {
            if stated.len() != of.len() {
                return Err(format!("to {stated:?} of shape {:?}", x.dims()));
            }
            let ratio = |at: usize| stated[at] as f32 / x.view.axes[of[at]].size as f32;
            let ratios = (0..of.len()).map(ratio);
            let policy = node.text("keep_aspect_ratio_policy");
            let one = match policy.as_str() {
                "not_larger" => Some(ratios.fold(f32::INFINITY, f32::min)),
                "not_smaller" => Some(ratios.fold(0.0, f32::max)),
                _ => None,
            };
            for (at, &axis) in of.iter().enumerate() {
                let size = x.view.axes[axis].size;
                sizes[axis] = match one {
                    Some(one) => (one * size as f32).round() as usize,
                    None => usize::try_from(stated[at]).map_err(|_| "a negative size")?,
                };
                scale[axis] = one.unwrap_or(sizes[axis] as f32 / size as f32);
            }
        } else if scales.len() == of.len() {
            for (&axis, &by) in of.iter().zip(&scales) {
                scale[axis] = by;
                sizes[axis] = (x.view.axes[axis].size as f32 * by).floor() as usize;
            }
        } else {
            return Err("has no constant scales or sizes".into());
        }
        let same = |at: usize| sizes[at] == x.view.axes[at].size;
        if (0..rank).all(same) && scale.iter().any(|&by| by != 1.0) {
            // Runtimes leave the value alone, the reference does not.
            return match old {
                true => Ok(x),
                false => Err("by a scale that keeps the size".into()),
            };
        }
        let moved: Vec<usize> = (0..rank).filter(|&at| !same(at) || scale[at] != 1.0).collect();
        if x.view.batch.is_some_and(|batch| moved.contains(&batch)) {
            return Err("of the batch".into());
        }
        let others: Vec<usize> = x.view.real_by_stride();
        let others: Vec<usize> = others.into_iter().filter(|at| !moved.contains(at)).collect();
        let (order, of): ([&[usize]; 3], [Option<usize>; 2]) = match moved[..] {
            [] => return Ok(x),
            [a] => ([&others, &[], &moved], [None, Some(a)]),
            [a, b] => ([&others, &moved[..1], &moved[1..]], [Some(a), Some(b)]),
            _ => return Err(format!("of more than two axes of shape {:?}", x.dims())),
        };
        let (up, down) = (scale.iter().any(|&by| by > 1.0), scale.iter().any(|&by| by < 1.0));
        if old && up && down {
            return Err("up along one axis and down along another, before opset 11".into());
        }
        let interpolation = match node.text("mode").as_str() {
            "" | "nearest" => Interpolation::Nearest(match node.text("nearest_mode").as_str() {
                // What runtimes do; the old texts say nothing.
                _ if old && down => Rounding::Ceil,
                _ if old => Rounding::Floor,
                "" | "round_prefer_floor" => Rounding::HalfDown,
                "round_prefer_ceil" => Rounding::HalfUp,
                "floor" => Rounding::Floor,
                "ceil" => Rounding::Ceil,
                other => return Err(format!("nearest_mode {other}")),
            }),
            "linear" | "bilinear" => Interpolation::Linear,
            "cubic" => Interpolation::Cubic {
                a: node.float("cubic_coeff_a", -0.75),
                exclude_outside: node.int("exclude_outside", 0) != 0,
            },
            other => return Err(format!("mode {other}")),
        };
        let coordinates = match node.text("coordinate_transformation_mode").as_str() {
            _ if old => Coordinates::Asymmetric,
            "" | "half_pixel" => Coordinates::HalfPixel,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            other => return Err(format!("coordinate_transformation_mode {other}")),
        };
        let exact = |&at: &usize| scale[at] * x.view.axes[at].size as f32 == sizes[at] as f32;
        if coordinates == Coordinates::AlignCorners && stated.is_empty() && !moved.iter().all(exact)
        {
            return Err(
                "corners on corners by a scale that makes no whole number of elements".into()
            );
        }
        let source = self.arranged(&x, order)?;
        let size = of.map(|axis| axis.map_or(1, |at| sizes[at]));
        let scale = of.map(|axis| axis.map_or(1.0, |at| scale[at]));
        let op = Op::Resize(Resize { size, scale, interpolation, coordinates });
        let source = self.push(op, vec![source])?;
        Ok(Self::made(source, &sizes, order, &x))
    }
}
