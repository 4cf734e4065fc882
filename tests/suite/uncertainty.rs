//! Inference under the posterior, against engines that know nothing of it.

use svdo::engine::uncertain::{UncertainEngine, Uncertainty};
use svdo::engine::{Engine, Isa, Options};
use svdo::model::{LayerVariances, LayerWeights, Model, Pattern, RankOne, Values, Variances};
use svdo::network::{Activation, Input, Layer, Network, Node, Op, Shape, Source, Window};

/// Numbers from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    /// A layer of about this share of weights.
    fn layer(&mut self, shape: &[usize], share: f32) -> (LayerWeights, LayerVariances) {
        let (rows, cols): (_, usize) = (shape[0], shape[1..].iter().product());
        let mut pattern = Pattern::with_columns(cols);
        let scale = 1.5 / (share * cols as f32).sqrt();
        for _ in 0..rows {
            let row: Vec<u32> =
                (0..cols as u32).filter(|_| self.next() < 2.0 * share - 1.0).collect();
            pattern.push_row(row).unwrap();
        }
        let values: Vec<f32> = (0..pattern.len()).map(|_| scale * self.next()).collect();
        let weights = (0..pattern.len()).map(|_| (0.3 * scale * self.next()).powi(2)).collect();
        let bias = Some(Values::F32(self.many(rows).iter().map(|b| 0.2 * b).collect()));
        let variances = LayerVariances { weights, ..LayerVariances::default() };
        (LayerWeights { pattern, values: Values::F32(values), bias }, variances)
    }
}

/// A network whose nodes follow each other, or read the nodes of these numbers.
fn model(
    random: &mut Random,
    input: Shape,
    layers: &[(&[usize], f32)],
    nodes: Vec<(Op, Option<Vec<usize>>)>,
) -> (Model, Variances) {
    let node = |(at, (op, inputs)): (usize, (Op, Option<Vec<usize>>))| {
        let before = if at == 0 { Source::Input } else { Source::Node(at - 1) };
        let inputs = inputs.map(|all| all.into_iter().map(Source::Node).collect());
        Node { name: format!("n{at}"), op, inputs: inputs.unwrap_or_else(|| vec![before]) }
    };
    let network = Network {
        input: Input::plain(input),
        layers: layers
            .iter()
            .enumerate()
            .map(|(at, (shape, _))| Layer { name: format!("l{at}"), shape: shape.to_vec() })
            .collect(),
        nodes: nodes.into_iter().enumerate().map(node).collect(),
        time: None,
    };
    let made = layers.iter().map(|(shape, share)| random.layer(shape, *share));
    let (weights, variances) = made.unzip();
    (Model { network, threshold: None, weights }, Variances { layers: variances })
}

fn conv(layer: usize, stride: usize, padding: usize, groups: usize) -> Op {
    Op::Conv2d { layer, stride: [stride; 2], padding: [padding; 4], groups }
}

fn window(side: usize, stride: usize, padding: usize) -> Window {
    Window { kernel: [side; 2], stride: [stride; 2], padding: [padding; 4] }
}

const RELU: Op = Op::Activation(Activation::Relu);

/// Rows of an uncertain engine.
fn rows(
    model: &Model,
    variances: &Variances,
    how: Uncertainty,
    x: &[f32],
    options: Options,
    isa: Isa,
) -> (Vec<f32>, usize) {
    let engine = UncertainEngine::new(model, variances, how, isa, options).unwrap();
    let samples = x.len() / engine.input_shape().elements().unwrap();
    let mut out = vec![f32::NAN; samples * engine.row()];
    engine.infer(x, &mut out).unwrap();
    (out, engine.row())
}

/// Means and variances of outputs, one row after the other.
fn moments(model: &Model, variances: &Variances, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (out, row) =
        rows(model, variances, Uncertainty::Moments, x, Options::default(), Isa::best());
    let halves = out.chunks(row).map(|row| row.split_at(row.len() / 2));
    let (means, spreads): (Vec<_>, Vec<_>) = halves.unzip();
    (means.concat(), spreads.concat())
}

