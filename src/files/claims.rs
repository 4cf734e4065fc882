//! Which files a command reads and writes, so that none is lost to another.

use std::fs;
use std::path::{Path, PathBuf};

use super::target::Target;
use crate::error::{Error, Result};

/// Every file that a command is about to read or write, with what names it. An output that is an input
/// or another output is refused, by whatever path, link or spelling it goes.
///
/// ```
/// use std::path::Path;
/// let mut claims = svdo::files::Claims::default();
/// claims.reads("the input", Path::new("Cargo.toml"))?;
/// assert!(claims.writes("--json", Path::new("./Cargo.toml")).is_err());
/// # Ok::<(), svdo::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Claims(Vec<Claim>);

#[derive(Debug)]
struct Claim {
    name: String,
    path: PathBuf,
    identity: Identity,
    writes: bool,
}

impl Claims {
    /// A file that is read, and what to call it.
    ///
    /// # Errors
    /// [`Error::Argument`] that names both if it is written, too.
    pub fn reads(&mut self, name: &str, path: &Path) -> Result<()> {
        self.add(name, path, false)
    }

    /// A file that is replaced or appended to; `-` stands for standard output and is none.
    ///
    /// # Errors
    /// [`Error::Argument`] that names both if it is read, or written by another name.
    pub fn writes(&mut self, name: &str, path: &Path) -> Result<()> {
        if path == Path::new("-") { Ok(()) } else { self.add(name, path, true) }
    }

    fn add(&mut self, name: &str, path: &Path, writes: bool) -> Result<()> {
        let Some(identity) = Identity::of(path) else { return Ok(()) };
        let clash = |c: &&Claim| (writes || c.writes) && c.identity == identity;
        if let Some(other) = self.0.iter().find(clash) {
            let problem = format!(
                "{name} {} is the same file as {} {}, which would be lost: write to another",
                path.display(),
                other.name,
                other.path.display()
            );
            return Err(Error::Argument { problem });
        }
        self.0.push(Claim { name: name.into(), path: path.into(), identity, writes });
        Ok(())
    }
}

/// What makes a file the same under every name: its number on its device, or, where there is none yet,
/// that of its folder and its name.
#[cfg(unix)]
#[derive(Debug, PartialEq)]
struct Identity(u64, u64, Option<std::ffi::OsString>);

#[cfg(unix)]
impl Identity {
    /// None for what is not there and has no folder, and for what nothing is lost of: devices and pipes.
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        if let Ok(found) = fs::metadata(path) {
            return (found.is_file()).then(|| Self(found.dev(), found.ino(), None));
        }
        let Ok(Target::File(path)) = Target::of(path) else { return None };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = fs::metadata(folder.unwrap_or(Path::new("."))).ok()?;
        Some(Self(folder.dev(), folder.ino(), Some(path.file_name()?.to_owned())))
    }
}

/// As on Unix, by the canonical path.
#[cfg(not(unix))]
#[derive(Debug, PartialEq)]
struct Identity(PathBuf);

#[cfg(not(unix))]
impl Identity {
    fn of(path: &Path) -> Option<Self> {
        if let Ok(found) = fs::canonicalize(path) {
            return found.is_file().then_some(Self(found));
        }
        let Ok(Target::File(path)) = Target::of(path) else { return None };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
        Some(Self(folder.join(path.file_name()?)))
    }
}
