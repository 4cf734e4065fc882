//! Sequences of any length up to one: sizes of a network that follow from the length.
//!
//! A network with free time is described for its longest sequences, and beside it stand the sizes that are others
//! for shorter ones, each as a polynomial of the number of steps. [`Network::at`] makes an ordinary network of it.

use super::{Input, Network, Node, Op, Shape, View};
use crate::error::{Error, Result};

/// Steps that a sequence may have.
const MOST_STEPS: usize = 1 << 24;

/// Which sizes of a network follow from the length of its sequences. The network itself is that of the longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// Steps of the longest sequence.
    pub longest: usize,
    /// The sizes, in ascending order.
    pub sizes: Vec<FreeSize>,
}

/// A size that follows from the length of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FreeSize {
    /// What it is a size of.
    pub of: Place,
    /// Which of its sizes: of shapes in the order of their dimensions; of a `rearrange` the three of its shape, the
    /// offset, then size and stride of each axis; of a `pad` three before and three behind; of a pool its kernel and
    /// its stride.
    pub number: usize,
    /// What it is.
    pub size: Polynomial,
}

/// What has sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The only input.
    Input,
    /// One of several inputs.
    Part(usize),
    /// A layer that is a value, of which the first rows and columns count.
    Layer(usize),
    /// An operation.
    Node(usize),
}

/// `a + b T + c T^2` of the steps T of a sequence: the numbers a, b and c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Polynomial(pub [i64; 3]);

impl Polynomial {
    /// T itself.
    pub const STEPS: Self = Self([0, 1, 0]);

    /// Its value for so many steps; `None` beyond 64 bits.
    pub fn at(self, steps: usize) -> Option<i64> {
        let steps = i128::try_from(steps).ok()?;
        let value = self.0.iter().rev().try_fold(0i128, |value, &term| {
            value.checked_mul(steps)?.checked_add(i128::from(term))
        })?;
        i64::try_from(value).ok()
    }
}

impl Time {
    /// Refuses a longest sequence that is none.
    pub(super) fn check_longest(&self) -> Result<()> {
        match self.longest {
            1..=MOST_STEPS => Ok(()),
            longest => Err(Error::network(format!(
                "its longest sequence has {longest} steps, 1 to {MOST_STEPS} are understood"
            ))),
        }
    }

    /// Refuses a length that no sequence may have.
    ///
    /// # Errors
    /// [`Error::Data`] for 0 steps, and more than the longest.
    pub fn check(&self, steps: usize) -> Result<()> {
        match steps {
            0 => Err(Error::data("a sequence of no steps")),
            _ if steps > self.longest => Err(Error::data(format!(
                "a sequence of {steps} steps, the network takes {} at most",
                self.longest
            ))),
            _ => Ok(()),
        }
    }
}

impl Time {
    /// What sequences of so many steps are, given what the longest are.
    ///
    /// # Errors
    /// As [`Time::check`].
    pub fn input(&self, longest: &Input, steps: usize) -> Result<Input> {
        self.check(steps)?;
        let mut input = longest.clone();
        for FreeSize { of, number, .. } in &self.sizes {
            let shape = match *of {
                Place::Input => Some(&mut input.shape),
                Place::Part(part) => input.parts.get_mut(part).map(|part| &mut part.shape),
                Place::Layer(_) | Place::Node(_) => None,
            };
            // Free sizes of an input are its steps.
            let mut set = |at, size| Some(if at == *number { steps as i64 } else { size });
            shape.and_then(|shape| each_size_of_shape(shape, &mut set));
        }
        match input.parts.is_empty() {
            true => Ok(input),
            false => Input::of_parts(input.parts),
        }
    }
}

impl Network {
    /// The network for sequences of so many steps, an ordinary one. Layers that are values have the shapes of
    /// what counts of them ([`Model::at`](crate::model::Model::at) cuts their weights).
    ///
    /// # Errors
    /// [`Error::Data`] for a length that no sequence may have; [`Error::Network`] if the network has no free
    /// time, or cannot be run at that length.
    pub fn at(&self, steps: usize) -> Result<Self> {
        let time = self
            .time
            .as_ref()
            .ok_or_else(|| Error::network("its input has one size: there is no free time"))?;
        time.check(steps)?;
        let short = |problem: &dyn std::fmt::Display| {
            Error::data(format!("a sequence of {steps} steps cannot be run: {problem}"))
        };
        let network = self.instance(steps).ok_or_else(|| short(&"its sizes are no numbers"))?;
        network.shapes().map_err(|e| short(&e))?;
        Ok(network)
    }

    /// The same without a look at whether it fits; `None` where a size is none.
    pub(crate) fn instance(&self, steps: usize) -> Option<Self> {
        let mut network = self.clone();
        let time = network.time.take()?;
        for FreeSize { of, number, size } in time.sizes {
            let value = size.at(steps)?;
            let mut found = false;
            network.each_size(of, &mut |at, old| {
                found |= at == number;
                Some(if at == number { value } else { old })
            })?;
            found.then_some(())?;
        }
        if !network.input.parts.is_empty() {
            let Input { parts, .. } = &network.input;
            network.input.shape = Input::of_parts(parts.clone()).ok()?.shape;
        }
        // What a view promises.
        let whole = |node: &Node| match node.op {
            Op::Rearrange(view) => View::new(view.shape, view.offset, view.axes()) == Some(view),
            _ => true,
        };
        network.nodes.iter().all(whole).then_some(network)
    }

