//! Recurrent cells: what a hidden state becomes from one step of a sequence to the next.
//!
//! A recurrent layer has two matrices. That of its inputs is a layer of its own, a convolution of 1 x 1
//! over all steps at once; what is here takes its outputs, one row for each gate of each unit, and has the
//! matrix of the hidden state. Rows stand in the order of PyTorch: input, forget, candidate, output (LSTM);
//! reset, update, candidate (GRU).

use super::Shape;
use crate::error::{Error, Result};

/// Units of a cell; none has as many.
const MOST_UNITS: usize = 1 << 16;

/// A cell in one direction over a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recurrence {
    /// Which cell.
    pub cell: Cell,
    /// Of the gates, the candidate and an LSTM's output, as far as the cell has them; the others
    /// [`Gate::Tanh`].
    pub functions: [Gate; 3],
    /// Slope and offset of [`Gate::HardSigmoid`]; [`Recurrence::HARD_SIGMOID`] if there is none.
    pub hard_sigmoid: [f32; 2],
    /// Whether the sequence is read from its end.
    pub reverse: bool,
}

/// What a step computes of the hidden state h; x are the inputs' shares of the gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// `h' = f(x + W h + b)` (Elman 1990).
    Rnn,
    /// Gated recurrent unit (Cho et al., arXiv 1406.1078), its candidate `g(x + r (W h + b))`, as PyTorch
    /// and cuDNN have it.
    Gru,
    /// The same with the candidate `g(x + W (r h) + b)`, as in the paper.
    GruResetBefore,
    /// Long short-term memory (Hochreiter and Schmidhuber 1997, with a forget gate).
    Lstm,
}

impl Cell {
    /// All, by the numbers that files have for them.
    pub const ALL: [Self; 4] = [Self::Rnn, Self::Gru, Self::GruResetBefore, Self::Lstm];

    /// Rows of the matrices for each unit.
    pub fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru | Self::GruResetBefore => 3,
            Self::Lstm => 4,
        }
    }

    /// How many functions it has: of the gates, the candidate, the output.
    pub fn functions(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru | Self::GruResetBefore => 2,
            Self::Lstm => 3,
        }
    }

    /// Vectors that go from step to step: the hidden state, and an LSTM's cell state.
    pub fn states(self) -> usize {
        if self == Self::Lstm { 2 } else { 1 }
    }
}

/// A function of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `1 / (1 + exp -x)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(a x + b, 0), 1)` with [`Recurrence::hard_sigmoid`].
    HardSigmoid,
    /// `x / (1 + |x|)`.
    Softsign,
    /// x.
    Identity,
}

impl Gate {
    /// All, by the numbers that files have for them.
    pub const ALL: [Self; 6] =
        [Self::Sigmoid, Self::Tanh, Self::Relu, Self::HardSigmoid, Self::Softsign, Self::Identity];

    #[cfg(feature = "compress")]
    fn apply(self, x: f64, [slope, offset]: [f32; 2]) -> f64 {
        match self {
            Self::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
            Self::Tanh => libm::tanh(x),
            Self::Relu if x < 0.0 => 0.0,
            Self::Relu | Self::Identity => x,
            Self::HardSigmoid => {
                let y = f64::from(slope) * x + f64::from(offset);
                if y.is_nan() { y } else { y.clamp(0.0, 1.0) }
            }
            Self::Softsign => x / (1.0 + x.abs()),
        }
    }
}

impl Recurrence {
    /// Slope and offset of hard sigmoids as ONNX and Keras have them.
    pub const HARD_SIGMOID: [f32; 2] = [0.2, 0.5];

    /// A cell with its usual functions, forwards.
    pub fn new(cell: Cell) -> Self {
        let functions = match cell {
            Cell::Rnn => [Gate::Tanh; 3],
            _ => [Gate::Sigmoid, Gate::Tanh, Gate::Tanh],
        };
        Self { cell, functions, hard_sigmoid: Self::HARD_SIGMOID, reverse: false }
    }

