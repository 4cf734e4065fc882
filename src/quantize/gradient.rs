//! The gradient of a function of a network's outputs in its weights, for a block of samples side by side:
//! reverse accumulation over the nodes, in f32 and in one order on every CPU, as in
//! [`propagate`](super::propagate).

use super::propagate::{BlockValues, LANES, Patches, Propagation, Weights, counts, each_under};
use crate::error::{Error, Result};
use crate::network::{Activation, Network, Op, Shape, Source};

/// Of one layer, summed over the samples.
#[derive(Debug, Clone, Default)]
pub(super) struct Gradient {
    /// In each of its weights, in the order of the matrix.
    pub weights: Vec<f32>,
    /// In each row's bias.
    pub bias: Vec<f32>,
}

impl Gradient {
    /// Of weights, then biases.
    pub fn values(&mut self) -> impl Iterator<Item = &mut f32> {
        self.weights.iter_mut().chain(&mut self.bias)
    }

    /// Adds another of the same layer.
    pub fn add(&mut self, other: &Self) {
        self.values()
            .zip(other.weights.iter().chain(&other.bias))
            .for_each(|(sum, &value)| *sum += value);
    }
}

/// Whether a gradient passes through all nodes from the first layer to the output.
///
/// # Errors
/// [`Error::Argument`] with the first operation through which none does.
pub(super) fn check(network: &Network) -> Result<()> {
    let depends = dependent(network);
    let missing = |(node, op): (usize, &Op)| depends[node] && !passes(op);
    let mut nodes = network.nodes.iter().map(|node| &node.op).enumerate();
    match nodes.find(|&found| missing(found)) {
        None => Ok(()),
        Some((node, op)) => Err(Error::Argument {
            problem: format!(
                "node {node} is a {op:?}, through which distillation takes no gradient: leave \
                 --distill out"
            ),
        }),
    }
}

fn passes(op: &Op) -> bool {
    matches!(
        op,
        Op::Linear { .. }
            | Op::Conv2d { .. }
            | Op::ConvTranspose2d { .. }
            | Op::MaxPool2d(_)
            | Op::AvgPool2d { .. }
            | Op::GlobalAvgPool2d
            | Op::Activation(_)
            | Op::Add
            | Op::Mul
            | Op::Concat
            | Op::Flatten
            | Op::Softmax
    )
}

/// Whether the weights of each layer are followed: those of products, used once.
pub(super) fn followed(network: &Network) -> Vec<bool> {
    let uses = |layer| network.nodes.iter().filter(|n| n.op.layer() == Some(layer)).count();
    let mut followed: Vec<bool> = (0..network.layers.len()).map(|layer| uses(layer) == 1).collect();
    for node in &network.nodes {
        if let (Some(layer), false) = (node.op.layer(), is_product(&node.op)) {
            followed[layer] = false;
        }
    }
    followed
}

fn is_product(op: &Op) -> bool {
    matches!(op, Op::Linear { .. } | Op::Conv2d { .. } | Op::ConvTranspose2d { .. })
}

/// Whether each node depends on a layer whose weights are followed.
fn dependent(network: &Network) -> Vec<bool> {
    let mut depends = vec![false; network.nodes.len()];
    for (at, node) in network.nodes.iter().enumerate() {
        let inputs = node.inputs.iter();
        let inherits = |source: &Source| matches!(*source, Source::Node(from) if depends[from]);
        depends[at] = is_product(&node.op) || inputs.clone().any(inherits);
    }
    depends
}