/// The same by samples.
fn sampled(
    model: &Model,
    variances: &Variances,
    samples: usize,
    x: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let how = Uncertainty::MonteCarlo { samples, seed: 5 };
    let (out, row) = rows(model, variances, how, x, Options::default(), Isa::best());
    let outs = row / samples;
    let (mut means, mut spreads) = (Vec::new(), Vec::new());
    for row in out.chunks(row) {
        for unit in 0..outs {
            let of = || row.iter().skip(unit).step_by(outs).map(|&v| f64::from(v));
            let mean = of().sum::<f64>() / samples as f64;
            let square = of().map(|v| (v - mean).powi(2)).sum::<f64>() / (samples - 1) as f64;
            means.push(mean as f32);
            spreads.push(square as f32);
        }
    }
    (means, spreads)
}

fn plain(model: &Model, x: &[f32]) -> Vec<f32> {
    let engine = Engine::new(model, Isa::best()).unwrap();
    let (ins, outs) =
        (engine.input_shape().elements().unwrap(), engine.output_shape().elements().unwrap());
    let mut out = vec![0.0; x.len() / ins * outs];
    engine.infer(x, &mut out).unwrap();
    out
}

/// A model of one product, its weights as a function of the means and variances of another's.
fn product(
    model: &Model,
    variances: &Variances,
    node: usize,
    input: Shape,
    of: impl Fn(f32, f32) -> f32,
) -> Model {
    let op = model.network.nodes[node].op;
    let layer = op.layer().unwrap();
    let weights = &model.weights[layer];
    let pairs = weights.values.to_f32().into_iter().zip(&variances.layers[layer].weights);
    let values = Values::F32(pairs.map(|(w, s)| of(w, *s)).collect());
    let own = match op {
        Op::Conv2d { stride, padding, groups, .. } => {
            Op::Conv2d { layer: 0, stride, padding, groups }
        }
        _ => Op::Linear { layer: 0 },
    };
    let network = Network {
        input: Input::plain(input),
        layers: vec![model.network.layers[layer].clone()],
        nodes: vec![Node { name: String::new(), op: own, inputs: vec![Source::Input] }],
        time: None,
    };
    let weights = LayerWeights { pattern: weights.pattern.clone(), values, bias: None };
    Model { network, threshold: None, weights: vec![weights] }
}

fn near(found: &[f32], exact: &[f32], tolerance: f32) {
    assert_eq!(found.len(), exact.len());
    let most = exact.iter().fold(0f32, |most, v| most.max(v.abs()));
    for (at, (a, b)) in found.iter().zip(exact).enumerate() {
        assert!((a - b).abs() <= tolerance * most, "{at}: {a}, expected {b} of {most}");
    }
}

fn squares(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x * x).collect()
}

/// Two operations and the shapes of their weights, and that of the input.
type Two = (Op, &'static [usize], Op, &'static [usize], Shape);

/// Two products in a row, of every kind: the variance of the first is a product of squares, that of the second
/// three, by engines that know nothing of it.
#[test]
fn variances_of_products_are_products() {
    let mut random = Random(3);
    let map = Shape::new(4, 9, 7);
    let shapes: [Two; 5] = [
        (Op::Linear { layer: 0 }, &[40, 60], Op::Linear { layer: 1 }, &[11, 40], Shape::vector(60)),
        (conv(0, 1, 1, 1), &[6, 4, 3, 3], conv(1, 1, 2, 1), &[5, 6, 3, 3], map),
        (conv(0, 2, 1, 1), &[6, 4, 3, 3], conv(1, 2, 0, 1), &[5, 6, 3, 2], map),
        (conv(0, 1, 0, 2), &[6, 2, 2, 3], conv(1, 2, 1, 3), &[9, 2, 3, 3], map),
        (conv(0, 1, 1, 4), &[4, 1, 3, 3], conv(1, 1, 0, 1), &[8, 4, 1, 1], map),
    ];
    for share in [0.15, 0.9] {
        for (first, a, second, b, input) in shapes {
            let nodes = vec![(first, None), (second, None)];
            let (model, variances) = model(&mut random, input, &[(a, share), (b, share)], nodes);
            for samples in [1, 2, 8, 21, 33] {
                let x = random.many(samples * input.elements().unwrap());
                let (m, v) = moments(&model, &variances, &x);
                let between = model.network.shapes().unwrap()[0];
                let with = |node, shape, of: fn(f32, f32) -> f32, x: &[f32]| {
                    plain(&product(&model, &variances, node, shape, of), x)
                };
                let mut head = model.clone();
                head.network.nodes.truncate(1);
                let hidden = plain(&head, &x);
                let spread = with(0, input, |_, s| s, &squares(&x));
                let mut exact = with(1, between, |w, s| w * w + s, &spread);
                let own = with(1, between, |_, s| s, &squares(&hidden));
                exact.iter_mut().zip(own).for_each(|(a, b)| *a += b);
                near(&m, &plain(&model, &x), 1e-5);
                // Rows of maps that are long leave out 4 % of their sums.
                let long = b.len() == 4 && share * b[1..].iter().product::<usize>() as f32 > 40.0;
                near(&v, &exact, if long { 0.04 } else { 1e-5 });
            }
        }
    }
}

