//! Sequences of any length: a plan for each length that comes.

use std::sync::{Arc, Mutex, PoisonError};

use super::kernels::Workers;
use super::options::Options;
use super::plan::Engine;
use super::shared::LayerKernels;
use crate::data::finite;
use crate::error::{Error, Result};
use crate::model::{LayerWeights, Model, Pattern, Values};
use crate::network::{Layer, Op, Time};
use crate::simd::Isa;

/// Plans that are kept, those that were used last.
const KEPT: usize = 16;

/// What plans for other lengths are made of.
#[derive(Debug)]
pub(super) struct Lengths {
    /// Without the weights of layers whose kernels serve all lengths.
    model: Model,
    isa: Isa,
    options: Options,
    workers: Arc<Workers>,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    kernels: LayerKernels,
    /// By their lengths; the one that was used last is the last.
    engines: Vec<(usize, Arc<Engine>)>,
}

impl Lengths {
    /// For a model whose longest sequences were planned with these kernels; nothing if it takes no others.
    pub(super) fn new(
        model: &Model,
        isa: Isa,
        options: Options,
        (kernels, workers): (LayerKernels, Arc<Workers>),
    ) -> Option<Self> {
        let network = &model.network;
        // What a stream keeps lies where one plan has it.
        network.time.as_ref().filter(|_| !options.stream && options.steps.is_none())?;
        let mut needed = vec![false; network.layers.len()];
        for node in &network.nodes {
            let wide = |layer: &Layer| layer.shape[2..] != [1, 1];
            match node.op {
                Op::Conv2d { layer, .. } => needed[layer] |= wide(&network.layers[layer]),
                Op::ConvTranspose2d { layer, .. } | Op::Constant { layer } => needed[layer] = true,
                _ => {}
            }
        }
        let nothing = || LayerWeights {
            pattern: Pattern::with_columns(0),
            values: Values::F32(Vec::new()),
            bias: None,
        };
        let kept = |(weights, needed): (&LayerWeights, bool)| match needed {
            true => weights.clone(),
            false => nothing(),
        };
        let weights = model.weights.iter().zip(needed).map(kept).collect();
        let model = Model { network: network.clone(), threshold: model.threshold, weights };
        let made = Mutex::new(Made { kernels, engines: Vec::new() });
        Some(Self { model, isa, options, workers, made })
    }

    #[inline(never)]
    fn at(&self, steps: usize) -> Result<Arc<Engine>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let Made { kernels, engines } = &mut *made;
        if let Some(at) = engines.iter().position(|(length, _)| *length == steps) {
            engines[at..].rotate_left(1);
            return Ok(engines[engines.len() - 1].1.clone());
        }
        let (model, parts) = (self.model.at(steps)?, (kernels, self.workers.clone()));
        let engine =
            Arc::new(Engine::planned(&model, self.isa, self.options, (true, None), parts)?);
        if engines.len() == KEPT {
            engines.remove(0);
        }
        engines.push((steps, engine.clone()));
        Ok(engine)
    }
}

impl Engine {
    /// Which sequences the engine takes besides the longest, if any.
    pub fn time(&self) -> Option<&Time> {
        self.lengths.as_ref().and_then(|lengths| lengths.model.network.time.as_ref())
    }

    /// The engine for sequences of so many steps: an engine of its own as far as its users are concerned, which
    /// shares threads with this one, and the kernels of all layers but convolutions over several steps. The first
    /// call for a length makes a plan; the last 16 plans are kept. A [`Workspace`](super::Workspace) of this engine
    /// serves it, too.
    ///
    /// # Errors
    /// [`Error::Data`] if the network takes no sequences of that length.
    pub fn at(&self, steps: usize) -> Result<Arc<Self>> {
        match &self.lengths {
            Some(lengths) => lengths.at(steps),
            None => Err(one_size()),
        }
    }

    /// Runs sequences of raw values, one behind the other, of so many steps each: those of one length together.
    /// Gives their outputs, one behind the other.
    ///
    /// # Errors
    /// [`Error::Data`] for a length that the network does not take, if the values are not as many as the lengths
    /// say, and for a value or an output that is no finite number.
    pub fn infer_sequences(&self, steps: &[usize], input: &[f32]) -> Result<Vec<Vec<f32>>> {
        let time = self.time().ok_or_else(one_size)?;
        let (mut starts, mut size) = (vec![0usize], 0);
        for (at, &own) in steps.iter().enumerate() {
            if at == 0 || own != steps[at - 1] {
                size = time.input(&self.input, own)?.shape.elements()?;
            }
            starts.push(starts[at].saturating_add(size));
        }
        if starts[steps.len()] != input.len() {
            return Err(Error::data(format!(
                "{} input values, sequences of these lengths have {}",
                input.len(),
                starts[steps.len()]
            )));
        }
        let mut outputs = vec![Vec::new(); steps.len()];
        for (first, &length) in steps.iter().enumerate() {
            // It ran with an earlier one.
            if !outputs[first].is_empty() {
                continue;
            }
            let engine = self.at(length)?;
            let own: Vec<usize> = (first..steps.len()).filter(|&at| steps[at] == length).collect();
            let mut values = Vec::with_capacity(own.len() * (starts[first + 1] - starts[first]));
            own.iter().for_each(|&at| values.extend(&input[starts[at]..starts[at + 1]]));
            let run = || {
                finite("element", &values, engine.lengths().0)?;
                engine.infer_samples(&values)
            };
            let told = |e| Error::data(format!("a sequence of {length} steps: {e}"));
            for (at, y) in own.iter().zip(run().map_err(told)?) {
                outputs[*at] = y;
            }
        }
        Ok(outputs)
    }
}

fn one_size() -> Error {
    Error::data("the network takes inputs of one size: its time is not free")
}
