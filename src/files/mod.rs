//! Files that appear whole or not at all, and never in the place of one that a command reads.

mod claims;
#[cfg(feature = "compress")]
mod foreign;
#[cfg(all(feature = "compress", unix))]
mod leftovers;
mod target;
mod temporary;

#[cfg(test)]
mod tests;

pub use claims::Claims;
#[cfg(feature = "compress")]
pub(crate) use foreign::foreign;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use crate::error::{IoContext, Result};
use target::Target;

/// Writes a file by way of a temporary one beside it. A failure leaves an old file as it was; a new one
/// has the mode and, if the system lets it, the owner of the old one. A symbolic link is followed and
/// stays. What is there and is no regular file (a device, a pipe, `/dev/stdout`) is written to directly.
///
/// # Errors
/// [`crate::Error::Io`] with the path, also for a file that is read-only.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let write = || match Target::of(path)? {
        Target::File(target) => replace(&target, None, &mut |file, _| file.write_all(content)),
        Target::Stream(target) => stream(&target)?.write_all(content),
    };
    write().at(path)
}

/// As [`write()`]; the file that was there before stays as `previous`.
///
/// # Errors
/// As [`write()`].
#[cfg(all(feature = "compress", any(all(feature = "cli", feature = "train"), test)))]
pub(crate) fn write_keeping(path: &Path, previous: &Path, content: &[u8]) -> Result<()> {
    let write = || match Target::of(path)? {
        Target::File(target) => {
            replace(&target, Some(previous), &mut |file, _| file.write_all(content))
        }
        Target::Stream(target) => stream(&target)?.write_all(content),
    };
    write().at(path)
}

/// Whether [`write()`] would find a folder that takes a file there, and no folder or read-only file in
/// its place: for what takes long before it writes.
///
/// # Errors
/// [`crate::Error::Io`] with the path.
#[cfg(feature = "compress")]
pub fn check(path: &Path) -> Result<()> {
    let check = || match Target::of(path)? {
        Target::File(target) => {
            target::replaceable(&target)?;
            temporary::create_beside(&target).map(drop)
        }
        Target::Stream(_) => Ok(()),
    };
    check().at(path)
}

/// Lets `fill` write a temporary file, given open and by its path, that then takes the place of
/// `path`.
///
/// # Errors
/// As [`write()`].
#[cfg(feature = "compress")]
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut File, &Path) -> io::Result<()>,
) -> Result<()> {
    let mut fill = Some(fill);
    let mut once = |file: &mut File, path: &Path| match fill.take() {
        Some(fill) => fill(file, path),
        None => Ok(()),
    };
    let mut write = || match Target::of(path)? {
        Target::File(target) => replace(&target, None, &mut once),
        Target::Stream(target) => {
            let (mut file, temporary) = temporary::create_beside(&std::env::temp_dir().join("x"))?;
            once(&mut file, temporary.path())?;
            io::copy(&mut File::open(temporary.path())?, &mut stream(&target)?).map(drop)
        }
    };
    write().at(path)
}

/// A device, a pipe or an open descriptor, as it is.
fn stream(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn replace(
    path: &Path,
    previous: Option<&Path>,
    fill: &mut dyn FnMut(&mut File, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let old = target::replaceable(path)?;
    #[cfg(all(feature = "compress", unix))]
    leftovers::sweep(path);
    let (mut file, temporary) = temporary::create_beside(path)?;
    if let Some(old) = &old {
        target::inherit(&file, old)?;
    }
    fill(&mut file, temporary.path())?;
    file.sync_all()?;
    if let (Some(previous), Some(_)) = (previous, &old) {
        fs::rename(path, previous)?;
    }
    temporary.rename(path)?;
    target::sync_folder(path)
}
