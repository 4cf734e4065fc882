//! The library's errors as exceptions, with the same one-line texts.

use pyo3::PyErr;
use pyo3::exceptions::{PyException, PyValueError};

pyo3::create_exception!(
    svdo,
    SvdoError,
    PyException,
    "A checkpoint or file that cannot be used, in one line: file, tensor, expected, found."
);

/// An argument without meaning is a `ValueError`, everything else a `SvdoError`.
pub(crate) fn raised(error: svdo::Error) -> PyErr {
    let line = error.line();
    match error {
        svdo::Error::Argument { .. } => PyValueError::new_err(line),
        _ => SvdoError::new_err(line),
    }
}
