//! `--uncertainty` of the edge build: predictions alone, which the workstation's scores.

use std::io::{self, Write};
use std::path::Path;

use super::arguments::Arguments;
use super::{encode, print};
use crate::engine::uncertain::{How, UncertainEngine};
use crate::engine::{Isa, Options, physical_cores};
use crate::error::{Error, Result};
use crate::text::named_classes;
use crate::uncertainty::Task;
use crate::{container, data, serve};

impl Arguments {
    /// Predicts the input, or what comes on standard input: rows of [`Task::row`] floats.
    pub(super) fn predict(&self, how: How, isa: Isa, out: &mut dyn Write) -> Result<()> {
        let others = if self.serve_stdin { 1 } else { physical_cores() };
        let options = Options { threads: self.threads.unwrap_or(others), ..Options::default() };
        let load = || {
            let (model, variances) = container::read_with_variances(&self.file()?)?;
            let engine =
                UncertainEngine::of_file((&model, variances), how, self.seed, isa, options);
            let classes = model.network.classes().into_iter().map(str::to_owned).collect();
            Ok((engine?, classes))
        };
        let (engine, classes): (_, Vec<String>) =
            load().map_err(|e: Error| e.in_file(&self.model))?;
        if self.serve_stdin {
            let input = &mut io::stdin().lock();
            return serve::serve_predictions(&engine, self.task, self.seed, input, out);
        }
        let samples = data::read_samples(&self.input, None, engine.input_shape())?.values;
        let (row, outputs) = (self.task.row(engine.outputs()), engine.outputs());
        let mut rows = vec![0.0; samples.len() / engine.input_shape().elements()? * row];
        engine.predict_into(&samples, self.task, self.seed, &mut rows)?;
        let rows: Vec<&[f32]> = rows.chunks_exact(row).collect();
        if let Some(path) = &self.output {
            print(out, path, &encode(path, &rows)?)?;
        }
        let stdout = Path::new("-");
        match self.task {
            _ if self.output.is_some() && self.top.is_none() => Ok(()),
            Task::Regression => print(out, stdout, &encode(stdout, &rows)?),
            Task::Classes => {
                let rows = rows.iter().map(|row| &row[..outputs]);
                let text = named_classes(rows, self.top.unwrap_or(1), &classes);
                print(out, stdout, text.as_bytes())
            }
        }
    }
}
