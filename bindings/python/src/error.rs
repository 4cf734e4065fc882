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
    match error {
        svdo::Error::Argument { problem } => PyValueError::new_err(problem),
        other => SvdoError::new_err(other.to_string()),
    }
}
