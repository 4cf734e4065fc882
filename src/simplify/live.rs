//! Which weights the outputs depend on where units cannot go one by one: a dead head of attention, a feature of a
//! residual stream that nothing reads any more. Walked backwards, element by element of each value, so that views and
//! products of matrices tell heads apart. What is dead loses its weights and its bias; shapes stay as they are.

use crate::error::Result;
use crate::network::{Network, Op, Shape, Source, View};

/// The elements of a value that count.
#[derive(Clone)]
enum Live {
    All,
    Some(Vec<bool>),
}

impl Live {
    fn new(elements: Vec<bool>) -> Self {
        if elements.contains(&false) { Self::Some(elements) } else { Self::All }
    }

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (all, Self::All) => *all = Self::All,
            (Self::Some(own), Self::Some(other)) => {
                own.iter_mut().zip(other).for_each(|(own, other)| *own |= other);
            }
        }
    }

    /// For each channel of a value of a shape whether one of its elements counts.
    fn channels(&self, shape: Shape) -> Vec<bool> {
        match self {
            Self::All => vec![true; shape.channels],
            Self::Some(live) => live.chunks(shape.area()).map(|map| map.contains(&true)).collect(),
        }
    }

    /// A value of which whole channels count.
    fn of_channels(channels: &[bool], shape: Shape) -> Self {
        Self::new(
            channels.iter().flat_map(|&live| std::iter::repeat_n(live, shape.area())).collect(),
        )
    }
}

/// The columns in which those rows of a layer that are marked have weights, for each of so many groups of rows.
pub(super) type Reads<'a> = dyn Fn(usize, &[bool], usize) -> Result<Vec<bool>> + 'a;

/// For each layer the units and the inputs, rows and columns of its matrix, that count.
pub(super) struct LiveWeights {
    pub(super) rows: Vec<Vec<bool>>,
    pub(super) columns: Vec<Vec<bool>>,
}

impl LiveWeights {
    /// Of a network of any length, what counts for one of several lengths: indices are polynomials of the second
    /// degree in it.
    ///
    /// # Errors
    /// [`crate::Error::Network`] if the network does not fit its layers.
    pub(super) fn new(network: &Network, read: &Reads<'_>) -> Result<Self> {
        let of = |size: fn(&crate::network::Layer) -> usize| {
            network.layers.iter().map(|layer| vec![false; size(layer)]).collect()
        };
        let mut found = Self { rows: of(|layer| layer.rows()), columns: of(|layer| layer.cols()) };
        found.walk(network, read)?;
        shorter(network).iter().try_for_each(|shorter| found.walk(shorter, read))?;
        Ok(found)
    }

    /// Marks what counts.
    fn walk(&mut self, network: &Network, read: &Reads<'_>) -> Result<()> {
        let shapes = network.shapes()?;
        let shape = |source: Source| match source {
            Source::Input => network.input.shape,
            Source::Node(at) => shapes[at],
        };
        let mut waiting: Vec<Option<Live>> = vec![None; network.nodes.len()];
        if let Some(last) = waiting.last_mut() {
            *last = Some(Live::All);
        }
        for (at, node) in network.nodes.iter().enumerate().rev() {
            let Some(live) = waiting[at].take() else { continue };
            let out = shapes[at];
            if let Some(layer) = node.op.layer() {
                self.mark(&node.op, layer, &live.channels(out));
            }
            for (number, &source) in node.inputs.iter().enumerate() {
                let Source::Node(from) = source else { continue };
                let inputs: Vec<Shape> = node.inputs.iter().map(|&source| shape(source)).collect();
                let more = reached(&node.op, &live, out, &inputs, number, read)?;
                match &mut waiting[from] {
                    Some(live) => live.add(more),
                    none => *none = Some(more),
                }
            }
        }
        Ok(())
    }

    fn mark(&mut self, op: &Op, layer: usize, channels: &[bool]) {
        let (rows, columns) = (&mut self.rows[layer], &mut self.columns[layer]);
        match op {
            Op::Embedding { .. } => {
                rows.fill(true);
                columns.iter_mut().zip(channels).for_each(|(own, &live)| *own |= live);
            }
            Op::Linear { .. } | Op::Conv2d { .. } | Op::ConvTranspose2d { .. } => {
                columns.fill(true);
                rows.iter_mut().zip(channels).for_each(|(own, &live)| *own |= live);
            }
            _ => {
                rows.fill(true);
                columns.fill(true);
            }
        }
    }
}

