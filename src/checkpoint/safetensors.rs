//! Safetensors files, read by position.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

use super::tensor::{DType, TensorInfo, TensorSource};
use crate::error::{Error, IoContext, Result};

/// The largest header accepted, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes converted at a time.
const BUFFER: usize = 1 << 16;

pub(super) struct SafetensorsFile {
    file: File,
    path: PathBuf,
    tensors: Vec<TensorInfo>,
    /// Where each tensor's bytes begin in the file.
    starts: Vec<u64>,
    metadata: HashMap<String, String>,
}

impl SafetensorsFile {
    /// Reads and checks the header; the tensors' bytes stay in the file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at(path)?;
        let length = file.metadata().at(path)?.len();
        let invalid =
            |problem: String| Error::Format { format: "safetensors", problem }.in_file(path);
        if length < 8 {
            return Err(invalid(format!("{length} bytes is too short for a header")));
        }
        let mut size = [0; 8];
        read_at(&file, &mut size, 0).at(path)?;
        let header_length = u64::from_le_bytes(size);
        if header_length > MAX_HEADER.min(length - 8) {
            return Err(invalid(format!(
                "its first 8 bytes announce a header of {header_length} bytes, the file has \
                 {length}: truncated, or not safetensors"
            )));
        }
        let mut header = vec![0; header_length as usize];
        read_at(&file, &mut header, 8).at(path)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|e| invalid(format!("unreadable header: {e}")))?;
        let (expected, found) = (header.data_len() as u64, length - 8 - header_length);
        if expected != found {
            return Err(invalid(format!(
                "the header describes {expected} bytes of tensors, the file has {found}: {}",
                if found < expected { "truncated" } else { "extra bytes at the end" }
            )));
        }
        let mut entries: Vec<_> = header.tensors().into_iter().collect();
        entries.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
        let starts = entries
            .iter()
            .map(|(_, info)| 8 + header_length + info.data_offsets.0 as u64)
            .collect();
        let tensors = entries
            .into_iter()
            .map(|(name, info)| TensorInfo {
                name,
                dtype: dtype(info.dtype),
                shape: info.shape.clone(),
            })
            .collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { file, path: path.into(), tensors, starts, metadata })
    }
}

impl TensorSource for SafetensorsFile {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()> {
        let info = &self.tensors[tensor];
        let Some(size) = info.dtype.size() else {
            return Err(Error::Tensor {
                tensor: info.name.clone(),
                problem: format!("type {}; F32, F16, BF16 and F64 can be read", info.dtype),
            });
        };
        let mut buffer = [0; BUFFER];
        let mut position = self.starts[tensor] + (start * size) as u64;
        for part in out.chunks_mut(BUFFER / size) {
            let bytes = &mut buffer[..part.len() * size];
            read_at(&self.file, bytes, position).at(&self.path)?;
            info.dtype.decode(bytes, part);
            position += bytes.len() as u64;
        }
        Ok(())
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::BOOL => DType::Other("BOOL"),
        Dtype::U8 => DType::Other("U8"),
        Dtype::I8 => DType::Other("I8"),
        Dtype::I16 => DType::Other("I16"),
        Dtype::U16 => DType::Other("U16"),
        Dtype::I32 => DType::Other("I32"),
        Dtype::U32 => DType::Other("U32"),
        Dtype::I64 => DType::Other("I64"),
        Dtype::U64 => DType::Other("U64"),
        _ => DType::Other("another type"),
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], position: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, position)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut position: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, position)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                position += n as u64;
            }
        }
    }
    Ok(())
}
