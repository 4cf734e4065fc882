//! From a checkpoint, stored or in memory, to a file.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use numpy::{PyArrayMethods, PyReadonlyArray1, PyUntypedArray};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use safetensors::tensor::{Dtype, TensorView};
use svdo::checkpoint::profile::{DenseLayout, KernelLayout};
use svdo::checkpoint::{Checkpoint, DType, NetworkSource, Options, TensorSource, files_of};
use svdo::compress::{Done, Goal, Job, Samples, Threshold};
use svdo::files::Claims;
use svdo::network::describe::Description;
use svdo::quantize::Quantizer;
use svdo::report::{Report, display, json, markdown, text};
use svdo::{Error, Result};

use crate::arrays::Arrays;
use crate::error::raised;
use crate::model::{cores, isa};
use crate::options::options;

/// The name that a state dict goes by in messages and reports.
const IN_MEMORY: &str = "state dict";

/// Names and C-contiguous arrays.
type Named<'py> = Vec<(String, Bound<'py, PyUntypedArray>)>;

/// A checkpoint on disk or in memory.
#[derive(FromPyObject)]
pub(crate) enum Source<'py> {
    Arrays(Named<'py>),
    File(PathBuf),
}

/// A network description: a `str` is its JSON, a `pathlib.Path` a file with it.
#[derive(FromPyObject)]
pub(crate) enum Network {
    Json(String),
    File(PathBuf),
}

impl Network {
    /// The metadata of a file that carries this description.
    fn metadata(&self) -> Option<String> {
        match self {
            Self::Json(json) => Some(format!("{{\"network\": {json}}}")),
            Self::File(_) => None,
        }
    }

    fn source(self) -> Result<NetworkSource> {
        Ok(match self {
            Self::Json(json) => Description::from_json(&json)?.into(),
            Self::File(path) => path.into(),
        })
    }
}

/// Report as JSON, text and Markdown, and the file's bytes.
type Answer = (String, String, String, Py<PyBytes>);

