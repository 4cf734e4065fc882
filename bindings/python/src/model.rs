//! Compressed models, ready to run on arrays.

use std::path::PathBuf;
use std::sync::{LazyLock, OnceLock};

use numpy::{
    PyArray, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use svdo::engine::uncertain::UncertainEngine;
use svdo::engine::{Engine, Isa, Options};
use svdo::files::Claims;
use svdo::generate::{Choice, Generator};
use svdo::network::Shape;
use svdo::network::describe::Description;
use svdo::{Error, Result, container, data};

use crate::error::raised;
use crate::inputs::joined;
use crate::stream::Stream;

/// See the stub.
#[pyclass(frozen, module = "svdo")]
pub(crate) struct Model {
    engine: Engine,
    /// The file, for copies and other processes.
    bytes: Py<PyBytes>,
    precision: Precision,
    network: String,
    classes: Vec<String>,
    threshold: Option<f32>,
    /// What generates, once it has.
    generator: OnceLock<Generator>,
}

/// What `load` takes.
#[derive(FromPyObject)]
pub(crate) enum Stored<'py> {
    Bytes(Bound<'py, PyBytes>),
    File(PathBuf),
}

/// In which numbers layers are run.
#[derive(Clone, Copy, PartialEq)]
enum Precision {
    F32,
    Int8,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

/// See the stub.
#[pyfunction]
#[pyo3(signature = (source, *, precision="f32"))]
pub(crate) fn load(py: Python<'_>, source: Stored<'_>, precision: &str) -> PyResult<Model> {
    let precision = match precision {
        "f32" => Precision::F32,
        "int8" => Precision::Int8,
        other => {
            let problem = format!("precision={other:?}: expected \"f32\" or \"int8\"");
            return Err(PyValueError::new_err(problem));
        }
    };
    match source {
        Stored::Bytes(bytes) => {
            let content = bytes.as_bytes();
            let planned =
                py.detach(|| plan(content, precision, with_all_cores())).map_err(raised)?;
            Ok(planned.with(bytes.unbind()))
        }
        Stored::File(path) => {
            let read = || {
                let io = |cause| Error::Io { path: path.clone(), cause };
                let content = std::fs::read(&path).map_err(io)?;
                let planned =
                    plan(&content, precision, with_all_cores()).map_err(|e| e.in_file(&path))?;
                Ok((content, planned))
            };
            let (content, planned) = py.detach(read).map_err(raised)?;
            Ok(planned.with(PyBytes::new(py, &content).unbind()))
        }
    }
}

/// See the stub.
#[pyfunction]
pub(crate) fn export(
    py: Python<'_>,
    source: Stored<'_>,
    format: &str,
    sparse: bool,
    output: PathBuf,
) -> PyResult<()> {
    if let Stored::File(path) = &source {
        let mut claims = Claims::default();
        let claimed =
            claims.reads("the source", path).and_then(|()| claims.writes("output", &output));
        claimed.map_err(raised)?;
    }
    let (content, path) = match &source {
        Stored::Bytes(bytes) => (Ok(bytes.as_bytes().to_vec()), None),
        Stored::File(path) => (std::fs::read(path), Some(path.clone())),
    };
    py.detach(|| {
        let here = |e: Error| match &path {
            Some(path) => e.in_file(path),
            None => e,
        };
        let io = |cause| Error::Io { path: path.clone().unwrap_or_default(), cause };
        let model = container::read(&content.map_err(io)?).map_err(here)?;
        let written = match format {
            "safetensors" => svdo::export::safetensors(&model),
            "npz" => svdo::export::npz(&model),
            _ => svdo::export::onnx(&model, sparse),
        };
        let written = written.map_err(|e| e.in_file(&output))?;
        svdo::files::write(&output, &written)
    })
    .map_err(raised)
}

struct Planned {
    engine: Engine,
    precision: Precision,
    network: String,
    classes: Vec<String>,
    threshold: Option<f32>,
}

impl Planned {
    fn with(self, bytes: Py<PyBytes>) -> Model {
        let Self { engine, precision, network, classes, threshold } = self;
        let generator = OnceLock::new();
        Model { engine, bytes, precision, network, classes, threshold, generator }
    }
}

fn with_all_cores() -> Options {
    Options { threads: cores(), ..Options::default() }
}

fn plan(content: &[u8], precision: Precision, options: Options) -> Result<Planned> {
    let (model, engine) = match precision {
        Precision::F32 => {
            let model = container::read(content)?;
            let engine = Engine::with_options(&model, isa()?, options)?;
            (model, engine)
        }
        Precision::Int8 => {
            let (model, ranges) = container::read_for_int8(content)?;
            let engine = Engine::in_int8(&model, &ranges, isa()?, options)?;
            (model, engine)
        }
    };
    let network = serde_json::to_string(&Description::of(&model.network))
        .map_err(|e| Error::Data { problem: format!("network: {e}") })?;
    let classes = model.network.classes().into_iter().map(str::to_owned).collect();
    Ok(Planned { engine, precision, network, classes, threshold: model.threshold })
}

#[pymethods]
impl Model {
    #[pyo3(signature = (x, /, *, out=None, threads=None))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if threads == Some(0) {
            return Err(PyValueError::new_err("threads=0: expected at least 1"));
        }
        if let Some(sequences) = self.sequences(x) {
            if out.is_some() || threads.is_some() {
                return Err(PyValueError::new_err(
                    "a list of sequences takes no out and no threads",
                ));
            }
            return self.run_all(&sequences);
        }
        let (x, steps) = self.array(x)?;
        let at = steps.map(|steps| self.engine.at(steps)).transpose().map_err(raised)?;
        let engine = at.as_deref().unwrap_or(&self.engine);
        let (ins, outs) = (self.input_at(steps)?, self.output_of(engine));
        let batch = self.batch(x.shape(), &ins)?;
        let shape = [batch, &outs].concat();
        let out = match out {
            None => PyArray::zeros(py, shape, false),
            Some(out) => checked_output(out, &shape)?,
        };
        let samples = batch.iter().product::<usize>();
        let threads = threads.unwrap_or(usize::MAX);
        let input = x.try_readonly()?;
        let mut output = out.try_readwrite()?;
        let (values, results) = (input.as_slice()?, output.as_slice_mut()?);
        let (each_in, each_out) = (ins.iter().product(), outs.iter().product());
        py.detach(|| {
            data::finite("element", values, each_in)?;
            let mut workspace = engine.workspace(samples).with_threads(threads);
            engine.run(&mut workspace, values, results)?;
            data::finite("output", results, each_out)
        })
        .map_err(raised)?;
        drop(output);
        Ok(out.into_any())
    }

    #[pyo3(signature = (x, /, *, uncertainty="moments", seed=0, threads=None))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        uncertainty: &str,
        seed: u64,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (predictions, batch) =
            self.predicted(py, x, (uncertainty, seed, threads), |engine, values| {
                engine.predict(values, seed)
            })?;
        let classes = dimensions(self.engine.output_shape()).iter().product();
        crate::predict::classes(py, &predictions, &batch, classes)
    }

    #[pyo3(signature = (x, /, *, uncertainty="moments", seed=0, threads=None))]
    fn predict_numbers<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        uncertainty: &str,
        seed: u64,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (predictions, batch) =
            self.predicted(py, x, (uncertainty, seed, threads), UncertainEngine::predict_numbers)?;
        let shape = [&batch[..], &dimensions(self.engine.output_shape())].concat();
        crate::predict::numbers(py, &predictions, &shape)
    }

    #[pyo3(signature = (*, steps=1))]
    fn stream(&self, py: Python<'_>, steps: usize) -> PyResult<Stream> {
        let file = self.bytes.bind(py).as_bytes();
        let steps = self.engine.time().map(|_| steps);
        let options = Options { stream: true, steps, ..with_all_cores() };
        let planned = py.detach(|| plan(file, self.precision, options)).map_err(raised)?;
        Ok(Stream::new(planned.engine))
    }

    #[pyo3(signature = (ids, count, /, *, temperature=0.0, seed=0))]
    fn generate(
        &self,
        ids: &Bound<'_, PyAny>,
        count: usize,
        temperature: f32,
        seed: u64,
    ) -> PyResult<Vec<u32>> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            let problem = format!("temperature={temperature}: expected a number from 0 on");
            return Err(PyValueError::new_err(problem));
        }
        let prompt = contiguous_f32(ids)?;
        if prompt.shape().len() != 1 {
            let problem = format!("ids of shape {}: expected one sequence", tuple(prompt.shape()));
            return Err(PyValueError::new_err(problem));
        }
        let prompt = prompt.try_readonly()?;
        let (prompt, file) = (prompt.as_slice()?, self.bytes.bind(ids.py()).as_bytes());
        let choice = Choice { temperature, seed };
        let tokens = ids.py().detach(|| {
            if self.generator.get().is_none() {
                let planned = Generator::new(&container::read(file)?, isa()?, cores())?;
                // If another thread was faster, its is as good.
                let _ = self.generator.set(planned);
            }
            let generator = self.generator.get();
            generator.map_or(Ok(Vec::new()), |g| g.generate(prompt, count, choice))
        });
        tokens.map_err(raised)
    }

    #[getter]
    fn input_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, dimensions(self.engine.input_shape()))
    }

    #[getter]
    fn output_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, dimensions(self.engine.output_shape()))
    }

    #[getter]
    fn max_time(&self) -> Option<usize> {
        self.engine.time().map(|time| time.longest)
    }

    #[getter]
    fn threshold(&self) -> Option<f64> {
        // The f64 that prints as shortly as the f32.
        self.threshold.and_then(|t| t.to_string().parse().ok())
    }

    #[getter]
    fn network<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("json")?.call_method1("loads", (&self.network,))
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    #[getter]
    fn cpu(&self) -> &'static str {
        self.engine.isa().name()
    }

    #[getter]
    fn precision(&self) -> &'static str {
        self.precision.name()
    }

    fn to_bytes(&self, py: Python<'_>) -> Py<PyBytes> {
        self.bytes.clone_ref(py)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (Py<PyBytes>,))> {
        let load = py.import("svdo")?.getattr("load")?;
        if self.precision == Precision::F32 {
            return Ok((load, (self.to_bytes(py),)));
        }
        let keywords = PyDict::new(py);
        keywords.set_item("precision", self.precision.name())?;
        let partial = py.import("functools")?.getattr("partial")?;
        Ok((partial.call((load,), Some(&keywords))?, (self.to_bytes(py),)))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!(
            "<svdo.Model {} -> {}, {} bytes, {} kernels>",
            tuple(&dimensions(self.engine.input_shape())),
            tuple(&dimensions(self.engine.output_shape())),
            self.bytes.bind(py).as_bytes().len(),
            self.cpu()
        )
    }
}