impl Propagation<'_> {
    /// The values of all nodes for up to [`LANES`] raw samples.
    pub(super) fn forward(&self, raw: &[f32]) -> BlockValues {
        let mut values = self.load(raw);
        for node in 0..self.network().nodes.len() {
            let value = self.output(node, &values);
            values.nodes.push(value);
        }
        values
    }

    /// The gradient in each layer's weights, given the one in the last node's values.
    pub(super) fn backward(&self, values: &BlockValues, output: Vec<f32>) -> Vec<Gradient> {
        let network = self.network();
        let depends = dependent(network);
        let mut gradients = vec![Gradient::default(); network.layers.len()];
        let mut nodes: Vec<Vec<f32>> = vec![Vec::new(); network.nodes.len()];
        if let Some(last) = nodes.last_mut() {
            *last = output;
        }
        for node in (0..network.nodes.len()).rev() {
            let dy = std::mem::take(&mut nodes[node]);
            if dy.is_empty() {
                continue;
            }
            let inputs = &network.nodes[node].inputs;
            for (input, &source) in inputs.iter().enumerate() {
                let wanted = matches!(source, Source::Node(from) if depends[from]);
                let mut dx = match wanted {
                    true => vec![0.0; values.of(source).len()],
                    false => Vec::new(),
                };
                self.node_backward(node, input, values, &dy, &mut dx, &mut gradients);
                if let (Source::Node(from), true) = (source, wanted) {
                    match nodes[from].is_empty() {
                        true => nodes[from] = dx,
                        false => nodes[from].iter_mut().zip(&dx).for_each(|(sum, v)| *sum += v),
                    }
                }
            }
        }
        gradients
    }

    /// Adds to `dx` the gradient in one of a node's inputs, unless it is empty, and to a layer's that in
    /// its weights.
    fn node_backward(
        &self,
        node: usize,
        input: usize,
        values: &BlockValues,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut [Gradient],
    ) {
        let inputs = &self.network().nodes[node].inputs;
        let (source, to) = (inputs[input], self.shape(Source::Node(node)));
        let (x, from) = (values.of(source), self.shape(source));
        let op = self.network().nodes[node].op;
        if is_product(&op) {
            let layer = op.layer().unwrap_or_default();
            let patches = self.patches(node, layer);
            gradients[layer] = product_backward(&self.weights[layer], &patches, x, dy, dx);
            return;
        }
        if dx.is_empty() {
            return;
        }
        match op {
            Op::MaxPool2d(window) => {
                let y = values.of(Source::Node(node));
                // The first element that is the largest takes all.
                let mut taken = vec![false; y.len()];
                each_under(&window, from, to, |at, seen| {
                    for lane in 0..LANES {
                        let (at, seen) = (at * LANES + lane, seen * LANES + lane);
                        if x[seen] == y[at] && !taken[at] {
                            taken[at] = true;
                            dx[seen] += dy[at];
                        }
                    }
                });
            }
            Op::AvgPool2d { window, count_include_pad } => {
                let counts = counts(&window, from, to, count_include_pad);
                each_under(&window, from, to, |at, seen| {
                    let dy = &dy[at * LANES..][..LANES];
                    let dx = dx[seen * LANES..][..LANES].iter_mut();
                    dx.zip(dy).for_each(|(dx, dy)| *dx += dy * counts[at]);
                });
            }
            Op::GlobalAvgPool2d => {
                let share = 1.0 / from.area() as f32;
                for (at, dx) in dx.chunks_exact_mut(LANES).enumerate() {
                    let dy = &dy[at / from.area() * LANES..][..LANES];
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * share);
                }
            }
            Op::Activation(activation) => {
                let terms = dy.iter().zip(x).map(|(dy, &x)| dy * slope(activation, x));
                dx.iter_mut().zip(terms).for_each(|(dx, term)| *dx += term);
            }
            Op::Add | Op::Flatten => dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy),
            Op::Mul => {
                let others = inputs.iter().enumerate().filter(|(other, _)| *other != input);
                let mut product = dy.to_vec();
                for (_, &other) in others {
                    let (factor, whole) = (values.of(other), self.shape(other) == to);
                    for (at, product) in product.iter_mut().enumerate() {
                        *product *= factor[element(at, whole, to)];
                    }
                }
                let whole = from == to;
                product.iter().enumerate().for_each(|(at, v)| dx[element(at, whole, to)] += v);
            }
            Op::Concat => {
                let before = inputs[..input].iter().map(|&source| values.of(source).len());
                let dy = &dy[before.sum::<usize>()..];
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            }
            Op::Softmax => softmax_backward(values.of(Source::Node(node)), from, dy, dx),
            _ => {}
        }
    }
}

/// The element of a value that stands for one of a larger value, of which a channel may have one position.
fn element(at: usize, whole: bool, to: Shape) -> usize {
    if whole { at } else { at / LANES / to.area() * LANES + at % LANES }
}