/// Everything that has a rule.
fn varied(random: &mut Random) -> (Model, Variances, Shape) {
    let input = Shape::new(2, 12, 12);
    let layers: [(&[usize], f32); 5] = [
        (&[8, 2, 3, 3], 0.6),
        (&[8, 8, 3, 3], 0.3),
        (&[6, 8, 1, 1], 0.5),
        (&[12, 126], 0.3),
        (&[5, 12], 0.6),
    ];
    let average = Op::AvgPool2d { window: window(2, 2, 1), count_include_pad: false };
    let nodes = vec![
        (conv(0, 1, 1, 1), None),
        (Op::MaxPool2d(window(2, 2, 0)), None),
        (Op::Activation(Activation::Relu), None),
        (conv(1, 1, 1, 1), None),
        (Op::Add, Some(vec![3, 2])),
        (Op::Activation(Activation::LeakyRelu { slope: 0.1 }), None),
        (average, None),
        (conv(2, 1, 0, 1), None),
        (Op::Concat, Some(vec![7, 6])),
        (Op::Flatten, None),
        (Op::Linear { layer: 3 }, None),
        (Op::Activation(Activation::Tanh), None),
        (Op::Linear { layer: 4 }, None),
        (Op::Softmax, None),
    ];
    let mut layers = layers;
    let flat: &[usize] = &[12, 14 * 16];
    layers[3] = (flat, 0.3);
    let (model, variances) = model(random, input, &layers, nodes);
    (model, variances, input)
}

#[test]
fn moments_are_those_of_samples() {
    let mut random = Random(11);
    let (model, variances, input) = varied(&mut random);
    let x = random.many(9 * input.elements().unwrap());
    let (m, v) = moments(&model, &variances, &x);
    let (means, spreads) = sampled(&model, &variances, 4000, &x);
    near(&m, &means, 0.1);
    let ratio = v.iter().sum::<f32>() / spreads.iter().sum::<f32>();
    assert!((0.85..1.15).contains(&ratio), "{ratio}");
    near(&v, &spreads, 0.4);
    // One noisy layer, and what is linear behind it: exact but for the samples.
    let mut only_first = variances.clone();
    only_first.layers[1..].iter_mut().for_each(|layer| *layer = LayerVariances::default());
    let mut linear = model.clone();
    let nodes = &mut linear.network.nodes;
    nodes.pop();
    for node in nodes.iter_mut() {
        match node.op {
            Op::MaxPool2d(window) => {
                node.op = Op::AvgPool2d { window, count_include_pad: true };
            }
            Op::Activation(_) => {
                node.op = Op::Activation(Activation::Affine { scale: -0.7, shift: 0.1 });
            }
            _ => {}
        }
    }
    // A product mixes what it reads, which is then no longer independent; noise of one place is.
    nodes.truncate(3);
    nodes.push(Node { name: "g".into(), op: Op::GlobalAvgPool2d, inputs: vec![Source::Node(2)] });
    let (m, v) = moments(&linear, &only_first, &x);
    let (means, spreads) = sampled(&linear, &only_first, 4000, &x);
    near(&m, &means, 0.02);
    near(&v, &spreads, 0.1);
}

