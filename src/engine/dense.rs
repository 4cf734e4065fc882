//! The dense-theta path: the oracle of everything sparse.
//!
//! It reads theta from the original checkpoint, masks it by the same threshold if asked, and runs
//! the network as described, unsimplified, in f64, with plain loops that share no code with the
//! engine.

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::{Block, Checkpoint};
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model};
use crate::network::{Network, Op, Shape, Source, Window, check_domains, corner, plain, row_of};
use crate::prune::Thresholds;

/// A network over dense f64 weights.
pub struct DenseNetwork {
    network: Network,
    shapes: Vec<Shape>,
    weights: Vec<Arc<[f64]>>,
    bias: Vec<Option<Arc<[f64]>>>,
}

impl DenseNetwork {
    /// Reads all means of a checkpoint; those whose log alpha is above their layer's threshold, if given, are
    /// replaced by zero.
    pub fn new(checkpoint: &Checkpoint, thresholds: Option<&Thresholds>) -> Result<Self> {
        let network = checkpoint.network().clone();
        let shapes = network.shapes()?;
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for layer in 0..network.layers.len() {
            let mut block = Block::default();
            checkpoint.read_block(layer, 0, checkpoint.weights(layer), &mut block)?;
            let kind = checkpoint.variance(layer);
            let threshold = thresholds.map(|thresholds| thresholds.of(layer));
            let masked = block.theta.iter().enumerate().map(|(i, &theta)| {
                let log_alpha = match kind {
                    Some(kind) => kind.log_alpha(theta, block.variance[i]),
                    None => f64::NEG_INFINITY,
                };
                let pruned = threshold.is_some_and(|threshold| log_alpha > threshold);
                if pruned { 0.0 } else { f64::from(theta) }
            });
            weights.push(masked.collect());
            let widen = |b: Vec<f32>| b.into_iter().map(f64::from).collect();
            bias.push(checkpoint.read_bias(layer)?.map(widen));
        }
        Ok(Self { network, shapes, weights, bias })
    }

    /// The same of a compressed model: what its own weights give, whatever they were made from.
    ///
    /// # Errors
    /// [`Error::Network`] if the weights do not fit the network.
    pub fn of_model(model: &Model) -> Result<Self> {
        let network = model.network.clone();
        let shapes = network.shapes()?;
        let widen = |v: &f32| f64::from(*v);
        let dense = |layer: &LayerWeights| Ok(layer.to_dense()?.iter().map(widen).collect());
        let weights = model.weights.iter().map(dense).collect::<Result<_>>()?;
        let bias =
            |layer: &LayerWeights| Some(layer.bias.as_ref()?.to_f32().iter().map(widen).collect());
        let bias = model.weights.iter().map(bias).collect();
        Ok(Self { network, shapes, weights, bias })
    }

    /// The same for sequences of so many steps, where the network takes several lengths.
    ///
    /// # Errors
    /// As [`Network::at`].
    pub fn at(&self, steps: usize) -> Result<Self> {
        let network = self.network.at(steps)?;
        let layers = self.network.layers.iter().zip(&network.layers).zip(&self.weights);
        let weights = layers.map(|((from, to), weights)| {
            // Of a layer that is a value, what counts.
            let place = corner(&from.shape, &to.shape).filter(|_| from != to);
            place.map_or_else(
                || weights.clone(),
                |place| {
                    let kept = weights.iter().enumerate().filter(|(at, _)| place(*at).is_some());
                    kept.map(|(_, &weight)| weight).collect()
                },
            )
        });
        let (weights, shapes) = (weights.collect(), network.shapes()?);
        Ok(Self { network, shapes, weights, bias: self.bias.clone() })
    }

    /// Values of a sample.
    pub(super) fn elements(&self) -> usize {
        let shape = self.network.input.shape;
        shape.channels * shape.area()
    }

