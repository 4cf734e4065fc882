//! Files for readers that take paths.

use std::path::{Path, PathBuf};

/// A folder in memory where there is one, one for each thread.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = match std::env::var_os("SVDO_FUZZ_SCRATCH") {
            Some(folder) => folder.into(),
            None if memory.is_dir() => memory.into(),
            None => std::env::temp_dir(),
        };
        let thread = format!("{:?}", std::thread::current().id());
        let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
        let folder = parent.join(format!("svdo-fuzz-{}-{thread}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a file that the next of the same name replaces.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    thread_local!(static FOLDER: Folder = Folder::new());
    FOLDER.with(|folder| {
        let path = folder.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    })
}