/// Behind two hidden layers, whose units share inputs, variances are those of samples for one input and for panels.
#[test]
fn variances_of_logits_know_that_units_share_inputs() {
    let mut random = Random(41);
    for then in [Activation::Relu, Activation::LeakyRelu { slope: 0.2 }, Activation::Tanh] {
        let layers: [(&[usize], f32); 3] = [(&[60, 50], 0.3), (&[40, 60], 0.3), (&[10, 40], 0.5)];
        let nodes = vec![
            (Op::Linear { layer: 0 }, None),
            (Op::Activation(then), None),
            (Op::Linear { layer: 1 }, None),
            (Op::Activation(then), None),
            (Op::Linear { layer: 2 }, None),
        ];
        let (model, mut variances) = model(&mut random, Shape::vector(50), &layers, nodes);
        // Most noise is the first layer's, which all later units share.
        variances.layers[1..]
            .iter_mut()
            .flat_map(|layer| &mut layer.weights)
            .for_each(|v| *v *= 0.2);
        let x = random.many(16 * 50);
        let (_, spreads) = sampled(&model, &variances, 6000, &x);
        let (_, together) = moments(&model, &variances, &x);
        let alone: Vec<f32> = x.chunks(50).flat_map(|x| moments(&model, &variances, x).1).collect();
        for v in [&together, &alone] {
            let total = v.iter().sum::<f32>() / spreads.iter().sum::<f32>();
            assert!((total - 1.0).abs() < 0.02, "{then:?}: {total}");
            near(v, &spreads, 0.08);
        }
        near(&together, &alone, 0.02);
    }
}

/// Two outputs of the same weights without noise of their own vary together: as classes they never disagree.
#[test]
fn predictions_know_that_logits_vary_together() {
    let mut random = Random(47);
    let layers: [(&[usize], f32); 3] = [(&[30, 20], 0.5), (&[24, 30], 0.5), (&[3, 24], 0.7)];
    let nodes = vec![
        (Op::Linear { layer: 0 }, None),
        (RELU, None),
        (Op::Linear { layer: 1 }, None),
        (RELU, None),
        (Op::Linear { layer: 2 }, None),
    ];
    let (mut model, mut variances) = model(&mut random, Shape::vector(20), &layers, nodes);
    let head = &mut model.weights[2];
    let row: Vec<u32> = head.pattern.row(0).to_vec();
    let own: Vec<f32> = head.values.to_f32()[..row.len()].to_vec();
    let mut pattern = Pattern::with_columns(24);
    (0..3).for_each(|_| pattern.push_row(row.iter().copied()).unwrap());
    let third = own.iter().map(|w| -w);
    let values = own.iter().chain(&own).copied().chain(third).collect();
    *head = LayerWeights { pattern, values: Values::F32(values), bias: None };
    variances.layers[2].weights = vec![0.0; 3 * row.len()];
    variances.layers[..2].iter_mut().flat_map(|layer| &mut layer.weights).for_each(|v| *v *= 4.0);
    let x = random.many(12 * 20);
    let predict = |how, x: &[f32]| {
        UncertainEngine::new(&model, &variances, how, Isa::best(), Options::default())
            .unwrap()
            .predict(x, 1)
            .unwrap()
    };
    let exact = predict(Uncertainty::MonteCarlo { samples: 4000, seed: 9 }, &x);
    let together = predict(Uncertainty::Moments, &x);
    let alone = x.chunks(20).flat_map(|x| predict(Uncertainty::Moments, x));
    for (found, exact) in together.into_iter().chain(alone).zip(exact.iter().cycle()) {
        let p = &found.probabilities;
        assert!((p[0] - p[1]).abs() < 0.01, "{p:?}");
        for (a, b) in p.iter().zip(&exact.probabilities) {
            assert!((a - b).abs() < 0.03, "{p:?}, by samples {:?}", exact.probabilities);
        }
        assert!((found.entropy - exact.entropy).abs() < 0.04);
        assert!((found.mutual_information - exact.mutual_information).abs() < 0.04);
    }
}

