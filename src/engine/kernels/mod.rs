//! Kernels for each instruction set, chosen when the engine is made.
//!
//! [`portable`] is the reference in safe Rust that every other set is compared to.

mod portable;

pub(super) use portable::Portable;

use crate::error::{Error, Result};

/// An instruction set with kernels of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// Plain Rust, for whatever the program was compiled for.
    Portable,
}

impl Tier {
    const ALL: [(&'static str, Self); 1] = [("portable", Self::Portable)];

    /// The best tier of this CPU, at most `clamp` if one is named: the value of `SVDO_CPU`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is not a tier.
    pub fn detect(clamp: Option<&str>) -> Result<Self> {
        let Some(name) = clamp.filter(|name| !name.is_empty()) else { return Ok(Self::Portable) };
        match Self::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, tier)) => Ok(*tier),
            None => Err(Error::Argument {
                problem: format!(
                    "SVDO_CPU={name}: this program has {}",
                    Self::ALL.map(|(known, _)| known).join(", ")
                ),
            }),
        }
    }

    /// Its name, as `SVDO_CPU` takes it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, tier)| *tier == self).map_or("portable", |(name, _)| *name)
    }
}

/// A sparse matrix as kernels read it.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    /// Where each row's entries begin, and at the end their number.
    pub(super) row_starts: Vec<u32>,
    /// Columns of a linear layer; of a convolution, `(channel * kh + ky) * kw + kx`.
    pub(super) columns: Vec<u32>,
    /// The weights.
    pub(super) values: Vec<f32>,
    /// One for each row.
    pub(super) bias: Vec<f32>,
}

impl Matrix {
    /// The columns and weights of a row.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let entries = self.row_starts[row] as usize..self.row_starts[row + 1] as usize;
        self.columns[entries.clone()]
            .iter()
            .map(|&c| c as usize)
            .zip(self.values[entries].iter().copied())
    }
}

/// The geometry of a convolution, fixed when the engine is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Height and width of the input.
    pub(super) input: [usize; 2],
    /// Height and width of the output.
    pub(super) output: [usize; 2],
    /// Height and width of the window.
    pub(super) kernel: [usize; 2],
    /// Step down and right.
    pub(super) stride: [usize; 2],
    /// Padding above and to the left.
    pub(super) before: [usize; 2],
    /// Input channels that one output channel sees.
    pub(super) channels: usize,
    /// Output channels that see the same input channels.
    pub(super) outputs_per_group: usize,
}

impl Geometry {
    /// The outputs along axis `axis` whose window, at `offset`, lies on the input: first and end.
    pub(super) fn valid(&self, axis: usize, offset: usize) -> (usize, usize) {
        let (stride, before) = (self.stride[axis], self.before[axis]);
        let first = before.saturating_sub(offset).div_ceil(stride);
        let end = (self.input[axis] + before).saturating_sub(offset).div_ceil(stride);
        (first.min(self.output[axis]), end.min(self.output[axis]))
    }
}

/// What every instruction set provides. Activations are `[element][P]`.
pub(super) trait Kernels {
    /// `y = W x + b`.
    fn linear<const P: usize>(&self, matrix: &Matrix, x: &[[f32; P]], y: &mut [[f32; P]]);

    /// Cross-correlation with zero padding, plus bias.
    fn conv2d<const P: usize>(
        &self,
        matrix: &Matrix,
        geometry: &Geometry,
        x: &[[f32; P]],
        y: &mut [[f32; P]],
    );
}