    /// Gives each size of something to `change`, with its number, and takes what that makes of it; `None` where
    /// that is nothing, or no size, or there is no such thing.
    pub(super) fn each_size(&mut self, of: Place, change: Change<'_>) -> Option<()> {
        match of {
            Place::Input => each_size_of_shape(&mut self.input.shape, change),
            Place::Part(part) => {
                each_size_of_shape(&mut self.input.parts.get_mut(part)?.shape, change)
            }
            Place::Layer(layer) => each_of(&mut self.layers.get_mut(layer)?.shape, change),
            Place::Node(node) => each_size_of(&mut self.nodes.get_mut(node)?.op, change),
        }
    }

    /// Checks that the sizes that are free are there, and are those of the network at its longest.
    pub(super) fn check_time(&self) -> Result<()> {
        let Some(time) = &self.time else { return Ok(()) };
        let wrong = |problem: &str| Err(Error::network(format!("free time: {problem}")));
        time.check_longest()?;
        let ascending =
            |pair: &[FreeSize]| (pair[0].of, pair[0].number) < (pair[1].of, pair[1].number);
        if !time.sizes.windows(2).all(ascending) {
            return wrong("its sizes are out of order");
        }
        let several = !self.input.parts.is_empty();
        let of_input = |size: &&FreeSize| matches!(size.of, Place::Input | Place::Part(_));
        let mut of_input = time.sizes.iter().filter(of_input).peekable();
        if of_input.peek().is_none() {
            return wrong("no size of the input is that of its steps");
        }
        if of_input.any(|s| s.size != Polynomial::STEPS || (s.of == Place::Input) == several) {
            return wrong("a size of the input is another than its steps");
        }
        for size in &time.sizes {
            if let Place::Layer(layer) = size.of
                && (size.number == 1 || !self.is_value(layer))
            {
                return wrong("weights of a layer that is no value follow from it");
            }
        }
        let same = |longest: Self| Self { time: self.time.clone(), ..longest } == *self;
        match self.instance(time.longest).is_some_and(same) {
            true => Ok(()),
            false => wrong("its sizes are not those of the network"),
        }
    }

    /// Whether nothing but constants uses a layer.
    pub(super) fn is_value(&self, layer: usize) -> bool {
        let mut uses = self.nodes.iter().filter(|node| node.op.layer() == Some(layer)).peekable();
        uses.peek().is_some() && uses.all(|node| matches!(node.op, Op::Constant { .. }))
    }
}

/// What becomes of a size, given its number.
type Change<'a> = &'a mut dyn FnMut(usize, i64) -> Option<i64>;

/// Takes a size's new value.
fn set(size: &mut usize, number: usize, change: Change<'_>) -> Option<()> {
    *size = usize::try_from(change(number, i64::try_from(*size).ok()?)?).ok()?;
    Some(())
}

pub(super) fn each_of<'a>(
    sizes: impl IntoIterator<Item = &'a mut usize>,
    change: Change<'_>,
) -> Option<()> {
    sizes.into_iter().enumerate().try_for_each(|(at, size)| set(size, at, change))
}

pub(super) fn each_size_of_shape(shape: &mut Shape, change: Change<'_>) -> Option<()> {
    each_of([&mut shape.channels, &mut shape.height, &mut shape.width], change)
}

/// The sizes of an operation that may follow from the steps of a sequence.
pub(super) fn each_size_of(op: &mut Op, change: Change<'_>) -> Option<()> {
    match op {
        Op::Rearrange(view) => {
            let Shape { channels, height, width } = &mut view.shape;
            each_of([channels, height, width, &mut view.offset], change)?;
            for (at, axis) in view.axes[..view.count].iter_mut().enumerate() {
                set(&mut axis.size, 4 + 2 * at, change)?;
                axis.stride = isize::try_from(change(5 + 2 * at, axis.stride as i64)?).ok()?;
            }
            Some(())
        }
        Op::Pad(pad) => each_of(pad.before.iter_mut().chain(&mut pad.after), change),
        Op::MaxPool2d(window) | Op::AvgPool2d { window, .. } => {
            each_of(window.kernel.iter_mut().chain(&mut window.stride), change)
        }
        _ => Some(()),
    }
}

/// Where the elements of `[channels, 1, height, width]` lie that are left of a smaller shape: for each, whether it
/// is one and at which place; `None` if it is not smaller.
pub(crate) fn corner(from: &[usize], to: &[usize]) -> Option<impl Fn(usize) -> Option<usize>> {
    let (&[channels, 1, height, width], &[c, 1, h, w]) = (from, to) else { return None };
    let at = move |place: usize| {
        let [channel, row, column] =
            [place / (height * width), place / width % height, place % width];
        (channel < c && row < h && column < w).then(|| (channel * h + row) * w + column)
    };
    (c <= channels && h <= height && w <= width).then_some(at)
}