/// Of one input and of many, inputs side by side or samples, by one thread or several, and among more samples.
#[test]
fn samples_are_the_same_bits_however_they_are_run() {
    let mut random = Random(17);
    let (maps, variances, _) = varied(&mut random);
    // What comes before the first noise is read behind it, too.
    let mut late = variances.clone();
    late.layers[0] = LayerVariances::default();
    let layers: [(&[usize], f32); 2] = [(&[30, 50], 0.3), (&[5, 30], 0.5)];
    let nodes =
        vec![(Op::Linear { layer: 0 }, None), (RELU, None), (Op::Linear { layer: 1 }, None)];
    let (vectors, own) = model(&mut random, Shape::vector(50), &layers, nodes);
    for (model, variances) in [(&maps, &variances), (&maps, &late), (&vectors, &own)] {
        let ins = model.network.input.shape.elements().unwrap();
        let x = random.many(37 * ins);
        let threads = |threads| Options { threads, ..Options::default() };
        for isa in Isa::supported() {
            let how = Uncertainty::MonteCarlo { samples: 40, seed: 2 };
            let (most, longest) = rows(model, variances, how, &x, threads(1), isa);
            for samples in [40, 19, 5] {
                let how = Uncertainty::MonteCarlo { samples, seed: 2 };
                let (all, row) = rows(model, variances, how, &x, threads(1), isa);
                assert_eq!(all, rows(model, variances, how, &x, threads(3), isa).0, "{isa:?}");
                for count in [1, 3, 8, 20] {
                    let part = &x[..count * ins];
                    let options = Options { batch: Some(count), ..threads(2) };
                    let found = rows(model, variances, how, part, options, isa).0;
                    assert_eq!(found, all[..count * row], "{isa:?} {samples} {count}");
                }
                for (some, most) in all.chunks(row).zip(most.chunks(longest)) {
                    assert_eq!(*some, most[..row], "{isa:?} {samples}");
                }
                let other = Uncertainty::MonteCarlo { samples, seed: 3 };
                assert_ne!(all, rows(model, variances, other, &x, threads(1), isa).0);
            }
            let moments =
                |threads| rows(model, variances, Uncertainty::Moments, &x, threads, isa).0;
            assert_eq!(moments(threads(1)), moments(threads(3)), "{isa:?}");
        }
    }
}

#[test]
fn without_variances_every_way_is_the_engine() {
    let mut random = Random(23);
    let (mut model, variances, input) = varied(&mut random);
    let none = Variances { layers: vec![LayerVariances::default(); variances.layers.len()] };
    let zero = Variances {
        layers: variances
            .layers
            .iter()
            .map(|layer| LayerVariances {
                weights: vec![0.0; layer.weights.len()],
                ..Default::default()
            })
            .collect(),
    };
    let x = random.many(11 * input.elements().unwrap());
    for variances in [&none, &zero] {
        let (m, v) = moments(&model, variances, &x);
        let how = Uncertainty::MonteCarlo { samples: 2, seed: 2 };
        let (samples, row) = rows(&model, variances, how, &x, Options::default(), Isa::best());
        let mut logits = model.clone();
        logits.network.nodes.pop();
        let exact = plain(&logits, &x);
        near(&m, &exact, 1e-5);
        assert!(v.iter().all(|v| *v == 0.0));
        for (row, exact) in samples.chunks(row).zip(exact.chunks(5)) {
            near(&row[..5], exact, 1e-5);
            assert_eq!(row[..5], row[5..]);
        }
    }
    model.network.nodes[1].op = Op::Activation(Activation::Relu);
    assert!(
        UncertainEngine::new(&model, &none, Uncertainty::Moments, Isa::best(), Options::default())
            .is_err()
    );
}