/// See the stub.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn compress(
    py: Python<'_>,
    source: Source<'_>,
    thresh: Option<f32>,
    sweep: Option<Vec<f32>>,
    quantize: &str,
    bits: Option<u32>,
    mut network: Option<Network>,
    classes: Option<Vec<String>>,
    read_as: BTreeMap<String, String>,
    output: Option<PathBuf>,
    simplify: bool,
    strip: bool,
    variances: bool,
    pruned_variance: bool,
    fast: bool,
    validate: Option<(PyReadonlyArray1<'_, f32>, Option<PyReadonlyArray1<'_, u32>>)>,
    calibrate: Option<PyReadonlyArray1<'_, f32>>,
    distill: usize,
    recalibrate: Option<PyReadonlyArray1<'_, f32>>,
    int8: Option<PyReadonlyArray1<'_, f32>>,
    goal: Option<(String, f64)>,
    effort: u32,
    search_state: Option<PathBuf>,
    threads: Option<usize>,
    own: bool,
) -> PyResult<Answer> {
    let goal = goal.map(|(name, bound)| named_goal(&name, bound)).transpose().map_err(raised)?;
    let mut quantizer = quantizer(quantize, bits, goal.is_some()).map_err(raised)?;
    if let Quantizer::RateDistortion(settings) = &mut quantizer {
        settings.distill = distill;
    }
    let validate = match &validate {
        Some((values, labels)) => {
            let labels = labels.as_ref().map(|labels| labels.as_slice()).transpose()?;
            Some(Samples { values: values.as_slice()?, labels })
        }
        None => None,
    };
    let calibrate = calibrate.as_ref().map(|values| values.as_slice()).transpose()?;
    let recalibrate = recalibrate.as_ref().map(|values| values.as_slice()).transpose()?;
    let int8 = int8.as_ref().map(|values| values.as_slice()).transpose()?;
    let read_as = options(&read_as).map_err(raised)?;
    let (path, arrays) = match source {
        Source::File(path) => (path, None),
        Source::Arrays(named) => {
            let metadata = network.as_ref().filter(|_| own).and_then(Network::metadata);
            network = network.filter(|_| metadata.is_none());
            (IN_MEMORY.into(), Some(Arrays::new(&named, metadata)))
        }
    };
    let run = || -> Result<_> {
        let outputs = [("output", output.as_deref()), ("search_state", search_state.as_deref())];
        claim(arrays.is_none().then_some(&*path), network.as_ref(), &outputs)?;
        let mut checkpoint = open(&path, arrays, network, &read_as)?;
        classes.iter().try_for_each(|names| checkpoint.name_classes(names))?;
        let mut job = Job::new(&checkpoint)
            .threshold(thresh.map_or(Threshold::Valley, Threshold::At))
            .quantizer(quantizer)
            .simplify(simplify)
            .strip(strip)
            .variances(variances)
            .pruned_variance(pruned_variance)
            .fast(fast)
            .effort(effort)
            .isa(isa()?);
        if let Some(samples) = validate {
            job = job.validate(samples);
        }
        if let Some(samples) = calibrate {
            job = job.calibrate(samples);
        }
        if let Some(samples) = recalibrate {
            job = job.recalibrate(samples);
        }
        if let Some(samples) = int8 {
            job = job.int8(samples);
        }
        if let Some(goal) = goal {
            job = job.goal(goal);
        }
        if let Some(path) = &search_state {
            job = job.search_state(path);
        }
        if let Some(sweep) = sweep {
            job = job.sweep(sweep);
        }
        let Done { mut report, file } = job.run()?;
        if let Some(path) = output {
            svdo::files::write(&path, file.bytes())?;
            report.output = Some(display(&path));
        }
        Ok((report, file))
    };
    let threads = threads.unwrap_or_else(cores);
    let (report, file) = py
        .detach(|| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|e| Error::Argument { problem: format!("threads: {e}") })?;
            pool.install(run)
        })
        .map_err(raised)?;
    let report = Report::Compress(Box::new(report));
    let json = json::render(&report).map_err(raised)?;
    let bytes = PyBytes::new(py, file.bytes()).unbind();
    Ok((json, text::render(&report), markdown::render(&report), bytes))
}

/// No file is lost to another.
fn claim(
    source: Option<&Path>,
    network: Option<&Network>,
    outputs: &[(&str, Option<&Path>)],
) -> Result<()> {
    let mut claims = Claims::default();
    for path in source.iter().flat_map(|path| files_of(path)) {
        claims.reads("the source", &path)?;
    }
    if let Some(Network::File(path)) = network {
        files_of(path).iter().try_for_each(|path| claims.reads("network", path))?;
    }
    let mut given = outputs.iter().filter_map(|&(name, path)| Some((name, path?)));
    given.try_for_each(|(name, path)| claims.writes(name, path))
}

/// Opens the source and ties it to its network, as the commands do.
fn open(
    path: &Path,
    arrays: Option<Arrays>,
    network: Option<Network>,
    read_as: &Options,
) -> Result<Checkpoint> {
    let network = network.map(Network::source).transpose()?;
    let options = Options { network, ..read_as.clone() };
    match arrays {
        Some(arrays) => Checkpoint::from_source(path, Box::new(arrays), &options),
        None => Checkpoint::open(path, &options),
    }
}

fn named_goal(name: &str, bound: f64) -> Result<Goal> {
    match name {
        "max_error_increase" => Ok(Goal::ErrorIncrease(bound)),
        "max_output_error" => Ok(Goal::OutputError(bound)),
        "max_bytes" => Ok(Goal::Bytes(bound as u64)),
        _ => Err(Error::Argument { problem: format!("{name} is no goal") }),
    }
}

