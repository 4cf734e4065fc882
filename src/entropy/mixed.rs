//! A layer as earlier builds coded it: whether a weight is there, its sign and magnitude, each under a
//! mixture of models. Such files are read; only tests write them.

use super::columns::code_columns;
use super::context::Context;
use super::range_coder::{BitCoder, Decoder, Encoder};
use super::spec::{BitCost, LayerSpec, in_range};
use super::values::ValueModel;
use crate::budget::AllocationBudget;
use crate::error::Result;
use crate::model::{LayerWeights, Pattern, Values};

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
    let mut context = Context::new(spec.geometry, columns);
    let mut values = ValueModel::new(spec.encoding, false);
    let mut on_values = 0.0;
    for row in 0..pattern.rows() {
        context.next_row();
        let mut entries = pattern.row(row).iter().zip(pattern.entries(row)).peekable();
        for at in 0..context.columns().len() {
            let column = context.columns()[at];
            let entry = entries.next_if(|(there, _)| **there == column);
            encoder.code(context.predict(at), entry.is_some());
            context.learn(entry.is_some());
            let Some((_, entry)) = entry else { continue };
            let before = encoder.bits();
            if let Values::Levels { levels, .. } = &weights.values {
                let negative = context.sign(encoder, at, levels[entry] < 0);
                cost.signs += encoder.bits() - before;
                context.magnitude(encoder, at, negative, levels[entry]);
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
    let mut context = Context::new(geometry, columns);
    let mut model = ValueModel::new(spec.encoding, false);
    let (mut pattern, mut values) =
        (Pattern::with_columns(geometry.columns()), spec.encoding.none());
    let mut row = Vec::new();
    for _ in 0..spec.rows {
        context.next_row();
        row.clear();
        for at in 0..context.columns().len() {
            if decoder.code(context.predict(at), false) {
                context.learn(true);
                row.push(context.columns()[at]);
                if let Values::Levels { scale, levels } = &mut values {
                    let level = context.level(&mut decoder, at, 0);
                    levels.push(in_range(level, *scale)?);
                } else {
                    let negative = model.decode(&mut decoder, &mut values)?;
                    context.place(at, if negative { -1 } else { 1 });
                }
            } else {
                context.learn(false);
            }
        }
        decoder.check()?;
        budget.take(row.len())?;
        pattern.push_row(row.iter().copied())?;
    }
    let bias = match spec.bias {
        Some(encoding) => Some(ValueModel::decode_bias(&mut decoder, encoding, spec.rows)?),
        None => None,
    };
    decoder.finish()?;
    Ok(LayerWeights { pattern, values, bias })
}
