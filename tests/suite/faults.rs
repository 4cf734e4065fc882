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

/// Calls that can fail, and how.
const FAULTS: [(&str, i32); 6] = [
    ("open", EIO),
    ("read", EIO),
    ("write", ENOSPC),
    ("fsync", ENOSPC),
    ("rename", ENOSPC),
    ("thread", EAGAIN),
];

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
        let out = self.path("out/model.svdo");
        for leftover in std::fs::read_dir(self.path("out")).unwrap() {
            std::fs::remove_file(leftover.unwrap().path()).unwrap();
        }
        std::fs::write(&out, OLD).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_svdo-compress"));
        command.arg(input).arg("-o").arg(&out).args(["--threads", "2"]);
        self.run(&mut command, fault)
    }

    /// Runs a command under a fault; the second is whether a call met it.
    fn run(&self, command: &mut Command, fault: Option<(&str, u32, i32)>) -> (Output, bool) {
        let log = self.path("log");
        let _ = std::fs::remove_file(&log);
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
    for (call, errno) in FAULTS {
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

/// Says what it has to in one line, if anything went wrong, and ends by itself.
fn assert_one_line(what: &dyn std::fmt::Debug, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
    match output.status.code() {
        Some(0) => assert_eq!(errors, 0, "{what:?}: {text}"),
        Some(2) => assert_eq!(errors, 1, "{what:?}: {text}"),
        code => panic!("{what:?}: {code:?}: {text}"),
    }
}

/// A limit of the size of files, of which the system tells by a signal that ends programs.
#[test]
fn a_limit_of_the_size_of_files_is_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.svdo");
    let svdo = env!("CARGO_BIN_EXE_svdo");
    let source = fixtures::path("import/cnn.safetensors");
    let done =
        Command::new(svdo).arg("compress").arg(&source).arg("-o").arg(&model).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let lenet = fixtures::path("lenet300_mnist.safetensors");
    let commands: [(&str, &[&str], &str, &Path); 3] = [
        ("compress", &["-o"], "out.svdo", &lenet),
        ("compress", &["-o", "/dev/null", "--json"], "out.json", &source),
        ("export", &["-o"], "out.npz", &model),
    ];
    for (command, more, name, input) in commands {
        let out = folder.path().join(name);
        std::fs::write(&out, OLD).unwrap();
        // The smallest limit: 512 bytes or 1024.
        let script = "ulimit -f 1; exec \"$0\" \"$@\"";
        let mut limited = Command::new("sh");
        limited.args(["-c", script, svdo, command]).arg(input).args(more).arg(&out);
        let output = limited.current_dir(folder.path()).output().unwrap();
        assert_one_line(&(command, more), &output);
        assert_eq!(output.status.code(), Some(2), "{command} {more:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("File too large"), "{output:?}");
        assert!(std::fs::read(&out).unwrap() == OLD, "{command} {more:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "{command} leaves a file");
        std::fs::remove_file(&out).unwrap();
    }
}

/// Fewer threads than asked for, or one line: for every command, whichever thread is refused.
#[test]
fn no_command_needs_the_threads_that_it_asks_for() {
    let Some(bench) = Bench::new() else { return };
    let (model, checkpoint) = (bench.path("m.svdo"), input());
    let expected = bench.expected(&checkpoint);
    std::fs::write(&model, expected).unwrap();
    let samples = bench.path("x.npy");
    std::fs::write(&samples, npy([40, 72])).unwrap();
    let (model, samples) = (model.to_str().unwrap(), samples.to_str().unwrap());
    let commands: [&[&str]; 5] = [
        &["infer", model, "--input", samples],
        &["infer", model, "--input", samples, "--threads", "3"],
        &[
            "infer",
            model,
            "--input",
            samples,
            "--verify",
            checkpoint.to_str().unwrap(),
            "--tolerance",
            "1",
        ],
        &["inspect", model],
        &["export", model, "-o", "out.onnx"],
    ];
    for arguments in commands {
        let command = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_svdo"));
            command.args(arguments).current_dir(bench.folder.path());
            command
        };
        let (plain, _) = bench.run(&mut command(), None);
        assert_eq!(plain.status.code(), Some(0), "{arguments:?}: {plain:?}");
        for number in 1.. {
            let (output, hit) = bench.run(&mut command(), Some(("thread", number, EAGAIN)));
            assert_one_line(&(arguments, number), &output);
            if output.status.success() && !arguments.contains(&"--verify") {
                assert!(output.stdout == plain.stdout, "{arguments:?}: {output:?}");
            }
            if !hit {
                break;
            }
        }
        // None at all.
        let (output, _) = bench.run(&mut command(), Some(("thread", 0, EAGAIN)));
        assert_one_line(&arguments, &output);
    }
}

/// A training whose states, checkpoint and log meet a fault gives the result that it would have given, or
/// says in one line why it cannot begin.
#[test]
#[cfg(feature = "train")]
fn a_training_survives_every_call_that_fails_once() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.path("data");
    std::fs::create_dir(&data).unwrap();
    let count = 60u32;
    let images = [2051, count, 28, 28].map(u32::to_be_bytes).concat();
    let pixels = (0..count * 784).map(|i| (i * i / 7) as u8);
    std::fs::write(data.join("train-images-idx3-ubyte"), [images, pixels.collect()].concat())
        .unwrap();
    let labels = [2049, count].map(u32::to_be_bytes).concat();
    let classes = (0..count).map(|i| (i % 10) as u8).collect();
    std::fs::write(data.join("train-labels-idx1-ubyte"), [labels, classes].concat()).unwrap();
    let network = r#"{"version": 1, "input": {"shape": [1, 28, 28]}, "nodes": [{"op": "flatten"},
        {"op": "linear", "layer": "a"}], "layers": {"a": [10, 784]}}"#;
    std::fs::write(bench.path("net.json"), network).unwrap();

    let out = bench.path("out");
    let run = |fault| {
        for leftover in std::fs::read_dir(&out).unwrap() {
            std::fs::remove_file(leftover.unwrap().path()).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_svdo-train"));
        command
            .args(["--network", "net.json", "--data", "data", "-o", "out/m", "--log", "out/log"])
            .args(["--validation", "20", "--batch", "40", "--epochs", "2", "--save-every", "0"])
            .args(["--threads", "2"])
            .current_dir(bench.folder.path());
        bench.run(&mut command, fault)
    };
    let written = || ["m", "m.state"].map(|name| std::fs::read(out.join(name)).ok());
    let (plain, _) = run(None);
    assert!(plain.status.success(), "{plain:?}");
    let expected = written();
    for (call, errno) in FAULTS {
        for number in 1.. {
            let fault = (call, number, errno);
            let (output, hit) = run(Some(fault));
            assert_one_line(&fault, &output);
            let text = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                assert!(written() == expected, "{fault:?}: {text}");
            } else {
                // Only what comes before the first step ends it.
                assert!(!out.join("m").exists(), "{fault:?}: {text}");
                assert!(["open", "read", "thread"].contains(&call), "{fault:?}: {text}");
            }
            for entry in std::fs::read_dir(&out).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.starts_with('.'), "{fault:?} leaves {name}");
            }
            if !hit {
                assert!(number > 1, "no call of {call}");
                break;
            }
        }
    }
}

/// A .npy file of ones.
fn npy(shape: [usize; 2]) -> Vec<u8> {
    let [rows, cols] = shape;
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend((0..rows * cols).flat_map(|_| 1f32.to_le_bytes()));
    bytes
}