    /// The hidden states of a layer of shape `[gates H, H]`, `[H, 1, T]`, from `[gates H, 1, T]` and
    /// perhaps a first hidden state and cell state, `[H]`.
    pub(super) fn output(&self, layer: &[usize], inputs: &[Shape]) -> Result<Shape> {
        let (rows, hidden, gates) = (layer[0], layer[1], self.cell.gates());
        if hidden.checked_mul(gates) != Some(rows) {
            return Err(Error::network(format!(
                "weights of shape {layer:?} for the hidden state of a cell of {gates} gates: [{gates} units, \
                 units] is understood"
            )));
        }
        if hidden > MOST_UNITS {
            return Err(Error::network(format!("a cell of {hidden} units, at most {MOST_UNITS}")));
        }
        let [x, states @ ..] = inputs else { return Err(Error::network("takes a sequence")) };
        let most = self.cell.states();
        if states.len() > most {
            return Err(Error::network(format!(
                "takes a sequence and at most {most} first states, has {} inputs",
                inputs.len()
            )));
        }
        if (x.channels, x.height) != (rows, 1) {
            return Err(Error::network(format!(
                "a cell of {hidden} units and {gates} gates reads a sequence [{rows}, 1, steps], not {x}: its \
                 inputs go through a conv2d of {rows} outputs first"
            )));
        }
        match states.iter().find(|state| **state != Shape::vector(hidden)) {
            Some(state) => {
                Err(Error::network(format!("a first state of shape {state}, not [{hidden}]")))
            }
            None => Ok(Shape::new(hidden, 1, x.width)),
        }
    }

    /// Whether one of its functions is a hard sigmoid.
    pub(crate) fn has_hard_sigmoid(&self) -> bool {
        self.functions.contains(&Gate::HardSigmoid)
    }

    /// Whether its numbers are such.
    pub(super) fn is_usable(&self) -> bool {
        self.hard_sigmoid.iter().all(|value| value.is_finite())
    }

    /// The hidden states of one sample by plain loops in f64. `product` gives the sum, bias included, of a
    /// row of the layer's matrix with a vector.
    #[cfg(feature = "compress")]
    pub(crate) fn evaluate(
        &self,
        inputs: &[(&[f64], Shape)],
        product: impl Fn(usize, &[f64]) -> f64,
    ) -> Vec<f64> {
        let (x, shape) = inputs[0];
        let (steps, units) = (shape.width, shape.channels / self.cell.gates());
        let first = |at: usize| match inputs.get(at) {
            Some((state, _)) => state.to_vec(),
            None => vec![0.0; units],
        };
        let (mut h, mut c) = (first(1), first(2));
        let mut y = vec![0.0; units * steps];
        let [gate, candidate, output] =
            self.functions.map(|f| move |x: f64| f.apply(x, self.hard_sigmoid));
        for step in 0..steps {
            let at = if self.reverse { steps - 1 - step } else { step };
            let x = |row: usize| x[row * steps + at];
            let sum = |row: usize| x(row) + product(row, &h);
            let next: Vec<f64> = match self.cell {
                Cell::Rnn => (0..units).map(|j| gate(sum(j))).collect(),
                Cell::Lstm => (0..units)
                    .map(|j| {
                        c[j] = gate(sum(units + j)) * c[j]
                            + gate(sum(j)) * candidate(sum(2 * units + j));
                        gate(sum(3 * units + j)) * output(c[j])
                    })
                    .collect(),
                Cell::Gru | Cell::GruResetBefore => {
                    let reset: Vec<f64> = (0..units).map(|j| gate(sum(j))).collect();
                    let kept: Vec<f64> = reset.iter().zip(&h).map(|(r, h)| r * h).collect();
                    let new = |j: usize| {
                        let row = 2 * units + j;
                        let share = match self.cell {
                            Cell::Gru => reset[j] * product(row, &h),
                            _ => product(row, &kept),
                        };
                        let update = gate(sum(units + j));
                        (1.0 - update) * candidate(x(row) + share) + update * h[j]
                    };
                    (0..units).map(new).collect()
                }
            };
            h = next;
            h.iter().enumerate().for_each(|(j, &h)| y[j * steps + at] = h);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_order_of_the_declaration() {
        for (at, cell) in Cell::ALL.into_iter().enumerate() {
            assert_eq!(cell as usize, at);
        }
        for (at, gate) in Gate::ALL.into_iter().enumerate() {
            assert_eq!(gate as usize, at);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let lstm = Recurrence::new(Cell::Lstm);
        let (x, h) = (Shape::new(8, 1, 5), Shape::vector(2));
        assert_eq!(lstm.output(&[8, 2], &[x, h, h]).unwrap(), Shape::new(2, 1, 5));
        for (layer, inputs, problem) in [
            ([8, 3], &[x][..], "weights of shape [8, 3] for the hidden state of a cell of 4 gates"),
            ([8, 2], &[x, h, h, h], "at most 2 first states, has 4 inputs"),
            ([8, 2], &[Shape::new(8, 2, 5)], "reads a sequence [8, 1, steps], not [8, 2, 5]"),
            ([8, 2], &[x, Shape::vector(3)], "a first state of shape [3], not [2]"),
        ] {
            let error = lstm.output(&layer, inputs).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
