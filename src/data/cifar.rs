//! CIFAR-10 in its binary form: records of a label and a 3 x 32 x 32 image, one byte each.

use std::path::Path;

use super::Samples;
use crate::error::{Error, IoContext, Result};
use crate::network::Shape;

const PIXELS: usize = 3 * 32 * 32;

/// Reads the training batches of a folder, `data_batch_1.bin` to `data_batch_5.bin`, or its
/// `test_batch.bin`. Values are pixels from 0 to 255.
///
/// # Errors
/// A file that cannot be read, is not made of whole records, or has a label above 9.
pub fn read_cifar10(folder: &Path, test: bool) -> Result<(Samples, Vec<u32>)> {
    let names = if test {
        vec!["test_batch.bin".to_owned()]
    } else {
        (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect()
    };
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).at(&path)?;
        let damaged =
            |problem: String| Error::Format { format: "CIFAR-10", problem }.in_file(&path);
        if bytes.is_empty() || bytes.len() % (1 + PIXELS) != 0 {
            let size = bytes.len();
            return Err(damaged(format!("{size} bytes are not whole records of {}", 1 + PIXELS)));
        }
        for (index, record) in bytes.chunks(1 + PIXELS).enumerate() {
            if record[0] > 9 {
                return Err(damaged(format!("record {index} has label {}", record[0])));
            }
            labels.push(u32::from(record[0]));
            values.extend(record[1..].iter().map(|pixel| f32::from(*pixel)));
        }
    }
    Ok((Samples { shape: Shape::new(3, 32, 32), values }, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_a_label_and_planes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        let mut bytes = vec![7; 1 + PIXELS];
        bytes.extend([3; 1 + PIXELS]);
        bytes[1 + PIXELS + 1025] = 200;
        std::fs::write(&path, &bytes).unwrap();
        let (samples, labels) = read_cifar10(folder.path(), true).unwrap();
        assert_eq!((labels, samples.len()), (vec![7, 3], 2));
        assert_eq!(samples.values[PIXELS + 1024], 200.0);
        let error = read_cifar10(folder.path(), false).err().unwrap().to_string();
        assert!(error.contains("data_batch_1.bin"), "{error}");
        bytes[0] = 10;
        std::fs::write(&path, &bytes).unwrap();
        assert!(read_cifar10(folder.path(), true).is_err_and(|e| e.to_string().contains("label")));
        std::fs::write(&path, &bytes[1..]).unwrap();
        assert!(read_cifar10(folder.path(), true).is_err_and(|e| e.to_string().contains("whole")));
    }
}