    /// The outputs for one sample of raw values.
    ///
    /// # Errors
    /// [`Error::Data`] if the sample does not have the input's shape.
    pub fn run(&self, sample: &[f32]) -> Result<Vec<f64>> {
        let input = &self.network.input;
        let area = input.shape.area();
        if sample.len() != input.shape.elements()? {
            return Err(Error::data(format!(
                "a sample of {} values for an input of shape {}",
                sample.len(),
                input.shape
            )));
        }
        check_domains(&self.network.domains()?, sample, sample.len())?;
        let first: Vec<f64> = sample
            .iter()
            .enumerate()
            .map(|(at, &raw)| {
                let (factor, offset) = input.affine(at / area);
                f64::from(raw) * f64::from(factor) + f64::from(offset)
            })
            .collect();
        let mut values: Vec<Vec<f64>> = Vec::with_capacity(self.network.nodes.len());
        for (index, node) in self.network.nodes.iter().enumerate() {
            let value = |source: &Source| match *source {
                Source::Input => (&first, input.shape),
                Source::Node(i) => (&values[i], self.shapes[i]),
            };
            let inputs: Vec<_> = node.inputs.iter().map(value).collect();
            let nothing = Vec::new();
            let (x, shape) = inputs.first().copied().unwrap_or((&nothing, input.shape));
            let out = self.shapes[index];
            let y = match node.op {
                Op::Linear { layer } => self.linear(layer, x),
                Op::Conv2d { layer, stride, padding, groups } => {
                    let dims = &self.network.layers[layer].shape;
                    let window = Window { kernel: [dims[2], dims[3]], stride, padding };
                    self.conv2d(layer, &window, groups, x, shape, out)
                }
                Op::MaxPool2d(window) => pool(&window, x, shape, out, |seen, _| {
                    seen.iter().copied().fold(f64::NEG_INFINITY, f64::max)
                }),
                Op::AvgPool2d { window, count_include_pad } => {
                    pool(&window, x, shape, out, |seen, all| {
                        let count = if count_include_pad { all } else { seen.len() };
                        seen.iter().sum::<f64>() / count as f64
                    })
                }
                Op::GlobalAvgPool2d => {
                    let area = shape.area();
                    x.chunks(area).map(|map| map.iter().sum::<f64>() / area as f64).collect()
                }
                Op::Activation(activation) => x.iter().map(|&v| activation.apply_f64(v)).collect(),
                Op::Add => {
                    let mut sum = x.clone();
                    for other in &node.inputs[1..] {
                        sum.iter_mut().zip(value(other).0).for_each(|(sum, v)| *sum += v);
                    }
                    sum
                }
                Op::Mul => {
                    let area = out.area();
                    let factor = |source: &Source, at: usize| {
                        let (values, shape) = value(source);
                        values[if shape == out { at } else { at / area }]
                    };
                    let product = |at| node.inputs.iter().map(|s| factor(s, at)).product();
                    (0..out.channels * area).map(product).collect()
                }
                Op::Concat => node.inputs.iter().flat_map(|s| value(s).0).copied().collect(),
                Op::Flatten => x.clone(),
                Op::Softmax => softmax(x, shape),
                Op::Constant { layer } => {
                    let bias = |at| self.bias_of(layer, at / out.area());
                    self.weights[layer].iter().enumerate().map(|(at, w)| w + bias(at)).collect()
                }
                Op::Embedding { layer } => {
                    let (rows, features) =
                        (self.network.layers[layer].rows(), self.network.layers[layer].cols());
                    let mut y = vec![0.0; features * x.len()];
                    for (at, &id) in x.iter().enumerate() {
                        let Some(row) = row_of(id, rows) else { continue };
                        let table = &self.weights[layer][row * features..][..features];
                        for (feature, w) in table.iter().enumerate() {
                            y[feature * x.len() + at] = w + self.bias_of(layer, row);
                        }
                    }
                    y
                }
                Op::Recurrent { layer, recurrence } => {
                    let inputs: Vec<_> = inputs.iter().map(|&(x, shape)| (&x[..], shape)).collect();
                    let weights = &self.weights[layer];
                    recurrence.evaluate(&inputs, |row, h| {
                        self.bias_of(layer, row) + dot(&weights[row * h.len()..][..h.len()], h)
                    })
                }
                Op::ConvTranspose2d { layer, stride, cut, groups } => {
                    self.transposed(layer, (stride, cut, groups), (x, shape), out)
                }
                op => {
                    let inputs: Vec<_> = inputs.iter().map(|&(x, shape)| (&x[..], shape)).collect();
                    plain::evaluate(&op, &inputs, out)
                        .ok_or_else(|| Error::network(format!("node {index} cannot be run")))?
                }
            };
            values.push(y);
        }
        values.pop().ok_or_else(|| Error::network("there are no nodes"))
    }

    fn linear(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let rows = self.weights[layer].chunks(x.len());
        rows.enumerate().map(|(row, w)| self.bias_of(layer, row) + dot(w, x)).collect()
    }

    fn bias_of(&self, layer: usize, row: usize) -> f64 {
        self.bias[layer].as_ref().map_or(0.0, |b| b[row])
    }

