//! Samples that `svdo-compress` takes.

use std::path::Path;

use crate::network::Shape;

/// Samples without labels.
pub(super) fn samples_of(path: &Path, shape: Shape) -> anyhow::Result<Vec<f32>> {
    Ok(crate::data::read_samples(&[path.to_path_buf()], None, shape)?.values)
}
