//! Safetensors files, alone or as the shards of one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

use super::stored::{Entry, Part, Stored};
use super::tensor::{DType, TensorSource};
use super::torch;
use crate::error::{Error, IoContext, Result};

/// The largest header accepted, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// The names under which a sharded checkpoint's table of contents goes.
pub(super) const INDICES: [&str; 2] =
    ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// One file.
pub(super) fn open(path: &Path) -> Result<Stored> {
    let mut stored = Stored::new("safetensors");
    add(&mut stored, path)?;
    Ok(stored)
}

/// The shards that a table of contents maps tensors to; each must be there, with those tensors.
pub(super) fn open_index(path: &Path) -> Result<Stored> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
        #[serde(default)]
        metadata: IndexMetadata,
    }
    #[derive(Default, serde::Deserialize)]
    struct IndexMetadata {
        svdo: Option<String>,
    }
    let invalid = |problem: String| Error::Format { format: "safetensors index", problem };
    let index = Part::open(path)?;
    let text = index.bytes(0, index.length(), MAX_HEADER)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| Error::parse("safetensors index", e).in_file(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let torch = index.weight_map.values().any(|shard| !shard.ends_with(".safetensors"));
    let format = if torch { "PyTorch shards" } else { "sharded safetensors" };
    let mut stored = Stored::new(format);
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, shard) in &index.weight_map {
        shards.entry(shard).or_default().push(name);
    }
    for (shard, names) in shards {
        let inside = Path::new(shard).components().all(|c| matches!(c, Component::Normal(_)));
        if !inside || shard.is_empty() {
            let problem = format!("the shard {shard:?} is not the name of a file beside it");
            return Err(invalid(problem).in_file(path));
        }
        let first = stored.tensors().len();
        let path_of = folder.join(shard);
        match shard.ends_with(".safetensors") {
            true => add(&mut stored, &path_of)?,
            false => stored.append(torch::open(&path_of).map_err(|e| e.in_file(&path_of))?),
        }
        let there: BTreeSet<&str> =
            stored.tensors()[first..].iter().map(|t| t.name.as_str()).collect();
        if let Some(name) = names.iter().find(|name| !there.contains(*name)) {
            let problem = format!("maps tensor {name} to {shard}, which does not hold it");
            return Err(invalid(problem).in_file(path));
        }
    }
    if let Some(text) = index.metadata.svdo {
        stored.metadata.insert("svdo".into(), text);
    }
    stored.check_names().map_err(|e| e.in_file(path))?;
    Ok(stored)
}

/// All safetensors files of a folder, by name.
pub(super) fn open_folder(files: &[PathBuf]) -> Result<Stored> {
    let mut stored = Stored::new("sharded safetensors");
    for file in files {
        add(&mut stored, file)?;
    }
    stored.check_names()?;
    Ok(stored)
}

/// Reads and checks a header; the tensors' bytes stay in the file.
fn add(stored: &mut Stored, path: &Path) -> Result<()> {
    let part = Part::open(path)?;
    let length = part.length();
    let invalid = |problem: String| Error::Format { format: "safetensors", problem }.in_file(path);
    if length < 8 {
        return Err(invalid(format!("{length} bytes is too short for a header")));
    }
    let mut size = [0; 8];
    part.read_at(&mut size, 0)?;
    let header_length = u64::from_le_bytes(size);
    if header_length > MAX_HEADER.min(length - 8) {
        return Err(invalid(format!(
            "its first 8 bytes announce a header of {header_length} bytes, the file has {length}: \
             truncated, or not safetensors"
        )));
    }
    let header = part.bytes(8, header_length, MAX_HEADER)?;
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|e| Error::parse("safetensors", e).in_file(path))?;
    let (expected, found) = (header.data_len() as u64, length - 8 - header_length);
    if expected != found {
        return Err(invalid(format!(
            "the header describes {expected} bytes of tensors, the file has {found}: {}",
            if found < expected { "truncated" } else { "extra bytes at the end" }
        )));
    }
    let part = stored.add_part(part);
    let mut entries: Vec<_> = header.tensors().into_iter().collect();
    entries.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    for (name, info) in entries {
        let start = 8 + header_length + info.data_offsets.0 as u64;
        let (dtype, shape) = (dtype(info.dtype), info.shape.clone());
        stored
            .push(Entry { name, dtype, shape, part, start, strides: None })
            .map_err(|e| e.in_file(path))?;
    }
    let metadata = header.metadata().as_ref();
    stored.claims(|name| metadata?.get(name)?.parse().ok());
    for (key, text) in header.metadata().iter().flatten() {
        stored.metadata.entry(key.clone()).or_insert_with(|| text.clone());
    }
    Ok(())
}

/// The safetensors files of a folder, by name.
pub(super) fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::BOOL => DType::Bool,
        Dtype::U8 => DType::U8,
        Dtype::I8 => DType::Other("I8"),
        Dtype::I16 => DType::Other("I16"),
        Dtype::U16 => DType::Other("U16"),
        Dtype::I32 => DType::Other("I32"),
        Dtype::U32 => DType::Other("U32"),
        Dtype::I64 => DType::Other("I64"),
        Dtype::U64 => DType::Other("U64"),
        Dtype::F8_E5M2 => DType::Other("F8_E5M2"),
        Dtype::F8_E4M3 => DType::Other("F8_E4M3"),
        _ => DType::Other("another type"),
    }
}
