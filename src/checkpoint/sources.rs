//! All files of a checkpoint, before it is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::safetensors::INDICES;
use super::tensorflow;
use crate::onnx;

/// Every file that opening this file, folder or prefix may read: shards with their table of contents,
/// the parts of a TensorFlow checkpoint, external data of an ONNX model. What cannot be read is left
/// to [`open_source`](super::open_source) to report.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        files.extend(INDICES.iter().flat_map(|index| shards(&path.join(index))));
        let parts = entries(path).into_iter().chain(entries(&path.join("variables")));
        files.extend(parts.filter(|part| is_part(part)));
    } else if onnx::is_onnx(path) {
        files.extend(onnx::external_files(path));
    } else {
        files.extend(shards(path));
        files.extend(bundle(path));
    }
    files
}

/// Whether a file of a folder may be one of the checkpoint's: others in it are none of its business.
fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = [".safetensors", ".index", INDICES[0], INDICES[1]];
    ends.iter().any(|end| name.ends_with(end)) || name.contains(".data-")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Those that a table of contents of safetensors names.
fn shards(path: &Path) -> Vec<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    if path.extension().is_none_or(|e| e != "json") {
        return Vec::new();
    }
    let index = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let names =
        index.map_or_else(Vec::new, |Index { weight_map }| weight_map.into_values().collect());
    names.iter().map(|name| path.with_file_name(name)).collect()
}

/// Those of TensorFlow that begin with the same prefix.
fn bundle(path: &Path) -> Vec<PathBuf> {
    let is_index = path.extension().is_some_and(|e| e == "index");
    let index = if is_index { Some(path.to_path_buf()) } else { tensorflow::index_of(path) };
    let Some(index) = index else { return Vec::new() };
    let prefix = index.with_extension("");
    let folder = match prefix.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let of = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (name, mut files) = (of(&prefix) + ".data-", vec![index]);
    files.extend(entries(folder).into_iter().filter(|path| of(path).starts_with(&name)));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_parts_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let a = write("a.safetensors", "");
        let other = write("a.svdo", "");
        let index = write("x.json", r#"{"weight_map": {"w": "a.safetensors"}}"#);
        assert_eq!(files_of(&index), [index.clone(), a.clone()]);
        let files = files_of(folder.path());
        assert!(files.contains(&a) && !files.contains(&other), "{files:?}");

        let (table, data) = (write("m.ckpt.index", ""), write("m.ckpt.data-00000-of-00001", ""));
        for name in ["m.ckpt", "m.ckpt.index", "m.ckpt.data-00000-of-00001"] {
            let files = files_of(&folder.path().join(name));
            assert!(files.contains(&table) && files.contains(&data), "{name}: {files:?}");
        }
        assert_eq!(files_of(&a), std::slice::from_ref(&a));
    }
}
