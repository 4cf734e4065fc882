//! The one error of the library. Every variant says what was found where, and what would be right.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a checkpoint and its inference. Messages are one line each and whole:
/// the text of a cause is part of them, and the cause itself their `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// Any other error, with the file it happened in.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: Box<Error>,
    },
    /// Any other error, with the tensor that it is about.
    #[error("tensor {tensor}: {cause}")]
    InTensor {
        /// The tensor's full name.
        tensor: String,
        /// What is wrong with it.
        #[source]
        cause: Box<Error>,
    },
    /// A parser does not understand the bytes.
    #[error("not a valid {format} file: {cause}")]
    Parse {
        /// The format's name.
        format: &'static str,
        /// What the parser said.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes are not in the format they are read as.
    #[error("not a valid {format} file: {problem}")]
    Format {
        /// The format's name.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The bytes are in their format, but hold what is not supported.
    #[cfg(feature = "compress")]
    #[error("valid {format}, but {problem}")]
    Unsupported {
        /// The format's name.
        format: &'static str,
        /// What it is, and what to do.
        problem: String,
    },
    /// A tensor of a checkpoint cannot be used.
    #[error("tensor {tensor}: {problem}")]
    Tensor {
        /// The tensor's full name.
        tensor: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A checkpoint holds no weights under a name that is understood.
    #[error(
        "no layer: looked for {understood}, found {}; is this a network's checkpoint?",
        list(seen)
    )]
    NoLayers {
        /// Every tensor in the checkpoint.
        seen: Vec<String>,
        /// The names that would have been understood.
        understood: String,
    },
    /// The network description does not fit itself or the layers.
    #[error("network: {problem}")]
    Network {
        /// What does not fit, with the node it concerns.
        problem: String,
    },
    /// Checksum or structure of a `.svdo` file is wrong.
    #[error("damaged .svdo file: {section}: {problem}")]
    Corrupt {
        /// The section of the file.
        section: String,
        /// What is wrong.
        problem: String,
    },
    /// The file is of a later version than this program reads.
    #[error("container version {found}, this program reads up to {known}: use a newer svdo")]
    Version {
        /// The version in the file.
        found: u8,
        /// The newest version understood.
        known: u8,
    },
    /// Something is larger than the limits in force.
    #[error("{what} needs {needed}, the limit is {limit}")]
    Limit {
        /// The thing that is too large.
        what: String,
        /// Its size.
        needed: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// Images, labels or arrays do not fit the network or each other.
    #[error("{problem}")]
    Data {
        /// What was expected and what was found.
        problem: String,
    },
    /// Who was told of the progress ended the work.
    #[error("cancelled")]
    Cancelled,
    /// An argument has no meaning here.
    #[error("{problem}")]
    Argument {
        /// What is wrong with it and what would be right.
        problem: String,
    },
}

impl Error {
    /// The message as one line that can be shown anywhere, whatever a file calls its parts.
    pub fn line(&self) -> String {
        crate::text::printable(&self.to_string()).into_owned()
    }

    /// Adds the file in which the error happened.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Io { .. } | Self::InFile { .. } => self,
            other => Self::InFile { path: path.into(), cause: Box::new(other) },
        }
    }

    /// Adds the tensor that the error is about.
    #[cfg(feature = "compress")]
    pub(crate) fn in_tensor(self, tensor: impl Into<String>) -> Self {
        Self::InTensor { tensor: tensor.into(), cause: Box::new(self) }
    }

    /// What a parser of a format said.
    #[cfg(feature = "compress")]
    pub(crate) fn parse(
        format: &'static str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Parse { format, cause: cause.into() }
    }

    pub(crate) fn network(problem: impl Into<String>) -> Self {
        Self::Network { problem: problem.into() }
    }

    pub(crate) fn corrupt(section: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Corrupt { section: section.into(), problem: problem.into() }
    }

    pub(crate) fn data(problem: impl Into<String>) -> Self {
        Self::Data { problem: problem.into() }
    }
}

/// Adds the path to an I/O result.
pub(crate) trait IoContext<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|cause| Error::Io { path: path.into(), cause })
    }
}

/// At most a dozen names, then how many more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "no tensors at all".into();
    }
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
