//! `svdo-infer --generate`: what follows token ids.

use std::path::Path;

use clap::Args;

use super::infer::Arguments;
use super::precision::Loaded;
use super::{Outcome, isa, output};
use crate::data;
use crate::generate::{Choice, Generator};

/// Tokens that follow those of the input.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generation")]
pub(super) struct Generation {
    /// Print the N token ids that follow each sequence of --input, one line of JSON for each
    ///
    /// For networks over sequences of any length that look back only, and give numbers for the next token.
    #[arg(long, value_name = "N", requires = "input",
          conflicts_with_all = ["labels", "output", "classes", "top", "serve_stdin", "stream", "uncertainty", "verify", "bench", "json", "markdown", "github"])]
    generate: Option<usize>,

    /// Draw each token, with logits divided by this; 0 takes the most likely
    #[arg(long, value_name = "T", requires = "generate", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    temperature: f32,
}

fn temperature(text: &str) -> Result<f32, String> {
    let found = text.parse().ok().filter(|t: &f32| t.is_finite() && *t >= 0.0);
    found.ok_or_else(|| format!("{text:?}: expected a number from 0 on"))
}

impl Generation {
    /// How many tokens, if any are wanted.
    pub(super) fn count(&self) -> Option<usize> {
        self.generate
    }
}

impl Arguments {
    /// Prints `count` tokens for each sequence.
    pub(super) fn generate(&self, loaded: &Loaded, count: usize) -> anyhow::Result<Outcome> {
        let model = &loaded.model;
        let here = |e: crate::Error| e.in_file(&self.model);
        let generator = Generator::new(model, isa()?, self.threads.count()).map_err(here)?;
        let array = self.array.as_deref();
        let prompts = match &model.network.time {
            Some(time) => {
                let read = data::read_sequences(&self.input, array, (&model.network.input, time))?;
                let mut values = &read.values[..];
                let mut next = |&steps: &usize| values.split_off(..steps).unwrap_or_default();
                read.steps.iter().map(|steps| next(steps).to_vec()).collect()
            }
            // All tokens that there are, one after the other.
            None => vec![data::read_samples(&self.input, array, model.network.input.shape)?.values],
        };
        let choice =
            Choice { temperature: self.generation.temperature, seed: self.uncertainty.seed() };
        for (at, prompt) in prompts.iter().enumerate() {
            let tokens = generator
                .generate(prompt, count, choice)
                .map_err(|e| anyhow::anyhow!("sequence {at}: {e}"))?;
            let line = serde_json::to_string(&tokens)? + "\n";
            output::write(Path::new("-"), line.as_bytes())?;
        }
        Ok(Outcome::Passed)
    }
}