/// The elements of one of a node's inputs that what counts of its output depends on.
fn reached(
    op: &Op,
    live: &Live,
    out: Shape,
    inputs: &[Shape],
    number: usize,
    read: &Reads<'_>,
) -> Result<Live> {
    let x = inputs[number];
    Ok(match (*op, live) {
        (Op::Linear { layer }, live) => Live::new(read(layer, &live.channels(out), 1)?),
        (Op::Conv2d { layer, groups, .. } | Op::ConvTranspose2d { layer, groups, .. }, live) => {
            let columns = read(layer, &live.channels(out), groups)?;
            let taps = columns.chunks(columns.len() / x.channels);
            let channels: Vec<bool> = taps.map(|taps| taps.contains(&true)).collect();
            Live::of_channels(&channels, x)
        }
        (Op::Rearrange(view), live) => rearranged(&view, live, x),
        (_, Live::All) => Live::All,
        (Op::Activation(_) | Op::Flatten, _) => live.clone(),
        (Op::Add | Op::Mul | Op::Binary(_) | Op::Where, _) if x == out => live.clone(),
        // Spread over the positions of the other.
        (Op::Mul | Op::Binary(_), _) if x.area() == 1 => Live::new(live.channels(out)),
        (Op::Concat, Live::Some(elements)) => {
            let before: usize = inputs[..number].iter().map(|x| x.channels * x.area()).sum();
            Live::new(elements[before..][..x.channels * x.area()].to_vec())
        }
        (Op::MaxPool2d(_) | Op::AvgPool2d { .. } | Op::GlobalAvgPool2d | Op::Resize(_), _) => {
            Live::of_channels(&live.channels(out), x)
        }
        (
            Op::Softmax | Op::LogSoftmax | Op::LayerNorm { .. } | Op::Reduce(_),
            Live::Some(elements),
        ) => {
            let mut positions = vec![false; out.area()];
            for channel in elements.chunks(out.area()) {
                positions.iter_mut().zip(channel).for_each(|(own, &live)| *own |= live);
            }
            Live::new(positions.repeat(x.channels))
        }
        (Op::MatMul, Live::Some(elements)) => Live::new(multiplied(elements, out, x, number == 0)),
        _ => Live::All,
    })
}

/// The elements that a view reads.
fn rearranged(view: &View, live: &Live, x: Shape) -> Live {
    if matches!(live, Live::All) && is_permutation(view, x) {
        return Live::All;
    }
    let mut read = vec![false; x.channels * x.area()];
    for at in 0..view.shape.channels * view.shape.area() {
        if matches!(live, Live::Some(live) if !live[at]) {
            continue;
        }
        read[view.source(at)] = true;
    }
    Live::new(read)
}

/// Whether a view has every element once.
fn is_permutation(view: &View, x: Shape) -> bool {
    let mut axes: Vec<_> = view.axes().iter().filter(|axis| axis.size > 1).collect();
    axes.sort_by_key(|axis| axis.stride);
    let dense = axes
        .iter()
        .try_fold(1, |dense, axis| (axis.stride == dense as isize).then_some(dense * axis.size));
    view.offset == 0 && dense == Some(x.channels * x.area())
}

/// The elements of the first or second factor that a product's elements are made of.
fn multiplied(live: &[bool], out: Shape, x: Shape, is_first: bool) -> Vec<bool> {
    let mut found = vec![false; x.channels * x.area()];
    for (live, found) in live.chunks(out.area()).zip(found.chunks_mut(x.area())) {
        for (row, live) in live.chunks(out.width).enumerate() {
            if is_first {
                found[row * x.width..][..x.width].fill(live.contains(&true));
            } else {
                for (column, _) in live.iter().enumerate().filter(|(_, live)| **live) {
                    found.iter_mut().skip(column).step_by(x.width).for_each(|found| *found = true);
                }
            }
        }
    }
    found
}

/// Of a network of free time two of other lengths, by which the polynomials of its sizes are told apart; of others
/// none.
pub(super) fn shorter(network: &Network) -> Vec<Network> {
    let longest = network.time.as_ref().map_or(0, |time| time.longest);
    (1..longest).filter_map(|steps| network.at(steps).ok()).take(2).collect()
}
