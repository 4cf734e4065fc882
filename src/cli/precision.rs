//! `--precision`: in which numbers a model is run.

use std::path::Path;

use crate::container;
use crate::engine::{Engine, Isa, Options, int8_obstacle};
use crate::error::{Error, IoContext, Result};
use crate::model::{ActivationRanges, Model};
use crate::onnx;
use crate::report::Int8Layers;

/// In which numbers layers are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Precision {
    /// 32-bit floats
    F32,
    /// 8-bit integers for the layers that are faster so
    Int8,
}

impl Precision {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

/// A model, and in which 8 bits its layers may be run if that was asked for.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) ranges: Option<ActivationRanges>,
}

impl Loaded {
    /// Reads a `.svdo` file, or an ONNX model for runs in floats.
    pub(super) fn read(path: &Path, precision: Precision, onnx: &onnx::Reading) -> Result<Self> {
        let is_onnx = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        let read = || match precision {
            Precision::F32 if is_onnx => {
                Ok(Self { model: onnx::open_as(path, onnx)?.into_model()?, ranges: None })
            }
            Precision::Int8 if is_onnx => Err(Error::Argument {
                problem: "an ONNX model has no levels: make a .svdo file of it with svdo-compress \
                          --int8 SAMPLES"
                    .into(),
            }),
            Precision::F32 => {
                Ok(Self { model: container::read(&std::fs::read(path).at(path)?)?, ranges: None })
            }
            Precision::Int8 => {
                let (model, ranges) = container::read_for_int8(&std::fs::read(path).at(path)?)?;
                Ok(Self { model, ranges: Some(ranges) })
            }
        };
        read().map_err(|e| e.in_file(path))
    }

    /// Plans it.
    pub(super) fn engine(&self, isa: Isa, options: Options) -> Result<Engine> {
        match &self.ranges {
            Some(ranges) => Engine::in_int8(&self.model, ranges, isa, options),
            None => Engine::with_options(&self.model, isa, options),
        }
    }

    /// Which of its layers an engine runs in 8 bits, and why it does not run the others so; nothing if that was
    /// not asked for.
    pub(super) fn layers(&self, engine: &Engine) -> Option<Int8Layers> {
        let (ranges, network) = (self.ranges.as_ref()?, &self.model.network);
        let steps = engine.steps(&self.model);
        let mut layers = Int8Layers::default();
        for (index, node) in network.nodes.iter().enumerate() {
            let Some(layer) = node.op.layer() else { continue };
            let name = match network.layers[layer].name.as_str() {
                "" => format!("layer {layer}"),
                name => name.to_owned(),
            };
            if steps.iter().any(|step| step.node == index && step.int8) {
                layers.int8.push(name);
            } else {
                let why = int8_obstacle(&self.model, index, ranges.nodes[index]);
                layers.f32.insert(name, why.unwrap_or("it is faster so").into());
            }
        }
        Some(layers)
    }
}
