//! Which networks run on parts of a sequence as on all of it, if their cells go on from where they were.

use super::{Network, Op, Shape, Source};
use crate::error::{Error, Result};

/// Where a value's steps lie: element `e` belongs to step `e / stride % steps`. None for a value that is the
/// same at every step.
type Steps = Option<usize>;

impl Network {
    /// Checks that steps are computed one by one: that the network run on parts of a sequence, its cells'
    /// states kept, gives the parts of what it gives for the whole.
    ///
    /// # Errors
    /// [`Error::Network`] names the first node that looks at several steps, or has no cell to keep.
    pub fn check_stream(&self) -> Result<()> {
        let shapes = self.shapes()?;
        if !self.nodes.iter().any(|node| matches!(node.op, Op::Recurrent { .. })) {
            return Err(Error::network(
                "there is no recurrent cell whose state a stream could keep",
            ));
        }
        // Steps are the columns; or, as graphs have them, the channels of `[steps, 1, features]`.
        let Shape { channels, height, width } = self.input.shape;
        let by_column = self.steps(&shapes, 1, width);
        match by_column {
            Err(_) if channels > 1 => self.steps(&shapes, height * width, channels).or(by_column),
            found => found,
        }
    }

    /// Follows `steps` steps through all nodes, which lie `stride` apart in the input.
    fn steps(&self, shapes: &[Shape], stride: usize, steps: usize) -> Result<()> {
        let mut found: Vec<Steps> = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let shape = |source: &Source| match *source {
                Source::Input => self.input.shape,
                Source::Node(at) => shapes[at],
            };
            let of = |source: &Source| match *source {
                Source::Input => Some(stride),
                Source::Node(at) => found[at],
            };
            let inputs: Vec<(Steps, Shape)> =
                node.inputs.iter().map(|source| (of(source), shape(source))).collect();
            let out = step_stride(node.op, &inputs, shapes[index], steps, &self.layers);
            let out = out.map_err(|reason| {
                let name = match node.label() {
                    "" => format!("node {index}"),
                    name => format!("node {index} ({name})"),
                };
                Error::network(format!("{name} {reason}, so the network cannot run as a stream"))
            })?;
            found.push(out);
        }
        match found.last() {
            Some(Some(_)) => Ok(()),
            _ => Err(Error::network(
                "the output has no steps, so the network cannot run as a stream",
            )),
        }
    }
}

/// Where the steps of an operation's output lie, or why it is not one of single steps.
fn step_stride(
    op: Op,
    inputs: &[(Steps, Shape)],
    out: Shape,
    steps: usize,
    layers: &[super::Layer],
) -> std::result::Result<Steps, &'static str> {
    const SEVERAL: &str = "reads several steps";
    // With a single step there is nothing else to be read, but for what lies around it.
    let first = inputs.iter().find_map(|(stride, shape)| stride.map(|stride| (stride, *shape)));
    let Some((stride, shape)) = first else {
        return match op {
            // It would go on from part to part where the whole has it once.
            Op::Recurrent { .. } => Err("is a cell over what has no steps"),
            _ if out.area() == 1 => Ok(None),
            // A constant for each step is another in each part.
            _ => Err("has values of its own for each step"),
        };
    };
    let aligned = inputs.iter().all(|(other, of)| match other {
        Some(other) => *other == stride && of.area() == shape.area(),
        None => of.area() == 1,
    });
    let among_positions = stride * steps <= shape.area() && aligned;
    let alone = |fine: bool, reason| if fine { Ok(Some(stride)) } else { Err(reason) };
    match op {
        Op::Activation(_) => Ok(Some(stride)),
        Op::Recurrent { recurrence, .. } if recurrence.reverse => {
            Err("is a cell that reads its sequence from the end")
        }
        Op::Recurrent { .. } if inputs.len() > 1 => Err("is a cell with first states"),
        Op::Recurrent { .. } => alone(stride == 1 && shape.width == steps, SEVERAL),
        Op::Conv2d { layer, stride: [1, 1], padding: [0, 0, 0, 0], .. } => {
            alone(layers[layer].shape[2..] == [1, 1] && among_positions, SEVERAL)
        }
        Op::Add
        | Op::Mul
        | Op::Binary(_)
        | Op::Where
        | Op::Concat
        | Op::Softmax
        | Op::LogSoftmax
        | Op::LayerNorm { .. }
        | Op::Reduce(_)
        | Op::Embedding { .. } => alone(among_positions, SEVERAL),
        Op::Linear { .. } => alone(steps == 1, SEVERAL),
        Op::Flatten => Ok(Some(stride)),
        Op::Rearrange(view) => {
            let mut after = 1;
            let mut whole = Vec::new();
            let mut found = None;
            for axis in view.axes().iter().rev() {
                if axis.size == steps && axis.stride == stride as isize {
                    found = Some(after);
                }
                after *= axis.size;
                whole.push((axis.stride, axis.size));
            }
            whole.retain(|(_, size)| *size != 1);
            whole.sort_unstable();
            let each_once = whole.iter().try_fold(1isize, |next, &(stride, size)| {
                (stride == next).then_some(next * size as isize)
            });
            let elements = (shape.channels * shape.area()) as isize;
            let all = view.offset == 0 && each_once == Some(elements);
            match (all, found) {
                (true, _) if steps == 1 => Ok(Some(1)),
                (true, Some(found)) => Ok(Some(found)),
                _ => Err("takes steps apart"),
            }
        }
        _ => Err(SEVERAL),
    }
}
