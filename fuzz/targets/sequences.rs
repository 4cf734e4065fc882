//! What networks over sequences have: tables of tokens, recurrent cells, attention as graphs spell it out.

use svdo::network::{
    Activation, Axis, Cell, Gate, Layer, Network, Node, Op, Recurrence, Shape, Source, View,
};

use super::choices::Choices;

const POINTWISE: ([usize; 2], [usize; 4]) = ([1, 1], [0; 4]);

/// A network to which nodes are added behind those that it has.
pub struct Sequences<'a> {
    pub network: &'a mut Network,
    /// Of the nodes that were there.
    pub shapes: &'a [Shape],
}

impl Sequences<'_> {
    fn shape(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.network.input.shape,
            Source::Node(node) => self.shapes[node],
        }
    }

    fn layer(&mut self, shape: &[usize]) -> usize {
        let number = self.network.layers.len();
        self.network.layers.push(Layer { name: format!("l{number}"), shape: shape.to_vec() });
        number
    }

    fn node(&mut self, op: Op, inputs: &[Source]) -> Source {
        let number = self.network.nodes.len();
        let name = format!("n{number}");
        self.network.nodes.push(Node { name, op, inputs: inputs.to_vec() });
        Source::Node(number)
    }

    fn rearranged(&mut self, source: Source, shape: Shape, axes: [(usize, usize); 3]) -> Source {
        let axes = axes.map(|(size, stride)| Axis { size, stride: stride as isize });
        self.node(Op::Rearrange(View::new(shape, 0, &axes).unwrap()), &[source])
    }

    /// The features of the network's input, which is token ids.
    pub fn embedding(&mut self, choices: &mut Choices<'_>) {
        let layer = self.layer(&[choices.up_to(12), choices.up_to(16)]);
        self.node(Op::Embedding { layer }, &[Source::Input]);
    }

    /// A layer of recurrent cells, its first states being earlier values that fit. What reads them may not
    /// be a map of one row.
    pub fn recurrent(&mut self, source: Source, choices: &mut Choices<'_>) {
        let cell = Cell::ALL[choices.below(4)];
        let mut recurrence = Recurrence::new(cell);
        if choices.flag() {
            // A gate without bounds makes what is chaotic or infinite.
            let gates = [Gate::Sigmoid, Gate::Tanh, Gate::HardSigmoid, Gate::Softsign];
            recurrence.functions = [0; 3].map(|_| Gate::ALL[choices.below(6)]);
            if cell != Cell::Rnn {
                recurrence.functions[0] = gates[choices.below(4)];
            }
            recurrence.functions[cell.functions()..].fill(Gate::Tanh);
            if recurrence.functions.contains(&Gate::HardSigmoid) && choices.flag() {
                recurrence.hard_sigmoid = [0.25, 0.375];
            }
        }
        recurrence.reverse = choices.below(3) == 0;
        let (units, features) = (choices.up_to(12), self.shape(source).channels);
        let rows = units * cell.gates();
        let (stride, padding) = POINTWISE;
        let layer = self.layer(&[rows, features, 1, 1]);
        let mut inputs =
            vec![self.node(Op::Conv2d { layer, stride, padding, groups: 1 }, &[source])];
        if choices.flag() {
            let fits = |shape: &Shape| *shape == Shape::vector(units);
            let states = (0..self.shapes.len()).filter(|&node| fits(&self.shapes[node]));
            inputs.extend(states.map(Source::Node).take(cell.states()));
        }
        let layer = self.layer(&[rows, units]);
        self.node(Op::Recurrent { layer, recurrence }, &inputs);
    }

    /// Scaled dot product attention over some heads; keys and values are of an earlier value that fits, or
    /// of the same.
    pub fn attention(&mut self, source: Source, choices: &mut Choices<'_>) {
        let shape = self.shape(source);
        let heads = [1, 2, 3, 4][choices.below(4)];
        let (features, steps) = (shape.channels / heads, shape.area());
        if features * heads != shape.channels || features == 0 {
            return;
        }
        let mut from = source;
        if choices.flag() {
            let fits = |&node: &usize| self.shapes[node].channels == shape.channels;
            from = (0..self.shapes.len()).find(fits).map_or(source, Source::Node);
        }
        let keys = self.shape(from).area();
        let [mut q, mut k, mut v] = [source, from, from];
        if choices.flag() {
            for value in [&mut q, &mut k, &mut v] {
                let (stride, padding) = POINTWISE;
                let layer = self.layer(&[shape.channels, shape.channels, 1, 1]);
                *value = self.node(Op::Conv2d { layer, stride, padding, groups: 1 }, &[*value]);
            }
        }
        let [h, d, t, s] = [heads, features, steps, keys];
        let q = self.rearranged(q, Shape::new(h, t, d), [(h, d * t), (t, 1), (d, t)]);
        let k = self.rearranged(k, Shape::new(h, d, s), [(h, d * s), (d, s), (s, 1)]);
        let v = self.rearranged(v, Shape::new(h, s, d), [(h, d * s), (s, 1), (d, s)]);
        let mut scores = self.node(Op::MatMul, &[q, k]);
        let how = choices.byte();
        if how & 1 == 0 {
            let scale = Activation::Affine { scale: (d as f32).sqrt().recip(), shift: 0.0 };
            scores = self.node(Op::Activation(scale), &[scores]);
        }
        if how & 2 != 0 {
            let layer = self.layer(&[h, 1, t, s]);
            let mask = self.node(Op::Constant { layer }, &[]);
            let inputs = if how & 4 == 0 { [scores, mask] } else { [mask, scores] };
            scores = self.node(Op::Add, &inputs);
        }
        let there = self.rearranged(scores, Shape::new(s, h, t), [(s, 1), (h, t * s), (t, s)]);
        let weights = self.node(Op::Softmax, &[there]);
        let back = self.rearranged(weights, Shape::new(h, t, s), [(h, t), (t, 1), (s, h * t)]);
        let mixed = self.node(Op::MatMul, &[back, v]);
        self.rearranged(mixed, Shape::new(h * d, 1, t), [(h, t * d), (d, 1), (t, d)]);
        if how & 8 != 0 {
            // What something else reads is no part of one step.
            self.node(Op::Flatten, &[scores]);
        }
    }
}
