//! Temporary files beside the outputs that they become.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that is removed unless it gets its name.
pub(super) struct Temporary(Option<PathBuf>);

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives the file its name.
    pub(super) fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(self.path(), to)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// How the names of all temporary files of an output begin: with a number that stands for its name,
/// so that they are no longer than names may be.
pub(super) fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    // FNV-1a.
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!(".svdo-{hash:016x}-")
}

/// A new file in the folder of `path`, so that it can be renamed to it. It is locked while it is open,
/// which tells it from what a killed process left.
pub(super) fn create_beside(path: &Path) -> io::Result<(File, Temporary)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const TRIES: u32 = 1000;
    let prefix = prefix(path);
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..TRIES {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = path.with_file_name(format!("{prefix}{}-{count}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&name) {
            Ok(file) if is_held(&file, &name) => return Ok((file, Temporary(Some(name)))),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => taken = e,
            Err(e) => return Err(e),
        }
    }
    Err(taken)
}

/// Locks a new file. `false` if somebody took it for a leftover before that.
#[cfg(unix)]
fn is_held(file: &File, name: &Path) -> bool {
    // Where there are no locks, nothing is swept either.
    let _ = file.lock();
    fs::symlink_metadata(name).is_ok()
}

#[cfg(not(unix))]
fn is_held(_: &File, _: &Path) -> bool {
    true
}
