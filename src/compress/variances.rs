//! The variances that go into a file with the weights.

use crate::error::{Error, Result};
use crate::model::{LayerVariances, Variances};
use crate::prune::PrunedModel;

/// Nats of divergence of the weights' posterior that a bit is worth, if nothing is said: where the scores of
/// predictions no longer change.
pub(super) const RATE: f64 = 0.1;

/// The variances of a pruned network, in the order of its weights; `None` if they are not wanted.
///
/// # Errors
/// [`Error::Argument`] if no layer has a posterior.
pub(super) fn of(pruned: &PrunedModel) -> Result<Option<Variances>> {
    let Some(spread) = &pruned.spread else { return Ok(None) };
    let mut layers = Vec::new();
    for index in 0..pruned.network().layers.len() {
        let layer = pruned.layer(index)?;
        let variance = |&log: &f32| libm::exp(f64::from(log)) as f32;
        layers.push(LayerVariances {
            weights: layer.log_sigma2.iter().flatten().map(variance).collect(),
            bias: spread.bias[index].iter().map(|&v| v as f32).collect(),
            pruned: spread.pruned[index].clone(),
        });
    }
    if layers.iter().all(LayerVariances::is_empty) {
        let problem = "no layer has a posterior: there are no variances to store".into();
        return Err(Error::Argument { problem });
    }
    Ok(Some(Variances { layers }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::uncertain::{UncertainEngine, Uncertainty};
    use crate::engine::{Isa, Options};
    use crate::network::{Activation, Input, Layer, Network, Node, Op, Shape, Source};
    use crate::prune::{PrunedLayer, Spread, Statistics, csr};
    use crate::simplify::simplify;

    /// Numbers from -1 to 1.
    fn random(state: &mut u64) -> f32 {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A chain of sparse layers in which units are dead, constant, and constant but for a variance.
    fn network(state: &mut u64) -> PrunedModel {
        let sizes = [5, 7, 6, 6, 3];
        let (mut layers, mut nodes, mut pruned) = (Vec::new(), Vec::new(), Vec::new());
        for (index, pair) in sizes.windows(2).enumerate() {
            let (columns, rows) = (pair[0], pair[1]);
            let (mut starts, mut indices, mut weights) = (vec![0], Vec::new(), Vec::new());
            let mut logs = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    // The last layer reads every unit but the first.
                    let there = random(state) < -0.4 && (row + index) % 3 != 0;
                    if there || index == 3 && column > 0 {
                        indices.push(column as u32);
                        weights.push(random(state));
                        logs.push(2.0 * random(state) - 2.0);
                    }
                }
                starts.push(weights.len());
            }
            let bias = (0..rows).map(|_| random(state)).collect();
            pruned.push(Ok(PrunedLayer {
                shape: vec![rows, columns],
                weights: csr(rows, columns, starts, indices, weights).unwrap(),
                log_sigma2: Some(logs),
                bias: Some(bias),
                statistics: Statistics::default(),
            }));
            layers.push(Layer { name: format!("l{index}"), shape: vec![rows, columns] });
            for op in [Op::Linear { layer: index }, Op::Activation(Activation::Relu)] {
                let before = nodes.len().checked_sub(1).map_or(Source::Input, Source::Node);
                nodes.push(Node { name: String::new(), op, inputs: vec![before] });
            }
        }
        nodes.pop();
        let network = Network { input: Input::plain(Shape::vector(5)), layers, nodes, time: None };
        let mut model = PrunedModel::from_layers(network, pruned).unwrap();
        model.spread = Some(Spread::new(4));
        model
    }

    fn moments(pruned: &PrunedModel, x: &[f32]) -> Vec<f32> {
        let (model, variances) = (pruned.to_model().unwrap(), of(pruned).unwrap().unwrap());
        let how = Uncertainty::Moments;
        let engine =
            UncertainEngine::new(&model, &variances, how, Isa::best(), Options::default()).unwrap();
        let mut out = vec![0.0; x.len() / 5 * engine.row()];
        // One by one: panels leave out products that hardly matter, others after a simplification.
        for (x, out) in x.chunks(5).zip(out.chunks_mut(engine.row())) {
            engine.infer(x, out).unwrap();
        }
        out
    }

    #[test]
    fn simplification_changes_neither_means_nor_variances() {
        let (mut removed, mut varied, mut kept) = (0, 0, 0);
        for seed in 0..60 {
            let mut state = seed;
            let mut pruned = network(&mut state);
            let x: Vec<f32> = (0..20).map(|_| random(&mut state)).collect();
            let before = moments(&pruned, &x);
            let done = simplify(&mut pruned).unwrap();
            let after = moments(&pruned, &x);
            for (a, b) in before.iter().zip(&after) {
                assert!((a - b).abs() <= 2e-5 * (1.0 + a.abs()), "{seed}: {before:?} {after:?}");
            }
            removed += done.iter().map(|layer| layer.dead + layer.constant).sum::<usize>();
            kept += done.iter().map(|layer| layer.kept.values().sum::<usize>()).sum::<usize>();
            let biases = &pruned.spread.as_ref().unwrap().bias;
            varied += biases.iter().flatten().filter(|&&spread| spread > 0.0).count();
        }
        assert!(removed > 100 && varied > 20 && kept > 5, "{removed} {varied} {kept}");
    }
}
