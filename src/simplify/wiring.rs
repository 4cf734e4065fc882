//! Which layers read the units of which, and what happens to their values on the way.

use crate::network::{Activation, Network, Op, Shape, Source};

const FEEDS_OUTPUT: &str = "feeds the output";
const FEEDS_SUM: &str = "feeds a sum";
const FEEDS_PRODUCT: &str = "feeds a product";
const FEEDS_SOFTMAX: &str = "feeds a softmax";
const FEEDS_NORM: &str = "feeds a normalization over its units";
const FEEDS_REDUCTION: &str = "feeds a reduction";
const FEEDS_FUNCTION: &str = "feeds a function of several values";
const FEEDS_MATRIX_PRODUCT: &str = "feeds a product of matrices";
const FEEDS_REARRANGEMENT: &str = "feeds a rearrangement";
const FEEDS_BORDER: &str = "feeds a border";
const FEEDS_RESIZE: &str = "feeds an interpolation";
const TRANSPOSED: &str = "transposed convolution";
const CONSTANT: &str = "constant value";
const EMBEDDING: &str = "rows of a table";
const FIRST_STATES: &str = "recurrent cell with first states";
const CELL_INPUTS: &str = "recurrent cell whose inputs are others', too";
const FEEDS_RECURRENT: &str = "feeds a recurrent cell";
const GROUPS: &str = "grouped convolution";
const SHARED: &str = "layer used twice";

/// A layer that reads another's units.
pub(super) struct Reader {
    pub(super) layer: usize,
    /// Columns of the reading layer for each unit, side by side.
    pub(super) columns: usize,
    /// Columns before those of the first unit.
    pub(super) first: usize,
    /// What happens to a unit's value on the way.
    pub(super) path: Vec<Step>,
}

#[derive(Clone, Copy)]
pub(super) enum Step {
    Apply(Activation),
    /// Zeros are mixed in at the border: only zero stays constant.
    ZeroBorder,
}

/// For each node with weights, the layers that read its units, or why they cannot be told apart.
pub(super) struct Wiring {
    pub(super) readers: Vec<Result<Vec<Reader>, &'static str>>,
    /// For each recurrent cell, the layer of its inputs.
    pub(super) inputs_of_cell: Vec<Option<usize>>,
}

impl Wiring {
    pub(super) fn new(network: &Network, shapes: &[Shape]) -> Self {
        let walk = Walk::new(network, shapes);
        let readers = (0..network.nodes.len()).map(|node| walk.readers(node)).collect();
        let cell = |node: usize| match network.nodes[node].op {
            Op::Recurrent { .. } => walk.inputs_of_cell(node).ok(),
            _ => None,
        };
        let inputs_of_cell = (0..network.nodes.len()).map(cell).collect();
        Self { readers, inputs_of_cell }
    }
}