impl Model {
    /// What `predict` makes of samples under the posterior, and their batch dimensions.
    fn predicted<T: Send>(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        (how, seed, threads): (&str, u64, Option<usize>),
        predict: impl FnOnce(&UncertainEngine, &[f32]) -> Result<Vec<T>> + Send,
    ) -> PyResult<(Vec<T>, Vec<usize>)> {
        let (x, steps) = self.array(x)?;
        let ins = dimensions(self.engine.input_shape());
        if let (Some(steps), Some(time)) = (steps, self.engine.time())
            && steps != time.longest
        {
            return Err(PyValueError::new_err(format!(
                "predict takes sequences of {} steps, not {steps}: call the model for others",
                time.longest
            )));
        }
        let batch = self.batch(x.shape(), &ins)?.to_vec();
        let input = x.try_readonly()?;
        let (values, file) = (input.as_slice()?, self.bytes.bind(py).as_bytes());
        let found =
            py.detach(|| predict(&crate::predict::engine(file, how, seed, threads)?, values));
        Ok((found.map_err(raised)?, batch))
    }

    /// What was given, or the samples of arrays by name, as f32; and how many steps they have, where that is free.
    fn array<'py>(
        &self,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyArrayDyn<f32>>, Option<usize>)> {
        let Some(time) = self.engine.time() else {
            let x = match x.cast::<PyDict>() {
                Ok(arrays) => joined(arrays, &self.engine.input().parts)?,
                Err(_) => x.clone(),
            };
            return Ok((contiguous_f32(&x)?, None));
        };
        let longest = self.engine.input();
        let input = |steps: usize| time.input(longest, steps).map_err(raised);
        if let Ok(arrays) = x.cast::<PyDict>() {
            // The first that is there of those whose size follows from the steps.
            let one = if time.longest > 1 { input(1)? } else { longest.clone() };
            let free = |&at: &usize| one.parts[at].shape != longest.parts[at].shape;
            let mut steps = time.longest;
            for at in (0..longest.parts.len()).filter(free) {
                if let Some(array) = arrays.get_item(&longest.parts[at].name)? {
                    let array = contiguous_f32(&array)?;
                    let fits = |steps| Ok(sizes(input(steps)?.parts[at].shape, false));
                    steps = steps_of(array.shape(), &fits, longest.parts[at].shape)?;
                    break;
                }
            }
            let joined = joined(arrays, &input(steps)?.parts)?;
            return Ok((contiguous_f32(&joined)?, Some(steps)));
        }
        let x = contiguous_f32(x)?;
        let vector = longest.shape.area() == 1;
        let fits = |steps| Ok(sizes(input(steps)?.shape, vector));
        let steps = steps_of(x.shape(), &fits, longest.shape)?;
        Ok((x, Some(steps)))
    }

    /// The dimensions of a sample of so many steps, where that is free; of one of the longest's rank.
    fn input_at(&self, steps: Option<usize>) -> PyResult<Vec<usize>> {
        let longest = self.engine.input();
        match (self.engine.time(), steps) {
            (Some(time), Some(steps)) => {
                let shape = time.input(longest, steps).map_err(raised)?.shape;
                Ok(sizes(shape, longest.shape.area() == 1))
            }
            _ => Ok(dimensions(longest.shape)),
        }
    }

    /// The dimensions of an output, of the rank of the longest's.
    fn output_of(&self, engine: &Engine) -> Vec<usize> {
        sizes(engine.output_shape(), self.engine.output_shape().area() == 1)
    }

    /// The elements of a list that are sequences, where these may have any length.
    fn sequences<'py>(&self, x: &Bound<'py, PyAny>) -> Option<Vec<Bound<'py, PyAny>>> {
        self.engine.time()?;
        let list = x.cast::<PyList>().ok()?;
        let number = |x: &Bound<'_, PyAny>| x.extract::<f64>().is_ok();
        let all: Vec<_> = list.iter().collect();
        (!all.is_empty() && !all.iter().any(number)).then_some(all)
    }

    /// The outputs of sequences of any lengths.
    fn run_all<'py>(&self, given: &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
        let (mut lengths, mut values) = (Vec::with_capacity(given.len()), Vec::new());
        for (at, x) in given.iter().enumerate() {
            let (x, steps) = self.array(x)?;
            let ins = self.input_at(steps)?;
            if self.batch(x.shape(), &ins)?.iter().any(|&size| size != 1) {
                return Err(PyValueError::new_err(format!(
                    "element {at} has shape {}: of a list, each is one sequence",
                    tuple(x.shape())
                )));
            }
            lengths.extend(steps);
            values.extend_from_slice(x.try_readonly()?.as_slice()?);
        }
        let py = given[0].py();
        let found = py.detach(|| self.engine.infer_sequences(&lengths, &values));
        let rows = found.map_err(raised)?.into_iter().zip(&lengths).map(|(row, &steps)| {
            let engine = self.engine.at(steps).map_err(raised)?;
            PyArray::from_vec(py, row).reshape(self.output_of(&engine))
        });
        Ok(PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)?.into_any())
    }

    /// The dimensions before those of a sample.
    fn batch<'a>(&self, shape: &'a [usize], sample: &[usize]) -> PyResult<&'a [usize]> {
        shape.strip_suffix(sample).ok_or_else(|| {
            PyValueError::new_err(format!(
                "input shape {}, expected {} after any batch dimensions",
                tuple(shape),
                tuple(sample)
            ))
        })
    }
}

