//! What an output's path leads to, and what a new file has from the one in whose place it comes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Where an output goes.
pub(super) enum Target {
    /// A regular file, or none yet; no link.
    File(PathBuf),
    /// What takes bytes but cannot be replaced.
    Stream(PathBuf),
}

impl Target {
    /// Follows symbolic links, also one whose file is not there yet.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        const MOST_LINKS: u32 = 40;
        let mut path = path.to_path_buf();
        for _ in 0..MOST_LINKS {
            if is_descriptor(&path) {
                return Ok(Self::Stream(path));
            }
            if let Ok(next) = fs::read_link(&path) {
                path = path.with_file_name(next);
                continue;
            }
            return match fs::metadata(&path) {
                Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
                Ok(found) if !found.is_file() => Ok(Self::Stream(path)),
                _ => Ok(Self::File(path)),
            };
        }
        Err(io::Error::other("too many symbolic links"))
    }
}

/// Whether the path stands for a descriptor that is open already, as `/dev/stdout` does: its file, if it
/// is one, must not be replaced under it.
fn is_descriptor(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    cfg!(unix) && [&b"/dev/std"[..], b"/dev/fd/", b"/proc/"].iter().any(|p| path.starts_with(p))
}

/// The file that is to be replaced, if there is one; an error if it may not be written to.
pub(super) fn replaceable(path: &Path) -> io::Result<Option<Metadata>> {
    let Ok(found) = fs::metadata(path) else { return Ok(None) };
    if found.permissions().readonly() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is read-only"));
    }
    OpenOptions::new().write(true).open(path)?;
    Ok(Some(found))
}

/// Gives a new file the mode of the old one, and its owner where the system allows it.
pub(super) fn inherit(file: &File, old: &Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid())
            && fchown(file, Some(old.uid()), Some(old.gid())).is_err()
        {
            // Only root gives files away; their group may be one of ours.
            let _ = fchown(file, None, Some(old.gid()));
        }
    }
    file.set_permissions(old.permissions())
}

/// Makes a file's name as durable as its content.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // A folder that may be written to but not read cannot be opened, and some systems sync none.
        if let Ok(folder) = File::open(folder) {
            match folder.sync_all() {
                Err(e) if e.kind() != io::ErrorKind::InvalidInput => return Err(e),
                _ => {}
            }
        }
    }
    let _ = path;
    Ok(())
}
