//! Temporary files that killed runs left.

use std::fs::{self, File};
use std::path::Path;

use super::temporary::prefix;

/// Removes the temporary files of the same output that no process holds. Whatever fails is left to
/// the next run.
pub(super) fn sweep(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (prefix, Ok(entries)) = (prefix(path), fs::read_dir(folder)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.as_encoded_bytes().starts_with(prefix.as_bytes());
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove_if_left(&entry.path());
        }
    }
}

/// A process holds the lock of its temporary file as long as it lives.
fn remove_if_left(path: &Path) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        let _ = fs::remove_file(path);
    }
}
