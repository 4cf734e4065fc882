//! Files of every format through the public functions.

use std::io::{Cursor, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;

/// A folder that is removed when it goes out of scope.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("svdo-data-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn npy(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_npy(&mut bytes, shape, values).unwrap();
    bytes
}

fn npz(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn picture(values: [u8; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ::png::Encoder::new(&mut bytes, 2, 1).write_header().unwrap();
    writer.write_image_data(&values).unwrap();
    writer.finish().unwrap();
    bytes
}

const IDX: [u8; 14] = [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2];

#[test]
fn files_of_every_format_are_joined_in_order() {
    let folder = Folder::new();
    let paths = [
        folder.file("idx", &IDX),
        folder.file("idx.png", &gzip(&IDX)),
        folder.file("npy", &npy(&[2, 2], &[3.0, 4.0, 5.0, 6.0])),
        folder.file("npy.gz", &gzip(&npy(&[2], &[7.0, 8.0]))),
        folder.file("npz", &npz(&[("a.npy", npy(&[2], &[9.0, 10.0]))])),
        folder.file("png", &picture([11, 12])),
        folder.file("floats.RAW", &[0, 0, 80, 65, 0, 0, 96, 65]),
    ];
    let shape = Shape::new(1, 1, 2);
    let samples = read_samples(&paths, None, shape).unwrap();
    assert_eq!(samples.shape, shape);
    let expected: Vec<f32> = [1, 2].into_iter().chain(1..=14).map(|v| v as f32).collect();
    assert_eq!(samples.values, expected);
    assert_eq!(samples.len(), 8);
    assert!(!samples.is_empty());
    assert_eq!(Samples { shape: Shape::new(0, 1, 1), values: vec![1.0] }.len(), 0);
}

#[test]
fn bytes_that_are_no_floats_are_refused_unless_the_name_says_so() {
    let folder = Folder::new();
    let pixels: Vec<u8> = (0..64u32).map(|i| (i * 37 % 251) as u8).collect();
    let read = |name: &str| read_samples(&[folder.file(name, &pixels)], None, Shape::vector(16));
    for name in ["x.bin", "x.raw"] {
        let error = read(name).unwrap_err().to_string();
        assert!(error.contains("bytes of another type? save them as .npy"), "{error}");
    }
    read("x.f32").unwrap();
}

#[test]
fn the_named_array_of_an_npz() {
    let folder = Folder::new();
    let members = [("a.npy", npy(&[2], &[1.0, 2.0])), ("b.npy", npy(&[2], &[3.0, 4.0]))];
    let path = folder.file("x.npz", &npz(&members));
    let read = |name| read_samples(std::slice::from_ref(&path), name, Shape::vector(2));
    assert_eq!(read(Some("b")).unwrap().values, [3.0, 4.0]);
    assert_eq!(
        read(None).unwrap_err().to_string(),
        format!("{}: there are 2 arrays, choose one of \"a\", \"b\"", path.display())
    );
}

#[test]
fn labels_of_every_format() {
    let folder = Folder::new();
    let idx = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];
    let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }";
    let mut integers = [npy::MAGIC, &[1, 0, header.len() as u8, 0], header.as_bytes()].concat();
    integers.extend([7i64, 9].iter().flat_map(|v| v.to_le_bytes()));
    for bytes in [idx.to_vec(), gzip(&idx), integers.clone(), npz(&[("y.npy", integers)])] {
        assert_eq!(read_labels(&folder.file("labels", &bytes)).unwrap(), [7, 9]);
    }
    for name in ["labels.png", "labels.raw"] {
        let bytes = if name.ends_with("png") { picture([1, 2]) } else { vec![0; 8] };
        let path = folder.file(name, &bytes);
        assert_eq!(
            read_labels(&path).unwrap_err().to_string(),
            format!("{}: labels are read from IDX, .npy or .npz files only", path.display())
        );
    }
}

#[test]
fn errors_name_the_file() {
    let folder = Folder::new();
    for (name, bytes, array, problem) in [
        ("empty.raw", vec![], None, "the file is empty"),
        (
            "text.txt",
            b"hello world".to_vec(),
            None,
            "format not recognised: expected IDX or .npy (either may be gzipped), .npz, PNG, JPEG, or \
             little-endian f32 in a file named .f32, .raw or .bin",
        ),
        (
            "text.gz",
            gzip(b"hello world"),
            None,
            "the gzipped file is neither IDX nor NumPy .npy: unpack anything else first",
        ),
        (
            "idx",
            IDX.to_vec(),
            Some("x"),
            "array \"x\" was asked for, but this is not a .npz file: leave the name out",
        ),
        (
            "floats.bin",
            vec![0; 9],
            None,
            "9 bytes of raw f32, expected a multiple of 8 for samples of shape [2]",
        ),
        (
            "short",
            IDX[..13].to_vec(),
            None,
            "not a valid IDX file: its header promises 2 bytes of values, found only 1",
        ),
    ] {
        let path = folder.file(name, &bytes);
        let error = read_samples(std::slice::from_ref(&path), array, Shape::vector(2)).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {problem}", path.display()));
    }
    assert_eq!(
        read_samples(&[], None, Shape::vector(2)).unwrap_err().to_string(),
        "no files of samples were given"
    );
    let missing = folder.0.join("missing");
    assert!(matches!(read_labels(&missing), Err(Error::Io { path, .. }) if path == missing));
    assert!(matches!(read_labels(&folder.0), Err(Error::Io { .. })));
}

#[test]
fn truncation_at_every_length_never_panics() {
    let folder = Folder::new();
    for whole in [
        IDX.to_vec(),
        gzip(&IDX),
        gzip(&npy(&[2], &[1.0, 2.0])),
        npz(&[("a.npy", npy(&[2], &[1.0, 2.0]))]),
        picture([1, 2]),
    ] {
        for length in 0..whole.len() {
            let path = folder.file("x", &whole[..length]);
            assert!(read_samples(&[path], None, Shape::vector(2)).is_err(), "{length}");
        }
    }
}
