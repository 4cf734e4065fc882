//! Predictive distributions of classes and of numbers.

use super::{UncertainEngine, Uncertainty};
use crate::data::finite;
use crate::error::Result;
use crate::uncertainty::Task;
use crate::uncertainty::link::{DRAWS, Draws, monte_carlo};
use crate::uncertainty::normal::Normal;
use crate::uncertainty::predictive::{Prediction, Predictive};

/// Floats of logits that are held at a time.
const MOST: usize = 1 << 22;

/// Inputs that are run at a time.
const BATCH: usize = 256;

impl UncertainEngine {
    /// The predictive distribution of each raw sample, the logits being those of classes: from moments, by draws
    /// of logits under the seed that is given, which vary together as two linear layers at the end make them; and
    /// from samples of the posterior as they are.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if the lengths are not those of whole samples, or an input or a logit
    /// is not finite.
    pub fn predict(&self, input: &[f32], seed: u64) -> Result<Vec<Prediction>> {
        let mut predictions =
            Vec::with_capacity(input.len() / self.input_shape().elements()?.max(1));
        self.predict_each(input, seed, &mut |prediction| predictions.push(prediction))?;
        Ok(predictions)
    }

    /// Predicts classes or numbers, as a row of [`Task::row`] floats for each sample.
    ///
    /// # Errors
    /// As [`UncertainEngine::predict`], and if the output is not as many rows.
    pub fn predict_into(
        &self,
        input: &[f32],
        task: Task,
        seed: u64,
        output: &mut [f32],
    ) -> Result<()> {
        let row = task.row(self.outputs());
        self.engine.samples_of(input, output, row)?;
        let mut rows = output.chunks_exact_mut(row);
        let mut next = || rows.next().unwrap_or_default();
        match task {
            Task::Classes => self.predict_each(input, seed, &mut |found| found.write(next())),
            Task::Regression => self.numbers_each(input, &mut |found| found.write(next())),
        }
    }

    /// Mean and deviation of every output for each raw sample, the outputs being numbers: as moments have them, or of
    /// samples of the posterior.
    ///
    /// # Errors
    /// As [`UncertainEngine::predict`].
    pub fn predict_numbers(&self, input: &[f32]) -> Result<Vec<Normal>> {
        let mut all = Vec::with_capacity(input.len() / self.input_shape().elements()?.max(1));
        self.numbers_each(input, &mut |numbers| all.push(numbers))?;
        Ok(all)
    }

    /// Refuses token ids that there are not.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data), naming the first.
    pub fn check_input(&self, input: &[f32]) -> Result<()> {
        self.engine.check_input(input)
    }

    fn numbers_each(&self, input: &[f32], each: &mut dyn FnMut(Normal)) -> Result<()> {
        let outs = self.outputs();
        self.run_each(input, self.row(), &mut |row| {
            each(match self.how {
                Uncertainty::Moments => {
                    let (mean, variance) = row.split_at(outs);
                    Normal::of_moments(mean, variance)
                }
                Uncertainty::MonteCarlo { .. } => Normal::of_samples(row, outs),
            });
        })
    }

    fn predict_each(
        &self,
        input: &[f32],
        seed: u64,
        each: &mut dyn FnMut(Prediction),
    ) -> Result<()> {
        let outs = self.outputs();
        let draws = Draws::new(seed, DRAWS, outs);
        self.run_each(input, self.wide_row().unwrap_or(self.row()), &mut |row| {
            each(match self.how {
                Uncertainty::Moments => {
                    let (mean, rest) = row.split_at(outs);
                    let (variance, covariances) = rest.split_at(outs);
                    monte_carlo(&draws, mean, variance, covariances)
                }
                Uncertainty::MonteCarlo { .. } => {
                    let mut all = Predictive::new(outs);
                    let samples = row.chunks_exact(outs);
                    samples.for_each(|logits| all.add(logits.iter().map(|&v| f64::from(v))));
                    all.prediction()
                }
            });
        })
    }

    /// Runs raw samples and gives each one's row, some at a time.
    fn run_each(&self, input: &[f32], row: usize, each: &mut dyn FnMut(&[f32])) -> Result<()> {
        let ins = self.input_shape().elements()?;
        finite("element", input, ins)?;
        let batch = (MOST / row).clamp(1, BATCH);
        let mut workspace = self.workspace(batch.min(input.len() / ins));
        let mut output = Vec::new();
        for x in input.chunks(batch * ins) {
            output.clear();
            output.resize(x.len() / ins * row, 0.0);
            self.run_rows(&mut workspace, x, (&mut output, row))?;
            finite("logit", &output, row)?;
            output.chunks_exact(row).for_each(&mut *each);
        }
        Ok(())
    }
}
