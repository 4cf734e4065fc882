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

    /// The bounds of a `Clip`, infinite where there is none.
    pub(super) fn bounds(&self, constants: &Constants) -> Reason<(f32, f32)> {
        let bound =
            |at: usize, name: &str, default: f32| match (self.attribute(name), self.input(at)) {
                (Some(attribute), _) => Ok(attribute.f),
                (None, Some(input)) => constants
                    .scalar(input)
                    .ok_or_else(|| format!("{input:?} is no constant number")),
                (None, None) => Ok(default),
            };
        // Exporters write the least and the largest finite number for no bound.
        let min = bound(1, "min", f32::NEG_INFINITY)?;
        let max = bound(2, "max", f32::INFINITY)?;
        match (if min == f32::MIN { f32::NEG_INFINITY } else { min }, max) {
            (min, f32::MAX) => Ok((min, f32::INFINITY)),
            (min, max) if min <= max => Ok((min, max)),
            (min, max) => Err(format!("{min} to {max}")),
        }
    }

    fn sizes<const N: usize>(&self, name: &str, default: Option<[usize; N]>) -> Reason<[usize; N]> {
        let Some(found) = self.attribute(name) else {
            return default.ok_or_else(|| format!("has no {name}"));
        };
        let values: Option<Vec<usize>> =
            found.ints.iter().map(|&v| usize::try_from(v).ok()).collect();
        values
            .and_then(|values| values.try_into().ok())
            .ok_or_else(|| format!("{name} {:?}, {N} numbers from 0 are understood", found.ints))
    }

    /// The window of a convolution, whose weights have `kernel`, dilations included, or of a pool. The
    /// second result says whether `ceil_mode` has lengthened the padding.
    pub(super) fn window(
        &self,
        kernel: Option<[usize; 2]>,
        shape: Shape,
    ) -> Reason<(Window, bool)> {
        let dilations = self.sizes("dilations", Some([1, 1]))?;
        if kernel.is_none() && dilations != [1, 1] {
            return Err("dilations".into());
        }
        let stated = self.sizes("kernel_shape", kernel)?;
        if kernel.is_some_and(|kernel| kernel != stated) {
            return Err(format!("kernel_shape {stated:?}, but its weights have {kernel:?}"));
        }
        let stride = self.sizes("strides", Some([1, 1]))?;
        let sizes = [shape.height, shape.width];
        if stated.iter().chain(&stride).chain(&dilations).any(|&v| v == 0) {
            return Err("a kernel, stride or dilation of 0".into());
        }
        let stated = [0, 1].map(|axis| (stated[axis] - 1).saturating_mul(dilations[axis]) + 1);
        if stated.iter().chain(&stride).any(|&v| v > 1 << 24) {
            return Err(format!("kernel {stated:?} and stride {stride:?} are too large"));
        }
        let mut padding = match self.text("auto_pad").as_str() {
            "" | "NOTSET" => self.sizes("pads", Some([0; 4]))?,
            "VALID" => [0; 4],
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                let mut padding = [0; 4];
                for axis in [0, 1] {
                    let covered = (sizes[axis].div_ceil(stride[axis]) - 1) * stride[axis];
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
}
