//! A layer small enough to look at every position, quickly: whether a weight is there under two mixed
//! models, its sign and magnitude each under a model that the weights beside it choose.

mod context;
mod positions;

use super::columns::code_columns;
use super::models::Number;
use super::range_coder::{BitCoder, Decoder, Encoder};
use super::spec::{BitCost, LayerSpec, in_range, malformed};
use super::values::ValueModel;
use crate::budget::AllocationBudget;
use crate::error::Result;
use crate::model::{LayerWeights, Pattern, Values};
pub use context::{Context, Models};

/// Encodes a layer.
pub(super) fn encode(weights: &LayerWeights, spec: &LayerSpec, cost: &mut BitCost) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encode_to(&mut encoder, weights, spec, cost);
    encoder.finish()
}

/// Gives every bit of a layer to a coder.
pub(super) fn encode_to(
    encoder: &mut impl BitCoder,
    weights: &LayerWeights,
    spec: &LayerSpec,
    cost: &mut BitCost,
) {
    let pattern = &weights.pattern;
    let mut used = vec![false; pattern.cols()];
    pattern.columns().iter().for_each(|&column| used[column as usize] = true);
    let columns = code_columns(encoder, spec.geometry, &mut used);
    let mut left = pattern.len();
    Number::default().code(encoder, left as u32);
    let models = Models::new(spec.rows * columns.len(), left);
    let mut context = Context::new(spec.geometry, columns, models);
    let mut values = ValueModel::new(spec.encoding, false);
    let mut on_values = 0.0;
    for row in 0..pattern.rows() {
        context.next_row();
        let mut entries = pattern.row(row).iter().zip(pattern.entries(row)).peekable();
        for at in 0..context.columns().len() {
            if left == 0 {
                break;
            }
            let column = context.columns()[at];
            let entry = entries.next_if(|(there, _)| **there == column);
            let prediction = context.predict(at);
            encoder.code(prediction.probability, entry.is_some());
            context.learn(prediction, entry.is_some());
            let Some((_, entry)) = entry else { continue };
            left -= 1;
            let before = encoder.bits();
            if let Values::Levels { levels, .. } = &weights.values {
                context.sign(encoder, at, levels[entry] < 0);
                cost.signs += encoder.bits() - before;
                context.magnitude(encoder, at, levels[entry].unsigned_abs());
                context.place(at, levels[entry]);
            } else {
                let negative = values.encode(encoder, &weights.values, entry);
                context.place(at, if negative { -1 } else { 1 });
            }
            on_values += encoder.bits() - before;
        }
    }
    cost.values += on_values;
    cost.positions += encoder.bits() - on_values;
    if let Some(bias) = &weights.bias {
        let before = encoder.bits();
        ValueModel::encode_bias(encoder, bias, 0..pattern.rows());
        cost.bias += encoder.bits() - before;
    }
}

/// Decodes a layer.
///
/// # Errors
/// [`crate::Error::Format`] if it is not one, [`crate::Error::Limit`] if it is larger than allowed.
pub(super) fn decode(
    bytes: &[u8],
    spec: &LayerSpec,
    budget: &AllocationBudget,
) -> Result<LayerWeights> {
    let mut decoder = Decoder::new(bytes);
    let geometry = spec.geometry;
    let columns = code_columns(&mut decoder, geometry, &mut vec![false; geometry.columns()]);
    let (width, positions) = (columns.len(), spec.rows.saturating_mul(columns.len()));
    let mut left = Number::default().code(&mut decoder, 0) as usize;
    if left > positions {
        return Err(malformed("more entries than positions"));
    }
    budget.take(left)?;
    let mut context = Context::new(geometry, columns, Models::new(positions, left));
    let mut model = ValueModel::new(spec.encoding, false);
    let mut pattern = Pattern::with_columns(geometry.columns());
    let mut values = spec.encoding.none();
    values.reserve_exact(left);
    let mut row = Vec::with_capacity(width.min(left));
    for _ in 0..spec.rows {
        context.next_row();
        row.clear();
        let end = if left > 0 { width } else { 0 };
        for at in 0..end {
            let prediction = context.predict(at);
            if !decoder.code(prediction.probability, false) {
                context.learn(prediction, false);
                continue;
            }
            context.learn(prediction, true);
            row.push(context.columns()[at]);
            if let Values::Levels { scale, levels } = &mut values {
                let negative = context.sign(&mut decoder, at, false);
                let magnitude = context.magnitude(&mut decoder, at, 0) as i32;
                let level = in_range(if negative { -magnitude } else { magnitude }, *scale)?;
                levels.push(level);
                context.place(at, level);
            } else {
                let negative = model.decode(&mut decoder, &mut values)?;
                context.place(at, if negative { -1 } else { 1 });
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        decoder.check()?;
        pattern.push_row(row.iter().copied())?;
    }
    if left > 0 {
        return Err(malformed("fewer entries than it says"));
    }
    let bias = match spec.bias {
        Some(encoding) => Some(ValueModel::decode_bias(&mut decoder, encoding, spec.rows)?),
        None => None,
    };
    decoder.finish()?;
    Ok(LayerWeights { pattern, values, bias })
}
