//! The compiled half of the Python package `svdo`: checkpoints in, files and outputs out.
//!
//! Arguments are checked and named by the Python half; here they become the library's types, the
//! interpreter's lock is released, and the library works. The stubs beside the Python half are this
//! module's documentation.

mod arrays;
mod checkpoint;
mod error;
mod graph;
mod inputs;
mod model;
mod options;
mod predict;
mod stream;

/// The module `svdo._svdo`.
#[pyo3::pymodule]
mod _svdo {
    #[pymodule_export]
    use super::checkpoint::{compress, save};
    #[pymodule_export]
    use super::error::SvdoError;
    #[pymodule_export]
    use super::graph::{graph, tensors};
    #[pymodule_export]
    use super::model::{Model, export, load};
    #[pymodule_export]
    use super::stream::Stream;
}