    fn conv2d(
        &self,
        layer: usize,
        window: &Window,
        groups: usize,
        x: &[f64],
        shape: Shape,
        out: Shape,
    ) -> Vec<f64> {
        let seen = shape.channels / groups;
        let [kh, kw] = window.kernel;
        let mut y = Vec::with_capacity(out.channels * out.area());
        for channel in 0..out.channels {
            let first = channel / (out.channels / groups) * seen;
            let w = &self.weights[layer][channel * seen * kh * kw..][..seen * kh * kw];
            for oy in 0..out.height {
                for ox in 0..out.width {
                    let mut sum = self.bias_of(layer, channel);
                    let (rows, top) = overlap(oy, window, 0, shape.height);
                    let (columns, left) = overlap(ox, window, 1, shape.width);
                    // Behind padding wider than the kernel there are no taps to be found.
                    let seen = if columns.is_empty() { 0 } else { seen };
                    for c in 0..seen {
                        for row in rows.clone() {
                            let line = &x[((first + c) * shape.height + row) * shape.width..];
                            let taps = &w[(c * kh + row + top - oy * window.stride[0]) * kw..];
                            let tap = columns.start + left - ox * window.stride[1];
                            sum += dot(&taps[tap..tap + columns.len()], &line[columns.clone()]);
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }
}

impl DenseNetwork {
    /// Each input's share, by the positions of the output that it reaches.
    fn transposed(
        &self,
        layer: usize,
        (stride, cut, groups): ([usize; 2], [i32; 4], usize),
        (x, shape): (&[f64], Shape),
        out: Shape,
    ) -> Vec<f64> {
        let dims = &self.network.layers[layer].shape;
        let (seen, kh, kw) = (dims[1], dims[2], dims[3]);
        let mut y: Vec<f64> =
            (0..out.channels * out.area()).map(|at| self.bias_of(layer, at / out.area())).collect();
        let reach = |at: usize, tap: usize, axis: usize, size: usize| {
            let to = (at * stride[axis] + tap).checked_sub(cut[axis] as usize);
            to.filter(|&to| to < size)
        };
        for (at, &w) in self.weights[layer].iter().enumerate() {
            let (kx, ky, c, o) =
                (at % kw, at / kw % kh, at / (kw * kh) % seen, at / (kw * kh * seen));
            let c = o / (out.channels / groups) * seen + c;
            for iy in 0..shape.height {
                let Some(oy) = reach(iy, ky, 0, out.height) else { continue };
                for ix in 0..shape.width {
                    let Some(ox) = reach(ix, kx, 1, out.width) else { continue };
                    let x = x[(c * shape.height + iy) * shape.width + ix];
                    y[(o * out.height + oy) * out.width + ox] += w * x;
                }
            }
        }
        y
    }
}

/// The inputs under a window along an axis, and the padding before them.
fn overlap(at: usize, window: &Window, axis: usize, size: usize) -> (Range<usize>, usize) {
    let before = window.padding[axis];
    let start = at * window.stride[axis];
    let end = (start + window.kernel[axis]).saturating_sub(before).min(size);
    (start.saturating_sub(before).min(end)..end, before)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn pool(
    window: &Window,
    x: &[f64],
    shape: Shape,
    out: Shape,
    summary: impl Fn(&[f64], usize) -> f64,
) -> Vec<f64> {
    let mut y = Vec::with_capacity(out.channels * out.area());
    for map in x.chunks(shape.area()) {
        for oy in 0..out.height {
            for ox in 0..out.width {
                let (rows, _) = overlap(oy, window, 0, shape.height);
                let (columns, _) = overlap(ox, window, 1, shape.width);
                let seen: Vec<f64> = rows
                    .flat_map(|row| &map[row * shape.width..][columns.clone()])
                    .copied()
                    .collect();
                y.push(summary(&seen, window.kernel[0] * window.kernel[1]));
            }
        }
    }
    y
}

fn softmax(x: &[f64], shape: Shape) -> Vec<f64> {
    let area = shape.area();
    let mut y = vec![0.0; x.len()];
    for position in 0..area {
        let largest =
            x.iter().skip(position).step_by(area).copied().fold(f64::NEG_INFINITY, f64::max);
        let exponential = |v: f64| libm::exp(v - largest);
        let sum: f64 = x.iter().skip(position).step_by(area).map(|&v| exponential(v)).sum();
        for at in (position..x.len()).step_by(area) {
            y[at] = exponential(x[at]) / sum;
        }
    }
    y
}
