//! A network of a file, planned, with the memory of its runs.

use svdo::container;
use svdo::data::finite;
use svdo::engine::uncertain::{How, UncertainEngine};
use svdo::engine::{Engine, Isa, Options, Workspace};
use svdo::model::{LayerWeights, Model, Variances};
use svdo::{Error, Result};

/// An open file.
pub struct Network {
    pub(crate) model: Model,
    pub(crate) variances: Option<Variances>,
    pub(crate) bytes: usize,
    /// Of each layer's sections.
    pub(crate) layer_bytes: Vec<usize>,
    pub(crate) engine: Engine,
    /// Planned when it is first asked for, for so many networks of the posterior, under a seed.
    posterior: Option<(usize, u64, UncertainEngine)>,
    /// For so many samples.
    workspace: (usize, Workspace),
    input: Vec<f32>,
    output: Vec<f32>,
    /// Weights that are being looked at.
    values: Vec<f32>,
}

impl Network {
    /// Reads a file and plans its network.
    ///
    /// # Errors
    /// As those of reader and planner.
    pub fn open(file: &[u8]) -> Result<Self> {
        let container::Contents { model, layer_bytes, variances } = container::read_contents(file)?;
        let engine = Engine::new(&model, Isa::best())?;
        Ok(Self {
            workspace: (1, engine.workspace(1)),
            bytes: file.len(),
            posterior: None,
            input: Vec::new(),
            output: Vec::new(),
            values: Vec::new(),
            model,
            variances,
            layer_bytes,
            engine,
        })
    }

    /// Room for input samples.
    pub fn input(&mut self, samples: usize) -> Result<*mut f32> {
        let floats = self.engine.input_shape().elements()?.checked_mul(samples);
        resize(&mut self.input, floats)?;
        Ok(self.input.as_mut_ptr())
    }

    /// The outputs of the samples that are in the room for them.
    pub fn run(&mut self) -> Result<*const f32> {
        let ins = self.engine.input_shape().elements()?;
        let outs = self.engine.output_shape().elements()?;
        let samples = self.input.len() / ins;
        finite("element", &self.input, ins)?;
        resize(&mut self.output, outs.checked_mul(samples))?;
        if self.workspace.0 != samples {
            self.workspace = (samples, self.engine.workspace(samples));
        }
        self.engine.run(&mut self.workspace.1, &self.input, &mut self.output)?;
        finite("output", &self.output, outs)?;
        Ok(self.output.as_ptr())
    }

    /// Predictions of the samples' classes: probabilities, standard deviations, entropy and mutual information
    /// of each.
    pub fn predict(&mut self, networks: usize, seed: u64) -> Result<*const f32> {
        let known = self.posterior.take().filter(|(n, s, _)| (*n, *s) == (networks, seed));
        let engine = match known {
            Some((.., engine)) => engine,
            None => {
                let how = if networks == 0 { How::Moments } else { How::MonteCarlo(networks) };
                let file = (&self.model, self.variances.clone());
                UncertainEngine::of_file(file, how, seed, Isa::best(), Options::default())?
            }
        };
        let predicted = engine.predict(&self.input, seed);
        self.posterior = Some((networks, seed, engine));
        self.output.clear();
        for prediction in predicted? {
            let both = [prediction.entropy, prediction.mutual_information];
            let all = prediction.probabilities.iter().chain(&prediction.std).chain(&both);
            self.output.extend(all.map(|&value| value as f32));
        }
        Ok(self.output.as_ptr())
    }

    /// A layer's weights.
    pub fn layer(&self, layer: usize) -> Result<&LayerWeights> {
        let layers = self.model.weights.len();
        let none = || Error::Argument { problem: format!("layer {layer} of {layers}") };
        self.model.weights.get(layer).ok_or_else(none)
    }

    /// The numbers of a layer's kept weights.
    pub fn values(&mut self, layer: usize) -> Result<*const f32> {
        self.values = self.layer(layer)?.values.to_f32();
        Ok(self.values.as_ptr())
    }
}

/// So many floats, zeros where there were none.
fn resize(values: &mut Vec<f32>, floats: Option<usize>) -> Result<()> {
    let none = || Error::Argument { problem: "no memory for as many samples".into() };
    let floats = floats.ok_or_else(none)?;
    values.try_reserve(floats.saturating_sub(values.len())).map_err(|_| none())?;
    values.resize(floats, 0.0);
    Ok(())
}
