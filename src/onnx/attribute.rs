//! What a node says beside its inputs.

use super::Reason;
use super::constant::Constants;
use super::proto::{AttributeProto, NodeProto};
use crate::network::{Shape, Window};

impl NodeProto {
    pub(super) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name == name)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.f)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i)
    }

    pub(super) fn text(&self, name: &str) -> String {
        let found = self.attribute(name);
        found.map_or_else(String::new, |a| String::from_utf8_lossy(&a.s).into_owned())
    }

    /// The name of an input, if it is there.
    pub(super) fn input(&self, at: usize) -> Option<&str> {
        self.input.get(at).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Integers that are an attribute in older opsets and an input in newer ones.
    pub(super) fn integers(
        &self,
        name: &str,
        at: usize,
        constants: &Constants,
    ) -> Reason<Option<Vec<i64>>> {
        match (self.attribute(name), self.input(at)) {
            (Some(attribute), _) => Ok(Some(attribute.ints.clone())),
            (None, Some(input)) => constants.integers(input).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The part of a list that `start` and `end` name, as `Shape` has them.
    pub(super) fn range_of(&self, all: Vec<i64>) -> Vec<i64> {
        let clamped = |at: i64| {
            let from_end = if at < 0 { all.len() as i64 } else { 0 };
            at.saturating_add(from_end).clamp(0, all.len() as i64) as usize
        };
        let (start, end) = (clamped(self.int("start", 0)), clamped(self.int("end", i64::MAX)));
        all[start.min(end)..end].to_vec()
    }

    /// The bounds of a `Clip`, infinite where there is none.
    pub(super) fn bounds(&self, constants: &Constants) -> Reason<(f32, f32)> {
        let bound =
            |at: usize, name: &str, default: f32| match (self.attribute(name), self.input(at)) {
                (Some(attribute), _) => Ok(attribute.f),
                (None, Some(input)) => match constants.tensor(input) {
                    Ok(bound) if bound.len() == 1 => Ok(bound.to_reals()[0]),
                    _ => Err(format!("{input:?} is no constant number")),
                },
                (None, None) => Ok(default),
            };
        // Exporters write the least and the largest finite number for no bound.
        let min = bound(1, "min", f32::NEG_INFINITY)?;
        let max = bound(2, "max", f32::INFINITY)?;
        match (if min == f32::MIN { f32::NEG_INFINITY } else { min }, max) {
            (min, f32::MAX) => Ok((min, f32::INFINITY)),
            (min, max) if min.is_nan() || max.is_nan() => Err(format!("{min} to {max}")),
            bounds => Ok(bounds),
        }
    }

    /// Two numbers for each of rows and columns, or one of each; `flat` nodes state those of columns alone.
    fn sizes<const N: usize>(
        &self,
        name: &str,
        default: Option<[usize; N]>,
        flat: Option<usize>,
    ) -> Reason<[usize; N]> {
        let Some(found) = self.attribute(name) else {
            return default.ok_or_else(|| format!("has no {name}"));
        };
        let values: Option<Vec<usize>> =
            found.ints.iter().map(|&v| usize::try_from(v).ok()).collect();
        let spread = |values: Vec<usize>| match flat {
            Some(of_rows) if values.len() * 2 == N => {
                values.into_iter().flat_map(|value| [of_rows, value]).collect()
            }
            _ => values,
        };
        values
            .and_then(|values| spread(values).try_into().ok())
            .ok_or_else(|| format!("{name} {:?}, {N} numbers from 0 are understood", found.ints))
    }

    /// How far the steps of a window are apart; a `flat` one has no rows.
    pub(super) fn dilations(&self, flat: bool) -> Reason<[usize; 2]> {
        self.sizes("dilations", Some([1, 1]), flat.then_some(1))
    }

    /// The window of a convolution, whose weights have `kernel`, or of a pool, dilations included. The
    /// second result says whether `ceil_mode` has lengthened the padding. A `flat` one has no rows.
    pub(super) fn window(
        &self,
        kernel: Option<[usize; 2]>,
        shape: Shape,
        flat: bool,
    ) -> Reason<(Window, bool)> {
        let (one, none) = (flat.then_some(1), flat.then_some(0));
        let dilations = self.dilations(flat)?;
        let stated = self.sizes("kernel_shape", kernel, one)?;
        if kernel.is_some_and(|kernel| kernel != stated) {
            return Err(format!("kernel_shape {stated:?}, but its weights have {kernel:?}"));
        }
        let stride = self.sizes("strides", Some([1, 1]), one)?;
        let sizes = [shape.height, shape.width];
        let stated = spread(stated, stride, dilations)?;
        let mut padding = match self.text("auto_pad").as_str() {
            "" | "NOTSET" => self.sizes("pads", Some([0; 4]), none)?,
            "VALID" => [0; 4],
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                let mut padding = [0; 4];
                for axis in [0, 1] {
                    let covered = (sizes[axis].div_ceil(stride[axis]) - 1) * stride[axis];
                    // Where a kernel is smaller than its stride, more may be left over than is needed; what
                    // becomes of that, runtimes do not agree on.
                    let over = if kernel.is_some() { 2 } else { 1 };
                    if covered + stated[axis] + over < sizes[axis] {
                        return Err(format!(
                            "auto_pad {same} of a window of {} and stride {}, where runtimes differ: state the pads",
                            stated[axis], stride[axis]
                        ));
                    }
                    let all = (covered + stated[axis]).saturating_sub(sizes[axis]);
                    let less = if same == "SAME_UPPER" { all / 2 } else { all - all / 2 };
                    (padding[axis], padding[axis + 2]) = (less, all - less);
                }
                padding
            }
            other => return Err(format!("auto_pad {other}")),
        };
        if padding.iter().any(|&v| v > 1 << 24) {
            return Err(format!("pads {padding:?} are too large"));
        }
        let mut longer = false;
        if self.int("ceil_mode", 0) != 0 {
            for axis in [0, 1] {
                let (size, before) = (sizes[axis], padding[axis]);
                let padded = size + before + padding[axis + 2];
                let Some(rest) = padded.checked_sub(stated[axis]) else { continue };
                let mut steps = rest.div_ceil(stride[axis]);
                // A window that begins in the padding behind the map is none.
                while steps > 0 && steps * stride[axis] >= size + before {
                    steps -= 1;
                }
                let needed = (steps * stride[axis] + stated[axis]).saturating_sub(size + before);
                longer |= needed > padding[axis + 2];
                padding[axis + 2] = needed;
            }
        }
        Ok((Window { kernel: stated, stride, padding }, longer))
    }

    /// The kernel of a transposed convolution, dilations included, its stride, and what is cut off its
    /// output: top, left, bottom, right.
    pub(super) fn cut(
        &self,
        kernel: [usize; 2],
        shape: Shape,
        flat: bool,
    ) -> Reason<(Window, [i32; 4])> {
        let (one, none) = (flat.then_some(1), flat.then_some(0));
        let dilations = self.dilations(flat)?;
        let stated = self.sizes("kernel_shape", Some(kernel), one)?;
        if kernel != stated {
            return Err(format!("kernel_shape {stated:?}, but its weights have {kernel:?}"));
        }
        let stride = self.sizes("strides", Some([1, 1]), one)?;
        let kernel = spread(stated, stride, dilations)?;
        let more = self.sizes("output_padding", Some([0, 0]), none)?;
        let pads = self.sizes("pads", Some([0; 4]), none)?;
        let wanted: Option<[usize; 2]> = match self.attribute("output_shape") {
            // In older opsets with batch and channels.
            Some(found) if found.ints.len() > 2 || flat && found.ints.len() > 1 => {
                let places = if flat { 1 } else { 2 };
                let ints = found.ints[found.ints.len() - places..].to_vec();
                let only = NodeProto {
                    attribute: vec![AttributeProto {
                        name: "output_shape".into(),
                        ints,
                        ..Default::default()
                    }],
                    ..Default::default()
                };
                Some(only.sizes("output_shape", None, one)?)
            }
            Some(_) => Some(self.sizes("output_shape", None, one)?),
            None => None,
        };
        let auto = self.text("auto_pad");
        let mut cut = [0i64; 4];
        for (axis, size) in [shape.height, shape.width].into_iter().enumerate() {
            let whole = (size - 1)
                .checked_mul(stride[axis])
                .and_then(|covered| covered.checked_add(kernel[axis]))
                .filter(|&whole| whole < 1 << 24)
                .ok_or("an output that is too large")? as i64;
            let wanted = match (auto.as_str(), wanted) {
                (_, Some(wanted)) => Some(wanted[axis]),
                ("SAME_UPPER" | "SAME_LOWER", None) => Some(size * stride[axis]),
                _ => None,
            };
            let (before, after) = match wanted {
                Some(wanted) => {
                    let all = whole + more[axis] as i64 - wanted as i64;
                    if all < 0 && self.attribute("output_shape").is_none() {
                        // Runtimes do not agree on the size.
                        return Err(format!("auto_pad {auto} by a kernel smaller than the stride"));
                    }
                    let half = if auto == "SAME_UPPER" {
                        all.max(0) / 2
                    } else {
                        all.max(0) - all.max(0) / 2
                    };
                    (half, all - half - more[axis] as i64)
                }
                None if auto == "VALID" => (0, -(more[axis] as i64)),
                None => (pads[axis] as i64, pads[axis + 2] as i64 - more[axis] as i64),
            };
            (cut[axis], cut[axis + 2]) = (before, after);
        }
        let narrow = cut.map(|value| i32::try_from(value).ok());
        let [Some(top), Some(left), Some(bottom), Some(right)] = narrow else {
            return Err(format!("cuts {cut:?}"));
        };
        let window = Window { kernel, stride, padding: [0; 4] };
        Ok((window, [top, left, bottom, right]))
    }
}

/// A kernel with its dilations.
fn spread(kernel: [usize; 2], stride: [usize; 2], dilations: [usize; 2]) -> Reason<[usize; 2]> {
    if kernel.iter().chain(&stride).chain(&dilations).any(|&v| v == 0) {
        return Err("a kernel, stride or dilation of 0".into());
    }
    let kernel = [0, 1].map(|axis| (kernel[axis] - 1).saturating_mul(dilations[axis]) + 1);
    match kernel.iter().chain(&stride).any(|&v| v > 1 << 24) {
        true => Err(format!("kernel {kernel:?} and stride {stride:?} are too large")),
        false => Ok(kernel),
    }
}
