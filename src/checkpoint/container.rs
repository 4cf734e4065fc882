//! Which container a file or folder is, by its content.

use std::path::Path;

use super::archive::Archive;
use super::stored::{Part, Stored};
use super::tensor::TensorSource;
use super::{graph, hdf5, keras, msgpack, numpy, safetensors, tensorflow, torch};
use crate::budget::ReadBudget;
use crate::error::{Error, IoContext, Result};

/// Every container that is read, for messages and help.
pub const CONTAINERS: &str = "safetensors (one file, an index of shards, or a folder), PyTorch \
     (.pt, .pth, .t7), NumPy (.npy, .npz), pickles of NumPy arrays, TensorFlow checkpoints \
     (prefix or .index), Keras (.h5, .keras), Flax (.msgpack), ONNX (.onnx)";

/// Opens any container. Nothing but its table of contents is read.
///
/// # Errors
/// Names the file, what it is taken for and what is wrong.
pub fn open_source(path: &Path) -> Result<Box<dyn TensorSource>> {
    if crate::onnx::is_onnx(path) {
        return Ok(Box::new(graph::Initializers::open(path)?));
    }
    open(path).map(|stored| Box::new(stored) as Box<dyn TensorSource>).map_err(|e| e.in_file(path))
}

fn open(path: &Path) -> Result<Stored> {
    if path.is_dir() {
        return open_folder(path);
    }
    if !path.exists() {
        // TensorFlow users pass the prefix, which is no file.
        if let Some(index) = tensorflow::index_of(path) {
            return tensorflow::open(&index);
        }
    }
    let part = Part::open(path)?;
    let length = part.length();
    let head = part.bytes(0, length.min(64), 64)?;
    let tail = part.bytes(length.saturating_sub(8), length.min(8), 8)?;
    if head.starts_with(b"PK\x03\x04") {
        return open_zip(part);
    }
    if head.starts_with(numpy::MAGIC) {
        return numpy::open_npy(part, path);
    }
    if head.starts_with(hdf5::MAGIC) {
        return keras::open(part);
    }
    if tail == tensorflow::MAGIC {
        return tensorflow::open(path);
    }
    if let [0x80, 1..=5, rest @ ..] = &head[..] {
        // The length of a safetensors header may look like it; its JSON follows.
        if !(head.get(8) == Some(&b'{') && head[5..8] == [0; 3]) {
            return match rest.starts_with(torch::LEGACY_MAGIC) {
                true => torch::open_legacy(part),
                false => torch::open_arrays(part, 0, "pickle"),
            };
        }
    }
    if head.starts_with(b"SVDO") {
        return Err(Error::Format {
            format: "checkpoint",
            problem: "it is a compressed model already; `svdo inspect` shows what is in it".into(),
        });
    }
    if msgpack::is_map(&head) {
        return msgpack::open(part);
    }
    if let Some(known) = crate::files::foreign(&head) {
        let problem = format!("it is {known}");
        return Err(Error::Format { format: "checkpoint", problem });
    }
    if head.trim_ascii_start().starts_with(b"{") {
        return safetensors::open_index(path);
    }
    if let (Some(index), true) = (tensorflow::index_of(path), name(path).contains(".data-")) {
        return tensorflow::open(&index);
    }
    if head.get(8) != Some(&b'{') && path.extension().is_none_or(|e| e != "safetensors") {
        let problem = format!("format not recognized: there are {CONTAINERS}");
        return Err(Error::Format { format: "checkpoint", problem });
    }
    safetensors::open(path)
}

fn open_zip(part: Part) -> Result<Stored> {
    let budget = ReadBudget::new(part.length());
    let archive = Archive::open(&part, &budget)?;
    let has = |end: &str| archive.members.iter().any(|m| m.name.ends_with(end));
    let (pickle, arrays, weights) = (has("data.pkl"), has(".npy"), has(keras::WEIGHTS));
    drop(archive);
    match (pickle, arrays, weights) {
        (true, _, _) => torch::open_zip(part),
        (_, true, _) => numpy::open_npz(part),
        (_, _, true) => keras::open_zip(part),
        _ => Err(Error::Format {
            format: "checkpoint",
            problem: "a zip archive without a data.pkl (PyTorch), .npy members (NumPy) or a \
                      model.weights.h5 (Keras): save the weights as one of these or as safetensors"
                .into(),
        }),
    }
}

fn open_folder(folder: &Path) -> Result<Stored> {
    for index in safetensors::INDICES {
        let index = folder.join(index);
        if index.is_file() {
            return safetensors::open_index(&index);
        }
    }
    let shards = safetensors::in_folder(folder)?;
    if !shards.is_empty() {
        return safetensors::open_folder(&shards);
    }
    const ORBAX: [&str; 4] =
        ["_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "default/manifest.ocdbt"];
    let orbax = |folder: &Path| ORBAX.iter().any(|name| folder.join(name).exists());
    // Of a manager, a folder for each step.
    let mut below = std::fs::read_dir(folder).at(folder)?.flatten().map(|entry| entry.path());
    if orbax(folder) || below.any(|folder| orbax(&folder)) {
        let problem =
            "it is an Orbax checkpoint, which is not read: restore it and save its arrays, \
                       params = orbax.checkpoint.PyTreeCheckpointer().restore(FOLDER), then \
                       open(\"m.msgpack\", \"wb\").write(flax.serialization.to_bytes(params))"
                .into();
        return Err(Error::Format { format: "checkpoint", problem });
    }
    let mut bundles = Vec::new();
    for folder in [folder.to_path_buf(), folder.join("variables")] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.at(&folder)?.path();
            if path.extension().is_some_and(|e| e == "index") {
                bundles.push(path);
            }
        }
    }
    bundles.sort();
    match &bundles[..] {
        [index] => tensorflow::open(index),
        [] => Err(Error::Format {
            format: "checkpoint",
            problem: format!(
                "the folder holds no {}, no .safetensors and no TensorFlow .index",
                safetensors::INDICES[0]
            ),
        }),
        several => {
            let names: Vec<String> = several.iter().take(6).map(|p| name(p)).collect();
            let problem = format!("several checkpoints, choose one: {}", names.join(", "));
            Err(Error::Format { format: "checkpoint", problem })
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