#[test]
fn pruned_and_bias_variances_are_those_of_dense_ones() {
    let mut random = Random(29);
    let input = Shape::new(4, 6, 6);
    let nodes = vec![
        (conv(0, 1, 1, 2), None),
        (RELU, None),
        (conv(1, 2, 0, 1), None),
        (Op::Flatten, None),
        (Op::Linear { layer: 2 }, None),
    ];
    let layers: [(&[usize], f32); 3] =
        [(&[6, 2, 3, 3], 0.4), (&[4, 6, 2, 2], 0.4), (&[3, 36], 0.3)];
    let (model, mut variances) = model(&mut random, input, &layers, nodes);
    let mut dense = (model.clone(), variances.clone());
    for (at, layer) in variances.layers.iter_mut().enumerate() {
        let weights = &model.weights[at];
        let (rows, cols) = (weights.pattern.rows(), weights.pattern.cols());
        let rows = squares(&random.many(rows));
        let columns = squares(&random.many(cols)).iter().map(|v| 0.05 * v).collect();
        layer.bias = rows.iter().map(|v| 0.02 * v).collect();
        layer.pruned = Some(RankOne { rows, columns });
        let RankOne { rows, columns } = layer.pruned.as_ref().unwrap();
        // Weights of mean zero, and the variance of both.
        let mut pattern = Pattern::with_columns(cols);
        let (mut means, mut spreads) = (Vec::new(), Vec::new());
        let old = weights.values.to_f32();
        for (row, factor) in rows.iter().enumerate() {
            pattern.push_row(0..cols as u32).unwrap();
            for (column, other) in columns.iter().enumerate() {
                let kept = weights.pattern.row(row).binary_search(&(column as u32));
                let entry = kept.map(|at| weights.pattern.entries(row).start + at);
                means.push(entry.map_or(0.0, |entry| old[entry]));
                spreads.push(factor * other + entry.map_or(0.0, |entry| layer.weights[entry]));
            }
        }
        dense.0.weights[at] =
            LayerWeights { pattern, values: Values::F32(means), bias: weights.bias.clone() };
        dense.1.layers[at] =
            LayerVariances { weights: spreads, bias: layer.bias.clone(), pruned: None };
    }
    let x = random.many(9 * input.elements().unwrap());
    for samples in [1, 9] {
        let x = &x[..samples * input.elements().unwrap()];
        let (a, b) = (moments(&model, &variances, x), moments(&dense.0, &dense.1, x));
        near(&a.0, &b.0, 1e-5);
        near(&a.1, &b.1, 1e-5);
        let (a, b) = (sampled(&model, &variances, 6, x), sampled(&dense.0, &dense.1, 6, x));
        near(&a.0, &b.0, 1e-4);
        near(&a.1, &b.1, 1e-4);
    }
}

#[test]
fn what_has_no_rule_is_refused_by_name() {
    let mut random = Random(31);
    let layers: [(&[usize], f32); 2] = [(&[6, 6], 0.5), (&[4, 6], 0.5)];
    let nodes = vec![
        (Op::Linear { layer: 0 }, None),
        (Op::LayerNorm { eps: 1e-5, centered: true }, None),
        (Op::Linear { layer: 1 }, None),
    ];
    let (model, variances) = model(&mut random, Shape::vector(6), &layers, nodes);
    let new = |variances: &Variances, how| {
        UncertainEngine::new(&model, variances, how, Isa::best(), Options::default())
    };
    let error = new(&variances, Uncertainty::Moments).unwrap_err().to_string();
    assert!(error.contains("node 1 n1") && error.contains("sample instead: mc=64"), "{error}");
    assert!(new(&variances, Uncertainty::MonteCarlo { samples: 3, seed: 1 }).is_ok());
    // What is before the first noise is as ever.
    let mut late = variances.clone();
    late.layers[0] = LayerVariances::default();
    assert!(new(&late, Uncertainty::Moments).is_ok());
    let mut wrong = variances.clone();
    wrong.layers[1].weights.pop();
    let error = new(&wrong, Uncertainty::Moments).unwrap_err().to_string();
    assert!(error.contains("layer l1") && error.contains("expected"), "{error}");
    wrong.layers[1].weights.push(-1.0);
    assert!(new(&wrong, Uncertainty::Moments).unwrap_err().to_string().contains("is -1"));
}