/// The gradient in weights and bias of a product, and added to `dx`, unless it is empty, that in its input.
fn product_backward(
    weights: &Weights,
    patches: &Patches,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Gradient {
    let plane = patches.positions() * LANES;
    let mut gradient = Gradient { weights: vec![0.0; weights.values.len()], bias: Vec::new() };
    for (row, dy) in dy.chunks_exact(plane).enumerate() {
        gradient.bias.push(sum(dy.chunks_exact(LANES).fold([0.0; LANES], |mut sums, dy| {
            sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            sums
        })));
        for entry in weights.starts[row]..weights.starts[row + 1] {
            let tap = patches.tap(weights.columns[entry] as usize);
            let (weight, mut sums) = (weights.values[entry], [0.0; LANES]);
            patches.each_piece(row, tap, |at, seen, length| {
                let (dy, x) = (&dy[at..at + length], &x[seen..seen + length]);
                for (dy, x) in dy.chunks_exact(LANES).zip(x.chunks_exact(LANES)) {
                    for lane in 0..LANES {
                        sums[lane] += dy[lane] * x[lane];
                    }
                }
                if weight != 0.0 && !dx.is_empty() {
                    let dx = dx[seen..seen + length].iter_mut();
                    dx.zip(dy).for_each(|(dx, dy)| *dx += weight * dy);
                }
            });
            gradient.weights[entry] = sum(sums);
        }
    }
    gradient
}

fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        (0..width).for_each(|lane| lanes[lane] += lanes[lane + width]);
        width /= 2;
    }
    lanes[0]
}

/// The derivative of an activation; where it has a step, that of the line through its steps.
fn slope(activation: Activation, x: f32) -> f32 {
    let within = |inside: bool| f32::from(u8::from(inside));
    match activation {
        Activation::Relu => within(x > 0.0),
        Activation::Relu6 => within(x > 0.0 && x < 6.0),
        Activation::LeakyRelu { slope } => {
            if x < 0.0 {
                slope
            } else {
                1.0
            }
        }
        Activation::Clip { min, max } => within(x > min && x < max),
        Activation::Affine { scale, .. } => scale,
        Activation::Quantize { step, zero, low, high } => {
            let level = x / step + zero;
            within(level > low && level < high)
        }
        Activation::Tanh => {
            let y = activation.apply(x);
            1.0 - y * y
        }
        Activation::Sigmoid => {
            let y = activation.apply(x);
            y * (1.0 - y)
        }
        _ => {
            let apart = 2e-3 * (1.0 + x.abs());
            let (low, high) = (x - apart, x + apart);
            let found = (activation.apply(high) - activation.apply(low)) / (high - low);
            if found.is_finite() { found } else { 0.0 }
        }
    }
}

