//! Files that are damaged or made to do harm: an error of one line, no panic, nothing executed, no
//! memory that the file's size does not justify.

use std::path::{Path, PathBuf};

use svdo::checkpoint::{Checkpoint, Options, Variance};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/import").join(name)
}

/// No change of a byte and no cut may panic or read outside the file; only what was read may change.
#[test]
fn damaged_files_of_every_container() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "sparse-vd-pytorch_mlp.pt",
        "pytorch-ard_mlp.t7",
        "pickle2_mlp.pkl",
        "pickle5_mlp.pkl",
        "bayesgroup_mlp.npy",
        "deflated_mlp.npz",
        "fortran_mlp.npz",
        "state-of-sparsity_mlp.ckpt-5.index",
        "sparse-vd-keras_mlp.h5",
        "sparse-vd-keras_mlp.keras",
        "hdf5_latest_mlp.h5",
    ] {
        let whole = std::fs::read(path(name)).unwrap();
        let copy = folder.path().join(name);
        let data = name.replace(".index", ".data-00000-of-00001");
        if data != name {
            std::fs::copy(path(&data), folder.path().join(&data)).unwrap();
        }
        let try_it = |bytes: &[u8]| {
            std::fs::write(&copy, bytes).unwrap();
            let options = Options { variance: Some(Variance::LogSigma), ..Options::default() };
            if let Ok(checkpoint) = Checkpoint::open(&copy, &options) {
                for layer in 0..checkpoint.network().layers.len() {
                    let _ = checkpoint.read_theta(layer);
                }
            }
        };
        for length in (0..whole.len()).step_by(11) {
            try_it(&whole[..length]);
        }
        for at in (0..whole.len()).step_by(2) {
            let mut bytes = whole.clone();
            bytes[at] = [bytes[at] ^ 0x41, 0, 0xff][at / 2 % 3];
            try_it(&bytes);
        }
    }
}

fn pickle(program: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.pkl");
    std::fs::write(&file, program).unwrap();
    match Checkpoint::open(&file, &Options::default()) {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn hostile_pickles_do_nothing() {
    let proof = tempfile::tempdir().unwrap().path().join("proof");
    let touch = format!("touch {}", proof.display());
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("functools", "partial"),
        ("builtins", "getattr"),
        ("torch", "_utils.os.system"),
    ] {
        let mut program = format!("\u{80}\u{2}c{module}\n{name}\n").into_bytes();
        program.retain(|&b| b != 0xc2);
        program.extend([b'X', touch.len() as u8, 0, 0, 0]);
        program.extend(touch.as_bytes());
        program.extend(b"\x85R.");
        let found = pickle(&program);
        assert!(found.contains(&format!("{module}.{name} is not among")), "{found}");
        assert!(!found.contains('\n'));
    }
    assert!(!proof.exists());
    let repeat =
        |head: &[u8], body: &[u8], times: usize| [head, &body.repeat(times), b"."].concat();
    let nested = [&b"\x80\x02"[..], &b"]".repeat(100_000), &b"a".repeat(99_999), b"."].concat();
    let cases: [(Vec<u8>, &str); 9] = [
        (nested, "lies too deep"),
        // A list that holds itself.
        (b"\x80\x02]q\x00h\x00a.".to_vec(), "lies too deep"),
        // Each list holds the one before ten times.
        (
            repeat(
                b"\x80\x02]q\x00",
                b"](h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00eq\x00",
                30,
            ),
            "lies too deep",
        ),
        (repeat(b"\x80\x02N", b"2", 1_100_000), "objects at once"),
        (
            repeat(b"\x80\x02N", b"N", 1_100_000),
            "the memory for what a file of this size describes",
        ),
        (repeat(b"\x80\x02", b"(", 1_100_000), "objects at once"),
        (b"\x80\x02X\xff\xff\xff\xff.".to_vec(), "4294967295 bytes are announced"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "bytes are announced"),
        (b"\x80\x02i.".to_vec(), "opcode 0x69 has no place"),
    ];
    for (program, expected) in cases {
        let found = pickle(&program);
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
}

#[test]
fn hostile_hdf5_ends_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.h5");
    let good = std::fs::read(path("sparse-vd-keras_mlp.h5")).unwrap();
    let find = |what: &[u8]| good.windows(what.len()).position(|w| w == what).unwrap();
    let opened = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        match Checkpoint::open(&file, &Options::default()) {
            Ok(_) => "accepted".into(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(opened(&|_| ()), "accepted");
    let (tree, heap, nodes) = (find(b"TREE"), find(b"HEAP"), find(b"SNOD"));
    let number = |at: usize, value: u64| {
        move |bytes: &mut Vec<u8>| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes())
    };
    // The root's tree as a member of itself, heaps without end, a member that is its own group.
    let root = u64::from_le_bytes(good[64..72].try_into().unwrap());
    for (change, expected) in [
        (&number(tree + 32, tree as u64) as &dyn Fn(&mut Vec<u8>), "SNOD was expected"),
        (&number(heap + 8, u64::MAX), "a header needs 18446744073709551615"),
        (&number(heap + 24, 1 << 40), "are asked for"),
        (&number(nodes + 16, root), "groups in one another, or a cycle"),
        (&number(24, 1 << 20), "do not count from its beginning"),
        (&|bytes| bytes[tree + 5] = 3, "TREE was expected"),
        (&|bytes| bytes[13] = 3, "4 or 8 bytes"),
        (&|bytes| bytes[8] = 9, "version 9, 0 to 3 are read"),
    ] {
        let found = opened(change);
        assert!(found.contains(expected) && !found.contains('\n'), "{found:?} lacks {expected:?}");
    }
}

#[test]
fn archives_that_promise_too_much_are_not_unpacked() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bomb.npz");
    let options = zip::write::SimpleFileOptions::default();
    let mut bomb = zip::ZipWriter::new(std::fs::File::create(&file).unwrap());
    bomb.start_file("a/theta.npy", options).unwrap();
    let mut head = Vec::new();
    svdo::data::write_npy(&mut head, &[1], &[1.0]).unwrap();
    bomb.write_all(&head).unwrap();
    (0..64).for_each(|_| bomb.write_all(&vec![0; 1 << 20]).unwrap());
    bomb.finish().unwrap();
    let error = Checkpoint::open(&file, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("its header and its 67108996 bytes disagree"), "{error}");
    // The same in the table of contents: a member of a size that its data cannot have.
    let mut bytes = std::fs::read(path("deflated_mlp.npz")).unwrap();
    let at = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap() + 24;
    bytes[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let error = Checkpoint::open(&file, &Options::default()).err().unwrap().to_string();
    assert!(error.contains("promises 2147483647 bytes, more than"), "{error}");
}
