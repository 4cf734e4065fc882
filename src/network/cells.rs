//! Descriptions of recurrent cells.

use super::further::{name_of, named};
use super::node::{NodeDescription, shortest};
use super::{Cell, Gate, Recurrence};
use crate::error::{Error, Result};

/// Functions of gates by their names in descriptions.
const GATES: [(&str, Gate); 6] = [
    ("sigmoid", Gate::Sigmoid),
    ("tanh", Gate::Tanh),
    ("relu", Gate::Relu),
    ("hard_sigmoid", Gate::HardSigmoid),
    ("softsign", Gate::Softsign),
    ("identity", Gate::Identity),
];

impl NodeDescription {
    /// The cell of an `rnn`, `gru` or `lstm`.
    pub(super) fn recurrence(&self) -> Result<Recurrence> {
        let cell = match (self.op.as_str(), self.reset.as_deref()) {
            ("rnn", _) => Cell::Rnn,
            ("lstm", _) => Cell::Lstm,
            (_, None | Some("after")) => Cell::Gru,
            (_, Some("before")) => Cell::GruResetBefore,
            (_, Some(other)) => {
                return Err(Error::network(format!(
                    "unknown reset {other:?}; understood are after, before"
                )));
            }
        };
        let mut recurrence = Recurrence::new(cell);
        recurrence.reverse = self.reverse.unwrap_or(false);
        if let Some(names) = &self.activations {
            if names.len() != cell.functions() {
                return Err(Error::network(format!(
                    "{} takes {} activations, has {}",
                    self.op,
                    cell.functions(),
                    names.len()
                )));
            }
            for (function, name) in recurrence.functions.iter_mut().zip(names) {
                *function = named(&GATES, "activation", name)?;
            }
        }
        if let Some(numbers) = self.hard_sigmoid {
            if !recurrence.has_hard_sigmoid() {
                return Err(Error::network("only activations of hard_sigmoid have its numbers"));
            }
            recurrence.hard_sigmoid = numbers.map(|value| value as f32);
        }
        Ok(recurrence)
    }

    /// The description of a cell.
    pub(super) fn of_recurrence(recurrence: &Recurrence) -> Self {
        let (cell, usual) = (recurrence.cell, Recurrence::new(recurrence.cell));
        let op = match cell {
            Cell::Rnn => "rnn",
            Cell::Gru | Cell::GruResetBefore => "gru",
            Cell::Lstm => "lstm",
        };
        let functions = &recurrence.functions[..cell.functions()];
        let numbers = recurrence.hard_sigmoid;
        Self {
            op: op.into(),
            reverse: recurrence.reverse.then_some(true),
            activations: (recurrence.functions != usual.functions)
                .then(|| functions.iter().filter_map(|gate| name_of(&GATES, gate)).collect()),
            hard_sigmoid: (numbers != usual.hard_sigmoid).then(|| numbers.map(shortest)),
            reset: (cell == Cell::GruResetBefore).then(|| "before".into()),
            ..Self::default()
        }
    }
}