/// A network to be walked forwards.
struct Walk<'a> {
    network: &'a Network,
    shapes: &'a [Shape],
    /// For each node, those that read it.
    next: Vec<Vec<usize>>,
    /// For each layer, how many nodes use it.
    uses: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(network: &'a Network, shapes: &'a [Shape]) -> Self {
        let mut next = vec![Vec::new(); network.nodes.len()];
        let mut uses = vec![0; network.layers.len()];
        for (index, node) in network.nodes.iter().enumerate() {
            node.op.layer().into_iter().for_each(|layer| uses[layer] += 1);
            for source in &node.inputs {
                if let Source::Node(from) = *source
                    && next[from].last() != Some(&index)
                {
                    next[from].push(index);
                }
            }
        }
        Self { network, shapes, next, uses }
    }

    /// The layers that read the units of a node with weights, or why they cannot be told apart.
    fn readers(&self, node: usize) -> Result<Vec<Reader>, &'static str> {
        match self.network.nodes[node].op {
            Op::Linear { layer } | Op::Conv2d { layer, .. } if self.uses[layer] > 1 => {
                return Err(SHARED);
            }
            Op::Conv2d { groups, .. } if groups > 1 => return Err(GROUPS),
            Op::ConvTranspose2d { .. } => return Err(TRANSPOSED),
            Op::Constant { .. } => return Err(CONSTANT),
            Op::Embedding { layer } | Op::Recurrent { layer, .. } if self.uses[layer] > 1 => {
                return Err(SHARED);
            }
            Op::Recurrent { .. } => self.inputs_of_cell(node).map(|_| ())?,
            Op::Linear { .. } | Op::Conv2d { .. } | Op::Embedding { .. } => {}
            _ => return Ok(Vec::new()),
        }
        let mut found = Vec::new();
        self.follow(node, [1, 0], &mut Vec::new(), &mut found)?;
        match found.iter().any(|reader| self.uses[reader.layer] > 1) {
            true => Err(SHARED),
            false => Ok(found),
        }
    }

    /// The layer of a cell's inputs, whose rows are the gates of its units as those of its own.
    fn inputs_of_cell(&self, node: usize) -> Result<usize, &'static str> {
        let &[Source::Node(from)] = &self.network.nodes[node].inputs[..] else {
            return Err(FIRST_STATES);
        };
        match self.network.nodes[from].op {
            Op::Conv2d { layer, groups: 1, .. }
                if self.uses[layer] == 1 && self.next[from] == [node] =>
            {
                Ok(layer)
            }
            _ => Err(CELL_INPUTS),
        }
    }

    /// Walks forward from a node's output to every layer that reads it: so many of its channels are each unit's,
    /// and so many stand before them.
    fn follow(
        &self,
        from: usize,
        [columns, first]: [usize; 2],
        path: &mut Vec<Step>,
        found: &mut Vec<Reader>,
    ) -> Result<(), &'static str> {
        if from + 1 == self.network.nodes.len() {
            return Err(FEEDS_OUTPUT);
        }
        for &index in &self.next[from] {
            let steps = path.len();
            let mut onward = |channels: [usize; 2], step: Option<Step>, found: &mut Vec<Reader>| {
                path.extend(step);
                let result = self.follow(index, channels, path, found);
                path.truncate(steps);
                result
            };
            let same = [columns, first];
            match self.network.nodes[index].op {
                Op::Linear { layer } => {
                    found.push(Reader { layer, columns, first, path: path.clone() });
                }
                Op::Conv2d { groups: 2.., .. } => return Err(GROUPS),
                Op::Conv2d { layer, padding, .. } => {
                    let [_, _, height, width] = self.network.layers[layer].shape[..] else {
                        return Err(GROUPS);
                    };
                    let border = (padding != [0; 4]).then_some(Step::ZeroBorder);
                    let path = path.iter().copied().chain(border).collect();
                    let [columns, first] = same.map(|channels| channels * height * width);
                    found.push(Reader { layer, columns, first, path });
                }
                Op::Activation(activation) => {
                    onward(same, Some(Step::Apply(activation)), found)?;
                }
                Op::AvgPool2d { window, count_include_pad: true } if window.padding != [0; 4] => {
                    onward(same, Some(Step::ZeroBorder), found)?;
                }
                Op::MaxPool2d(_) | Op::AvgPool2d { .. } | Op::GlobalAvgPool2d => {
                    onward(same, None, found)?;
                }
                Op::Flatten => {
                    onward(same.map(|channels| channels * self.shapes[from].area()), None, found)?;
                }
                Op::Add => return Err(FEEDS_SUM),
                Op::Mul => return Err(FEEDS_PRODUCT),
                Op::Concat => {
                    let mut before = 0;
                    for source in &self.network.nodes[index].inputs {
                        if *source == Source::Node(from) {
                            onward([columns, first + before], None, found)?;
                        }
                        before += match *source {
                            Source::Input => self.network.input.shape.channels,
                            Source::Node(at) => self.shapes[at].channels,
                        };
                    }
                }
                Op::Softmax | Op::LogSoftmax => return Err(FEEDS_SOFTMAX),
                Op::LayerNorm { .. } => return Err(FEEDS_NORM),
                Op::Reduce(_) => return Err(FEEDS_REDUCTION),
                Op::Binary(_) | Op::Where => return Err(FEEDS_FUNCTION),
                Op::MatMul => return Err(FEEDS_MATRIX_PRODUCT),
                Op::Rearrange(_) => return Err(FEEDS_REARRANGEMENT),
                Op::Pad(_) => return Err(FEEDS_BORDER),
                Op::Resize(_) => return Err(FEEDS_RESIZE),
                Op::ConvTranspose2d { .. } => return Err(TRANSPOSED),
                Op::Recurrent { .. } => return Err(FEEDS_RECURRENT),
                Op::Embedding { .. } => return Err(EMBEDDING),
                // It reads nothing.
                Op::Constant { .. } => return Err(CONSTANT),
            }
        }
        Ok(())
    }
}

/// A constant's value at the end of a path, if it is one there.
pub(super) fn carry(constant: f64, path: &[Step]) -> Option<f64> {
    path.iter().try_fold(constant, |value, step| match step {
        Step::Apply(activation) => Some(activation.apply_f64(value)),
        Step::ZeroBorder => (value == 0.0).then_some(value),
    })
}
