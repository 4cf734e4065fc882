//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{IoContext, Result};

/// Writes a file by way of a temporary one beside it. A failure leaves an old file as it was. What
/// is there and is no regular file (a device, a pipe) is written to directly.
///
/// # Errors
/// [`crate::Error::Io`] with the path.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    if path.exists() && !path.is_file() {
        return fs::write(path, content).at(path);
    }
    write_with(path, |file, _| file.write_all(content))
}

/// Whether [`write()`] would find a folder that takes a file there, and no folder in its place: for what
/// takes long before it writes.
///
/// # Errors
/// [`crate::Error::Io`] with the path.
pub fn check(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory)).at(path);
    }
    create_beside(path).map(drop).at(path)
}

/// Lets `fill` write a temporary file, given open and by its path, that then takes the place of
/// `path`.
///
/// # Errors
/// As [`write()`].
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut File, &Path) -> io::Result<()>,
) -> Result<()> {
    let replace = || {
        let (mut file, temporary) = create_beside(path)?;
        fill(&mut file, &temporary.0)?;
        file.sync_all()?;
        fs::rename(&temporary.0, path)?;
        std::mem::forget(temporary);
        Ok(())
    };
    replace().at(path)
}

/// A file that is removed unless it is forgotten.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A new file in the folder of `path`, so that it can be renamed to it.
fn create_beside(path: &Path) -> io::Result<(File, Temporary)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    const TRIES: u32 = 1000;
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..TRIES {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = path.with_file_name(format!(".svdo-{}-{count}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&name) {
            Ok(file) => return Ok((file, Temporary(name))),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => taken = e,
            Err(e) => return Err(e),
        }
    }
    Err(taken)
}

/// What a file is that begins so, if it is something well known that holds no network or array that
/// is read, and what to do.
#[cfg(feature = "compress")]
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    let text = head.trim_ascii_start();
    let page = |tag: &[u8]| text.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag));
    // A map of few members, the first with a short text as its key: `{"params": ...}`.
    let msgpack = matches!(head, [0x81..=0x8f, 0xa1..=0xbf | 0xd9, ..])
        || matches!(head, [0xde, _, _, 0xa1..=0xbf | 0xd9, ..]);
    let known = match head {
        _ if head.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer, the file itself is elsewhere: fetch it by git lfs pull"
        }
        _ if page(b"<!doctype") || page(b"<html") || page(b"<?xml") => {
            "a web page, as a failed download leaves: fetch the file again"
        }
        _ if head.starts_with(b"GGUF") => {
            "GGUF (llama.cpp), which is not read: save the weights as safetensors"
        }
        _ if head.get(4..8) == Some(b"TFL3") => {
            "a TensorFlow Lite model, which is not read: give the checkpoint it was made of"
        }
        _ if head.starts_with(&[0x1f, 0x8b]) => "gzip: unpack it first",
        _ if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => "zstd: unpack it first",
        _ if head.starts_with(b"Rar!") || head.starts_with(b"7z\xbc\xaf") => {
            "a packed archive: unpack it first"
        }
        _ if msgpack && head.get(8) != Some(&b'{') => {
            "msgpack, as Flax writes it, which is not read: save the arrays by numpy.savez under \
             their names"
        }
        _ => return None,
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |file, temporary| {
            file.write_all(b"half")?;
            assert!(temporary.starts_with(folder.path()));
            Err(io::Error::other("full"))
        });
        assert!(failed.unwrap_err().to_string().ends_with("x: full"));
        assert_eq!(
            (fs::read(&path).unwrap(), names(folder.path())),
            (b"old".into(), vec!["x".into()])
        );
        write(&path, b"new").unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), names(folder.path())),
            (b"new".into(), vec!["x".into()])
        );
    }

    #[test]
    fn names_that_are_taken_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let first = create_beside(&path).unwrap();
        for count in 0..5000 {
            let name = format!(".svdo-{}-{count}", std::process::id());
            let _ = File::options().write(true).create_new(true).open(folder.path().join(name));
        }
        let error = write(&path, b"").unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
        drop(first);
        assert!(write(&folder.path().join("no/such/x"), b"").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_stays() {
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }
}