fn quantizer(name: &str, bits: Option<u32>, search: bool) -> Result<Quantizer> {
    let problem = match (name, bits) {
        ("exact", None) => return Ok(Quantizer::Exact),
        ("f16", None) => return Ok(Quantizer::F16),
        ("uniform", bits) => return Ok(Quantizer::Uniform { bits: bits.unwrap_or(8) }),
        ("codebook", bits) => {
            return Ok(Quantizer::Codebook { bits: bits.unwrap_or(Quantizer::CODEBOOK_BITS) });
        }
        ("rd", None) => return Ok(Quantizer::default_for(search)),
        ("exact" | "f16" | "rd", Some(_)) => {
            "bits is for quantize=\"uniform\" and \"codebook\"".into()
        }
        _ => format!(
            "quantize={name:?}: expected \"exact\", \"f16\", \"uniform\", \"codebook\" or \"rd\""
        ),
    };
    Err(Error::Argument { problem })
}

/// See the stub.
#[pyfunction]
pub(crate) fn save(
    py: Python<'_>,
    path: PathBuf,
    named: Named<'_>,
    network: Option<Network>,
    own: bool,
) -> PyResult<()> {
    let metadata = network.as_ref().filter(|_| own).and_then(Network::metadata);
    let network = network.filter(|_| metadata.is_none());
    let arrays = Arrays::new(&named, metadata.clone());
    let infos = arrays.tensors().to_vec();
    // The bytes of each array, kept borrowed while they are written.
    let mut bytes = Vec::with_capacity(named.len());
    for ((_, array), info) in named.iter().zip(&infos) {
        if stored_type(info.dtype).is_none() {
            let problem = format!("type {}; floats, integers and bool can be saved", info.dtype);
            return Err(raised(Error::Tensor { tensor: info.name.clone(), problem }));
        }
        let flat = array.call_method1("reshape", (-1,))?.call_method1("view", ("uint8",))?;
        bytes.push(flat.cast::<numpy::PyArray1<u8>>()?.try_readonly()?);
    }
    let slices = bytes.iter().map(|b| b.as_slice()).collect::<std::result::Result<Vec<_>, _>>()?;
    let saved_as = Options {
        dense: Some(DenseLayout::OutIn),
        kernel: Some(KernelLayout::Oihw),
        ..Options::default()
    };
    py.detach(|| {
        claim(None, network.as_ref(), &[("output", Some(&path))])?;
        let checkpoint = open(&path, Some(arrays), network, &saved_as)?;
        let metadata = metadata.unwrap_or_else(|| {
            let description = Description::of(checkpoint.network());
            serde_json::json!({ "network": description }).to_string()
        });
        let metadata = HashMap::from([("svdo".to_owned(), metadata)]);
        let tensors = infos.iter().zip(slices).map(|(info, slice)| {
            let dtype = stored_type(info.dtype).unwrap_or(Dtype::U8);
            Ok((info.name.as_str(), TensorView::new(dtype, info.shape.clone(), slice)?))
        });
        let tensors: std::result::Result<Vec<_>, safetensors::SafeTensorError> = tensors.collect();
        svdo::files::write_with(&path, |_, temporary| {
            let write =
                |tensors| safetensors::serialize_to_file(tensors, Some(metadata), temporary);
            tensors.and_then(write).map_err(|e| match e {
                safetensors::SafeTensorError::IoError(e) => e,
                other => io::Error::other(other),
            })
        })
    })
    .map_err(raised)
}

fn stored_type(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::Bool => Dtype::BOOL,
        DType::U8 => Dtype::U8,
        DType::Other(name) => *INTEGERS.iter().find(|(_, known)| *known == name).map(|(t, _)| t)?,
        _ => return None,
    })
}

/// Integers, which are kept for the framework that reads the file.
const INTEGERS: [(Dtype, &str); 7] = [
    (Dtype::I8, "I8"),
    (Dtype::I16, "I16"),
    (Dtype::I32, "I32"),
    (Dtype::I64, "I64"),
    (Dtype::U16, "U16"),
    (Dtype::U32, "U32"),
    (Dtype::U64, "U64"),
];