/// The dimensions of a value that is a vector, or is not though it may have one place.
fn sizes(shape: Shape, vector: bool) -> Vec<usize> {
    match vector {
        true => vec![shape.channels],
        false => vec![shape.channels, shape.height, shape.width],
    }
}

/// The steps for which an array's dimensions end with those of a sample.
fn steps_of(
    shape: &[usize],
    sample: &dyn Fn(usize) -> PyResult<Vec<usize>>,
    longest: Shape,
) -> PyResult<usize> {
    let mut refused = None;
    for &steps in shape.iter().rev() {
        match sample(steps) {
            Ok(sample) if shape.ends_with(&sample) => return Ok(steps),
            Ok(_) => {}
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    Err(refused.unwrap_or_else(|| {
        PyValueError::new_err(format!(
            "input shape {}, expected a sequence, {} at most, after any batch dimensions",
            tuple(shape),
            tuple(&dimensions(longest))
        ))
    }))
}

/// The array itself if it is f32 in C order; otherwise a converted copy.
pub(crate) fn contiguous_f32<'py>(x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    if let Ok(array) = x.cast::<PyArrayDyn<f32>>()
        && array.is_c_contiguous()
    {
        return Ok(array.clone());
    }
    static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = x.py();
    let asarray = AS_ARRAY.import(py, "numpy", "asarray")?;
    let array = asarray.call1((x,))?;
    let kind = array.cast::<PyUntypedArray>()?.dtype().kind();
    if !b"fiub".contains(&kind) {
        let dtype = array.getattr("dtype")?;
        return Err(PyTypeError::new_err(format!("input of type {dtype}, expected numbers")));
    }
    let options = PyDict::new(py);
    options.set_item("dtype", numpy::dtype::<f32>(py))?;
    options.set_item("order", "C")?;
    let array = asarray.call((array,), Some(&options))?;
    Ok(array.cast_into::<PyArrayDyn<f32>>()?)
}

fn checked_output<'py>(
    out: &Bound<'py, PyAny>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    match out.cast::<PyArrayDyn<f32>>() {
        Ok(array) if array.is_c_contiguous() && array.shape() == shape => Ok(array.clone()),
        _ => Err(PyValueError::new_err(format!(
            "out: expected a C-contiguous float32 array of shape {}",
            tuple(shape)
        ))),
    }
}

/// `(n,)` of a vector, `(channels, height, width)` of a map.
pub(crate) fn dimensions(shape: Shape) -> Vec<usize> {
    match shape {
        Shape { channels, height: 1, width: 1 } => vec![channels],
        Shape { channels, height, width } => vec![channels, height, width],
    }
}

/// A shape as Python writes it.
pub(crate) fn tuple(shape: &[usize]) -> String {
    let list = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    if shape.len() == 1 { format!("({list},)") } else { format!("({list})") }
}

/// The cores that this process may use.
pub(crate) fn cores() -> usize {
    static CORES: LazyLock<usize> = LazyLock::new(svdo::engine::physical_cores);
    *CORES
}

/// `SVDO_CPU`, read here and nowhere else.
pub(crate) fn isa() -> Result<Isa> {
    Isa::detect(std::env::var("SVDO_CPU").ok().as_deref())
}
