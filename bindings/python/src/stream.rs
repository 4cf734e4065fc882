//! Networks that go on from where they were: parts of a sequence.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArray, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use svdo::data;
use svdo::engine::{Engine, Workspace};

use crate::error::raised;
use crate::model::{contiguous_f32, dimensions, tuple};

/// See the stub.
#[pyclass(frozen, module = "svdo")]
pub(crate) struct Stream {
    engine: Engine,
    workspace: Mutex<Workspace>,
}

impl Stream {
    /// At the beginning of a sequence.
    pub(crate) fn new(engine: Engine) -> Self {
        let workspace = Mutex::new(engine.workspace(1));
        Self { engine, workspace }
    }
}

#[pymethods]
impl Stream {
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let x = contiguous_f32(x)?;
        let (ins, outs) =
            (dimensions(self.engine.input_shape()), dimensions(self.engine.output_shape()));
        let Some(parts) = x.shape().strip_suffix(&ins[..]) else {
            return Err(PyValueError::new_err(format!(
                "input shape {}, expected {} after the number of parts, if there are several",
                tuple(x.shape()),
                tuple(&ins)
            )));
        };
        let out = PyArray::zeros(py, [parts, &outs].concat(), false);
        let (input, mut output) = (x.try_readonly()?, out.try_readwrite()?);
        let (values, results) = (input.as_slice()?, output.as_slice_mut()?);
        py.detach(|| {
            data::finite("element", values, ins.iter().product())?;
            let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
            self.engine.run(&mut workspace, values, results)?;
            data::finite("output", results, outs.iter().product())
        })
        .map_err(raised)?;
        drop(output);
        Ok(out)
    }

    fn reset(&self) {
        *self.workspace.lock().unwrap_or_else(PoisonError::into_inner) = self.engine.workspace(1);
    }

    #[getter]
    fn input_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, dimensions(self.engine.input_shape()))
    }

    #[getter]
    fn output_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, dimensions(self.engine.output_shape()))
    }
}
