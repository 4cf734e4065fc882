//! Shapes of operations that combine several values.

use super::{Binary, Shape};
use crate::error::{Error, Result};

/// Of a sum.
pub(super) fn sum(inputs: &[Shape]) -> Result<Shape> {
    let [first, rest @ ..] = inputs else { return Err(Error::network("add needs inputs")) };
    match rest.iter().find(|shape| *shape != first) {
        Some(other) => Err(Error::network(format!("add of different shapes {first} and {other}"))),
        None => Ok(*first),
    }
}

/// Of a product, or of another operation in which values of one position are spread.
pub(super) fn product(what: &str, inputs: &[Shape]) -> Result<Shape> {
    let whole = inputs.iter().max_by_key(|shape| shape.area());
    let whole = whole.ok_or_else(|| Error::network(format!("{what} needs inputs")))?;
    let fits = |x: &&Shape| *x == whole || x.area() == 1 && x.channels == whole.channels;
    match inputs.iter().find(|x| !fits(x)) {
        Some(other) => Err(Error::network(format!("{what} of shapes {whole} and {other}"))),
        None => Ok(*whole),
    }
}

/// Of a function of two values.
pub(super) fn binary(op: Binary, inputs: &[Shape]) -> Result<Shape> {
    match inputs {
        [_, _] => product(op.name(), inputs),
        _ => Err(Error::network(format!("{} takes two inputs, has {}", op.name(), inputs.len()))),
    }
}

/// Of a choice between two values.
pub(super) fn choice(inputs: &[Shape]) -> Result<Shape> {
    match *inputs {
        [condition, a, b] if condition == a && a == b => Ok(a),
        [condition, a, b] => {
            Err(Error::network(format!("where of different shapes {condition}, {a} and {b}")))
        }
        _ => Err(Error::network(format!("where takes three inputs, has {}", inputs.len()))),
    }
}

/// Of a product of matrices for each channel.
pub(super) fn matmul(inputs: &[Shape]) -> Result<Shape> {
    match *inputs {
        [a, b] if a.channels == b.channels && a.width == b.height => {
            Ok(Shape::new(a.channels, a.height, b.width))
        }
        [a, b] => Err(Error::network(format!(
            "matmul of {} matrices of {} x {} and {} of {} x {}",
            a.channels, a.height, a.width, b.channels, b.height, b.width
        ))),
        _ => Err(Error::network(format!("matmul takes two inputs, has {}", inputs.len()))),
    }
}

/// Of channels one after the other.
pub(super) fn concatenation(inputs: &[Shape]) -> Result<Shape> {
    let [first, rest @ ..] = inputs else { return Err(Error::network("concat needs inputs")) };
    let mut whole = *first;
    for x in rest {
        if (x.height, x.width) != (whole.height, whole.width) {
            return Err(Error::network(format!("concat of maps of shapes {first} and {x}")));
        }
        whole.channels = whole.channels.saturating_add(x.channels);
    }
    Ok(whole)
}