fn softmax_backward(y: &[f32], shape: Shape, dy: &[f32], dx: &mut [f32]) {
    let stride = shape.area() * LANES;
    for start in 0..stride {
        let at = |channel: usize| start + channel * stride;
        let mean: f32 = (0..shape.channels).map(|c| dy[at(c)] * y[at(c)]).sum();
        (0..shape.channels).for_each(|c| dx[at(c)] += y[at(c)] * (dy[at(c)] - mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Layer;
    use crate::network::describe::Description;
    use crate::prune::{PrunedLayer, csr};

    /// Numbers between -1 and 1.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    fn model(description: &str, shapes: &[(&str, &[usize])]) -> crate::prune::PrunedModel {
        let mut noise = Noise(9);
        let layers = shapes
            .iter()
            .map(|(name, shape)| Layer { name: (*name).to_owned(), shape: shape.to_vec() });
        let network = Description::from_json(description).unwrap().resolve(layers.collect());
        let layers = shapes.iter().map(|(_, shape)| {
            let (rows, cols) = (shape[0], shape[1..].iter().product::<usize>());
            let (mut starts, mut columns) = (vec![0], Vec::new());
            for _ in 0..rows {
                columns.extend((0..cols as u32).filter(|_| noise.next() > -0.3));
                starts.push(columns.len());
            }
            let weights = columns.iter().map(|_| noise.next()).collect();
            Ok(PrunedLayer {
                shape: shape.to_vec(),
                weights: csr(rows, cols, starts, columns, weights).unwrap(),
                log_sigma2: None,
                bias: Some((0..rows).map(|_| noise.next()).collect()),
                statistics: Default::default(),
            })
        });
        let layers: Vec<_> = layers.collect();
        crate::prune::PrunedModel::from_layers(network.unwrap(), layers).unwrap()
    }

    /// Central differences over every weight and bias.
    fn agrees(description: &str, shapes: &[(&str, &[usize])]) {
        let model = model(description, shapes);
        let network = model.network().clone();
        check(&network).unwrap();
        let mut net = Propagation::new(&network, &model).unwrap();
        let mut noise = Noise(5);
        let raw: Vec<f32> = (0..net.elements() * LANES).map(|_| noise.next()).collect();
        let last = Source::Node(network.nodes.len() - 1);
        let values = net.forward(&raw);
        let factors: Vec<f32> = values.of(last).iter().map(|_| noise.next()).collect();
        let gradients = net.backward(&values, factors.clone());
        let function = |net: &Propagation<'_>| -> f64 {
            let values = net.forward(&raw);
            let terms = values.of(last).iter().zip(&factors);
            terms.map(|(y, f)| f64::from(*y) * f64::from(*f)).sum()
        };
        let followed = followed(&network);
        let mut compared = 0;
        for (layer, gradient) in gradients.iter().enumerate().filter(|(l, _)| followed[*l]) {
            let found = gradient.weights.iter().chain(&gradient.bias);
            for (at, &found) in found.enumerate() {
                let mut moved = |by: f32| {
                    let Weights { values, bias, .. } = &mut net.weights[layer];
                    let place = values.iter_mut().chain(bias.iter_mut().flatten()).nth(at);
                    *place.unwrap() += by;
                    function(&net)
                };
                let by = 4e-3;
                let (high, low) = (moved(by), moved(-2.0 * by));
                moved(by);
                let expected = (high - low) / f64::from(2.0 * by);
                let close = (f64::from(found) - expected).abs() < 0.02 * (0.5 + expected.abs());
                assert!(close, "{layer} {at}: {found} for {expected} in {description}");
                compared += 1;
            }
        }
        assert!(compared > 20, "{description}");
    }

    #[test]
    fn gradients_are_those_of_differences() {
        agrees(
            r#"{"version": 1, "input": {"shape": [2, 7, 6]},
                "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 0, 2, 1]}, {"op": "tanh"},
                          {"op": "max_pool2d", "kernel": [2, 2], "stride": [2, 1]},
                          {"op": "conv2d", "layer": "b", "stride": [1, 2], "groups": 2}, {"op": "silu"},
                          {"op": "flatten"}, {"op": "linear", "layer": "c"}, {"op": "softmax"}]}"#,
            &[("a", &[4, 2, 3, 2]), ("b", &[6, 2, 2, 2]), ("c", &[3, 36])],
        );
        agrees(
            r#"{"version": 1, "input": {"shape": [2, 5, 5]},
                "nodes": [{"op": "conv2d", "layer": "a", "padding": [1, 1, 1, 1], "name": "x"},
                          {"op": "sigmoid", "name": "y"},
                          {"op": "mul", "inputs": ["x", "y"], "name": "m"},
                          {"op": "conv2d", "layer": "b", "name": "z"}, {"op": "tanh", "name": "t"},
                          {"op": "avg_pool2d", "kernel": [2, 2], "stride": [1, 1], "padding": [0, 1, 1, 0],
                           "count_include_pad": false, "name": "p"},
                          {"op": "add", "inputs": ["p", "t"], "name": "s"},
                          {"op": "concat", "inputs": ["m", "s"]}, {"op": "global_avg_pool2d"},
                          {"op": "linear", "layer": "c"}]}"#,
            &[("a", &[3, 2, 3, 3]), ("b", &[2, 3, 1, 1]), ("c", &[3, 5])],
        );
        agrees(
            r#"{"version": 1, "input": {"shape": [3, 4, 4]},
                "nodes": [{"op": "conv_transpose2d", "layer": "a", "stride": [2, 2], "cut": [1, 0, 0, 1]},
                          {"op": "elu"}, {"op": "flatten"}, {"op": "linear", "layer": "b"},
                          {"op": "hard_swish"}, {"op": "linear", "layer": "c"}]}"#,
            &[("a", &[2, 3, 3, 3]), ("b", &[4, 128]), ("c", &[3, 4])],
        );
    }
}
