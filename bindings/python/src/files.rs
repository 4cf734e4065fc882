//! Files that appear whole or not at all.

use std::io;
use std::path::Path;

use svdo::{Error, Result};
use tempfile::NamedTempFile;

/// Lets `fill` write a temporary file beside `path`, then puts it there. A failure leaves an old
/// file as it was.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".svdo-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let replace = || {
        let mut file = builder.tempfile_in(folder)?;
        fill(&mut file)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(io::Error::from)
    };
    replace().map_err(|cause| Error::Io { path: path.into(), cause })
}
