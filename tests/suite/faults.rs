//! System calls that fail, end early, are interrupted or are the last: a command gives the right output
//! or leaves the old one, in one line.
//!
//! `tests/faults/shim.c` stands between a command and its C library, so nothing here knows how files
//! are written. Without a C compiler there is nothing to stand there, and the tests say so and pass.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::fixtures;

const ENOSPC: i32 = 28;
const EINTR: i32 = 4;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const SHORT: i32 = 0;
const KILL: i32 = -9;
const OLD: &[u8] = b"old";

struct Bench {
    folder: tempfile::TempDir,
    shim: PathBuf,
}

impl Bench {
    /// None where nothing can be compiled.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let shim = folder.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .args([&shim, &source])
            .arg("-ldl")
            .status();
        if !built.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no C compiler");
            return None;
        }
        std::fs::create_dir(folder.path().join("out")).unwrap();
        Some(Self { folder, shim })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Compresses `input` over an old output under a fault; the second is whether a call met it.
    fn compress(&self, input: &Path, fault: Option<(&str, u32, i32)>) -> (Output, bool) {
        let (out, log) = (self.path("out/model.svdo"), self.path("log"));
        let _ = std::fs::remove_file(&log);
        for leftover in std::fs::read_dir(self.path("out")).unwrap() {
            std::fs::remove_file(leftover.unwrap().path()).unwrap();
        }
        std::fs::write(&out, OLD).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_svdo-compress"));
        command.arg(input).arg("-o").arg(&out).args(["--threads", "2"]);
        if let Some((call, number, errno)) = fault {
            command
                .env("SVDO_FAULT", format!("{call}:{number}:{errno}"))
                .env("SVDO_FAULT_LOG", &log)
                .env("LD_PRELOAD", &self.shim);
        }
        let output = command.output().unwrap();
        (output, log.exists())
    }

    fn written(&self) -> Vec<u8> {
        std::fs::read(self.path("out/model.svdo")).unwrap()
    }

    fn names(&self) -> usize {
        std::fs::read_dir(self.path("out")).unwrap().count()
    }

    /// What the command writes when nothing fails.
    fn expected(&self, input: &Path) -> Vec<u8> {
        let (output, _) = self.compress(input, None);
        assert!(output.status.success(), "{output:?}");
        self.written()
    }
}

fn input() -> PathBuf {
    fixtures::path("import/cnn.safetensors")
}

#[test]
fn every_call_that_fails_once_leaves_the_old_file_or_the_whole_new_one() {
    let Some(bench) = Bench::new() else { return };
    let expected = bench.expected(&input());
    let faults = [
        ("open", EIO),
        ("read", EIO),
        ("write", ENOSPC),
        ("fsync", ENOSPC),
        ("rename", ENOSPC),
        ("thread", EAGAIN),
    ];
    for (call, errno) in faults {
        let mut refused = 0;
        for number in 1.. {
            let fault = (call, number, errno);
            let (output, hit) = bench.compress(&input(), Some(fault));
            if !hit {
                assert!(number > 1, "no call of {call}");
                break;
            }
            let text = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                // What can be done without: how many processors there are, for one.
                Some(0) => assert!(bench.written() == expected, "{fault:?}"),
                Some(2) => {
                    let found = bench.written();
                    assert!(found == OLD || found == expected, "{fault:?}: {text}");
                    assert!(call != "thread" || text.contains("2 threads: "), "{text}");
                    let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
                    assert_eq!(errors, 1, "{fault:?}: {text}");
                    refused += 1;
                }
                code => panic!("{fault:?}: {code:?}: {text}"),
            }
            assert_eq!(bench.names(), 1, "{fault:?} leaves a file");
        }
        assert!(refused > 0, "{call} never failed");
    }
}

#[test]
fn a_kill_at_every_call_leaves_one_file_or_the_other() {
    let Some(bench) = Bench::new() else { return };
    let expected = bench.expected(&input());
    for call in ["open", "read", "write", "fsync", "rename"] {
        for number in 1.. {
            let (output, hit) = bench.compress(&input(), Some((call, number, KILL)));
            if !hit {
                assert!(number > 1, "no call of {call}");
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{call} {number}");
            let found = bench.written();
            assert!(found == OLD || found == expected, "{call} {number}: {} bytes", found.len());
        }
    }
}

#[test]
fn interruptions_and_calls_that_end_early_change_nothing() {
    let Some(bench) = Bench::new() else { return };
    for name in [
        "import/cnn.safetensors",
        "import/sharded",
        "import/sparse-vd-pytorch_mlp.pt",
        "import/pytorch-ard_mlp.t7",
        "import/pickle4_mlp.pkl",
        "import/deflated_mlp.npz",
        "import/bayesgroup_mlp.npy",
        "import/state-of-sparsity_mlp.ckpt-5.index",
        "import/hdf5_latest_mlp.h5",
        "import/sparse-vd-keras_mlp.keras",
        "onnx/residual_dynamo.onnx",
    ] {
        let input = fixtures::path(name);
        let (plain, _) = bench.compress(&input, None);
        let expected = bench.written();
        for call in ["open", "read", "write", "fsync"] {
            for errno in [EINTR, SHORT] {
                if errno == SHORT && !["read", "write"].contains(&call) {
                    continue;
                }
                let fault = (call, 0, errno);
                let (output, hit) = bench.compress(&input, Some(fault));
                let text = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status, plain.status, "{name}: {fault:?}: {text}");
                assert!(bench.written() == expected, "{name}: {fault:?}: {text}");
                assert!(hit || !plain.status.success(), "{name}: {fault:?} met no call");
            }
        }
    }
}
