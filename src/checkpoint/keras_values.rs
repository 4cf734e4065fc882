//! The values between Keras's layers: their shapes, and what is only done to these.

use serde_json::Value;

use super::keras_config::Reason;

/// The values that a layer gives.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    /// The node they come from; none for the input.
    pub(super) node: Option<usize>,
    /// Channels, or the length of a vector.
    pub(super) channels: usize,
    /// Rows and columns, if it is a map.
    pub(super) map: Option<[usize; 2]>,
    /// Zeros around the map that no node has put there yet: top, left, bottom, right.
    pub(super) padding: [usize; 4],
    /// Whether it is a map that was flattened with its channels last: only a dense layer knows how to
    /// read it.
    pub(super) flat: bool,
    /// Whether it is the input before what scales it.
    pub(super) raw: bool,
}

/// Refuses zeros around a map that no node has put there.
pub(super) fn unpadded(x: &Values) -> Reason<()> {
    match x.padding {
        [0, 0, 0, 0] => Ok(()),
        _ => Err("reads a map with zeros around it, which only convolutions and pools do".into()),
    }
}

/// Refuses a flattened map whose channels come last.
pub(super) fn ordered(x: &Values) -> Reason<()> {
    match x.flat {
        false => Ok(()),
        true => Err("is over a flattened map, whose order only a dense layer knows".into()),
    }
}

/// Whether an axis, or the only one of a list, is the last.
pub(super) fn is_last(axis: &Value, map: bool) -> bool {
    let axis = axis.as_array().and_then(|axes| axes.first()).unwrap_or(axis);
    axis.is_null()
        || axis.as_i64().is_some_and(|axis| axis == -1 || axis == if map { 3 } else { 1 })
}

/// A vector as a map of one position, and back.
pub(super) fn reshape(config: &Value, x: Values) -> Reason<Values> {
    let target: Option<Vec<u64>> = config["target_shape"]
        .as_array()
        .and_then(|sizes| sizes.iter().map(Value::as_u64).collect());
    let channels = x.channels as u64;
    match (target.as_deref(), x.map) {
        (Some([1, 1, c]), None | Some([1, 1])) if *c == channels && !x.flat => {
            Ok(Values { map: Some([1, 1]), ..x })
        }
        (Some([c]), None | Some([1, 1])) if *c == channels => Ok(Values { map: None, ..x }),
        _ => Err(format!("to {}", config["target_shape"])),
    }
}

/// `padding` of `ZeroPadding2D`: one number, two, or two pairs.
pub(super) fn padded(config: &Value, x: Values) -> Reason<Values> {
    let [height, width] = x.map.ok_or("reads no map")?;
    let number = |value: &Value| value.as_u64().filter(|&v| v < 1 << 16).map(|v| v as usize);
    let side = |value: &Value| match value.as_array().map(|pair| &pair[..]) {
        Some([before, after]) => number(before).zip(number(after)),
        Some(_) => None,
        None => number(value).map(|n| (n, n)),
    };
    let sides = match &config["padding"] {
        Value::Array(axes) => match &axes[..] {
            [rows, columns] => side(rows).zip(side(columns)),
            _ => None,
        },
        single => side(single).map(|n| (n, n)),
    };
    let ((top, bottom), (left, right)) =
        sides.ok_or_else(|| format!("padding {}", config["padding"]))?;
    let [t, l, b, r] = x.padding;
    let padding = [t + top, l + left, b + bottom, r + right];
    Ok(Values { map: Some([height, width]), padding, ..x })
}

/// The padding of a window, whose output becomes the map; with the zeros around it.
pub(super) fn window(
    x: &mut Values,
    kernel: [usize; 2],
    stride: [usize; 2],
    config: &Value,
) -> Reason<[usize; 4]> {
    let sizes = x.map.ok_or("reads no map")?;
    let same = match config["padding"].as_str().unwrap_or("valid") {
        "same" => true,
        "valid" => false,
        other => return Err(format!("padding {other:?}")),
    };
    let (mut padding, mut out) = (x.padding, [0; 2]);
    for axis in [0, 1] {
        let (kernel, stride) = (kernel[axis], stride[axis].max(1));
        let size = sizes[axis].saturating_add(padding[axis] + padding[axis + 2]);
        let steps =
            if same { size.div_ceil(stride) } else { size.saturating_sub(kernel) / stride + 1 };
        out[axis] = steps;
        if same {
            let covered = steps.saturating_sub(1).saturating_mul(stride).saturating_add(kernel);
            let all = covered.saturating_sub(size);
            padding[axis] += all / 2;
            padding[axis + 2] += all - all / 2;
        }
    }
    (x.map, x.padding) = (Some(out), [0; 4]);
    Ok(padding)
}

/// `2`, `[2, 3]` or nothing.
pub(super) fn pair(value: &Value) -> Reason<Option<[usize; 2]>> {
    let number =
        |value: &Value| value.as_u64().filter(|v| (1..1 << 24).contains(v)).map(|v| v as usize);
    let found = match value {
        Value::Null => return Ok(None),
        Value::Array(items) => match &items[..] {
            [a, b] => number(a).zip(number(b)).map(|(a, b)| [a, b]),
            _ => None,
        },
        single => number(single).map(|n| [n, n]),
    };
    found.map(Some).ok_or_else(|| format!("{value} is no pair of sizes"))
}
