//! `svdo-infer` as a script meets it: the same on a workstation and on a device.

use crate::{Folder, bytes, infer};

struct Done {
    code: i32,
    out: String,
    err: String,
}

fn run(folder: &Folder, line: &str) -> Done {
    let output = infer(folder).args(line.split_whitespace()).output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// IDX of bytes with these dimensions.
fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    file.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(values);
    file
}

#[test]
fn sequences_have_any_length_up_to_the_longest() {
    let folder = Folder::new();
    let file = include_bytes!("../../fixtures/golden/lengths.svdo");
    folder.write("l.svdo", file);
    folder.write("three.idx", &idx(&[2, 2, 1, 3], &[1, 2, 3, 4, 5, 6, 9, 9, 3, 9, 9, 6]));
    folder.write("six.idx", &idx(&[1, 2, 1, 6], &[1; 12]));
    let engine =
        svdo::engine::Engine::new(&svdo::container::read(file).unwrap(), svdo::engine::Isa::best());
    let engine = engine.unwrap();
    let at = |steps: usize, x: &[f32]| engine.at(steps).unwrap().infer_samples(x).unwrap().concat();
    // Of the three steps the last one counts.
    let expected = [&at(3, &[1., 2., 3., 4., 5., 6.])[..], &at(6, &[1.0; 12])].concat();
    let done = run(&folder, "l.svdo -i three.idx six.idx -o -");
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let rows: Vec<Vec<f32>> = serde_json::from_str(&done.out).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!((&rows[0], &[&rows[1][..], &rows[2]].concat()), (&rows[1], &expected));
    assert_eq!(run(&folder, "l.svdo -i three.idx -o y.npy").code, 0);
    for (dimensions, expected) in [
        ([1, 2, 1, 7], "a sequence of 7 steps, the network takes 6 at most"),
        ([1, 3, 1, 2], "does not fit the network's input"),
    ] {
        let count = dimensions.iter().product::<u32>() as usize;
        folder.write("x.idx", &idx(&dimensions, &vec![1; count]));
        let failed = run(&folder, "l.svdo -i x.idx");
        assert_eq!((failed.code, failed.out.as_str()), (2, ""), "{}", failed.err);
        assert!(failed.err.contains(expected), "{:?} lacks {expected:?}", failed.err);
    }
    let raw = run(&folder, "l.svdo -i l.svdo");
    assert_eq!(raw.code, 2);
}

/// Fails unless a report is one of the workstation's kind.
fn fits(report: &serde_json::Value) {
    let schema = include_str!("../../formats/report.schema.json");
    let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let problems: Vec<String> = validator.iter_errors(report).map(|e| e.to_string()).collect();
    assert!(problems.is_empty(), "{problems:?} in {report}");
}

#[test]
fn inputs_outputs_and_gates() {
    let folder = Folder::new();
    folder.write("x.f32", &bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 0.5]));
    folder.write("x.idx", &idx(&[2, 3], &[1, 2, 3, 4, 5, 6]));
    folder.write("y.idx", &idx(&[2], &[1, 0]));

    let outputs = run(&folder, "m.svdo -i x.f32 -o -");
    assert_eq!((outputs.code, outputs.err.as_str()), (0, ""));
    assert_eq!(outputs.out, "[[-4.0,0.25],[4.0,1.75]]\n");
    let best = run(&folder, "m.svdo --input x.f32 x.idx --top=2");
    assert_eq!(
        best.out,
        "0\t1 (0.2500)\t0 (-4.0000)\n1\t0 (4.0000)\t1 (1.7500)\n\
         2\t1 (0.2500)\t0 (-4.0000)\n3\t1 (1.7500)\t0 (-7.0000)\n"
    );
    assert_eq!(run(&folder, "m.svdo -i x.f32 -o y.npy").code, 0);
    let npy = std::fs::read(folder.path().join("y.npy")).unwrap();
    assert!(npy.starts_with(b"\x93NUMPY") && npy.ends_with(&bytes(&[-4.0, 0.25, 4.0, 1.75])));
    assert_eq!(run(&folder, "m.svdo -i y.npy").code, 2);

    let passed = run(&folder, "m.svdo -i x.f32 -l y.idx --assert-max-error 0 --threads 1");
    assert_eq!(passed.code, 0, "{}", passed.err);
    for line in ["samples           2\n", "error rate        0.00 %\n", "(1 thread, "] {
        assert!(passed.out.contains(line), "{}", passed.out);
    }
    let failed = run(&folder, "m.svdo -i x.idx -l y.idx --assert-max-error 10% --json -");
    let report: serde_json::Value = serde_json::from_str(&failed.out).unwrap();
    fits(&report);
    assert_eq!((failed.code, &report["error_rate"]), (1, &0.5.into()), "{}", failed.out);
    assert_eq!((&report["report"], &report["model"]), (&"infer".into(), &"m.svdo".into()));
    let gate = serde_json::json!({
        "name": "assert-max-error", "limit": 0.1, "found": 0.5, "passed": false
    });
    assert_eq!(report["gates"], serde_json::json!([gate]));
    let left = std::fs::read_dir(folder.path()).unwrap();
    assert!(left.into_iter().all(|f| !f.unwrap().file_name().to_string_lossy().starts_with('.')));
}

/// By rows of classes and of numbers, as the library has them.
#[cfg(feature = "uncertainty")]
#[test]
fn predictions_under_the_posterior() {
    use svdo::engine::uncertain::UncertainEngine;
    use svdo::uncertainty::Task;

    let folder = Folder::new();
    let file = include_bytes!("../../fixtures/golden/variances.svdo");
    folder.write("v.svdo", file);
    let x: Vec<f32> = (0..192).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
    folder.write("x.f32", &bytes(&x));
    let (model, variances) = svdo::container::read_with_variances(file).unwrap();
    let mut all: Vec<Vec<Vec<f32>>> = Vec::new();
    for how in ["mean", "moments", "mc=20"] {
        let engine = UncertainEngine::of_file(
            (&model, variances.clone()),
            how.parse().unwrap(),
            3,
            svdo::engine::Isa::best(),
            Default::default(),
        );
        let engine = engine.unwrap();
        for name in Task::NAMES {
            let task: Task = name.parse().unwrap();
            let mut rows = vec![0.0; 3 * task.row(2)];
            engine.predict_into(&x, task, 3, &mut rows).unwrap();
            let line = format!("v.svdo -i x.f32 --uncertainty {how} --task {name} --seed 3 -o -");
            let done = run(&folder, &line);
            assert_eq!((done.code, done.err.as_str()), (0, ""), "{line}");
            let found: Vec<Vec<f32>> = serde_json::from_str(&done.out).unwrap();
            assert_eq!(found.concat(), rows, "{line}");
            assert!(found.iter().all(|row| row.len() == task.row(2)));
            all.push(found);
        }
    }
    // Means without deviations; by moments and samples about the same ones.
    assert!(all[1].iter().all(|row| row[2..] == [0.0, 0.0]));
    for (moments, samples) in all[3].iter().zip(&all[5]) {
        let ratio = moments[2] / samples[2];
        assert!(moments[2] > 0.01 && (0.5..2.0).contains(&ratio), "{moments:?} {samples:?}");
    }
    assert_eq!(run(&folder, "v.svdo -i x.f32 --uncertainty moments -o y.npy").code, 0);
    for (line, expected) in [
        ("m.svdo -i x.f32 --uncertainty moments", "the file holds no variances"),
        ("v.svdo -i x.f32 --uncertainty mc=0", "mc=N"),
        ("v.svdo -i x.f32 --uncertainty mean --task both", "both"),
        ("v.svdo -i x.f32 --task classes", "--uncertainty"),
        ("v.svdo -i x.f32 --uncertainty mean --stream", "cannot be used with"),
    ] {
        let failed = run(&folder, line);
        assert_eq!((failed.code, failed.out.as_str()), (2, ""), "{line}");
        assert!(failed.err.contains(expected), "{line}: {:?} lacks {expected:?}", failed.err);
    }
}

#[test]
fn classes_have_the_names_of_the_file() {
    let folder = Folder::new();
    folder.write("named.svdo", &crate::named());
    folder.write("x.f32", &bytes(&[1.0, 2.0, 3.0]));
    let best = run(&folder, "named.svdo -i x.f32 --top 2");
    assert_eq!(best.out, "0\tup (0.2500)\tdown (-4.0000)\n", "{}", best.err);
}

#[test]
fn benchmarks() {
    let folder = Folder::new();
    let text = run(&folder, "m.svdo --bench -b 1,3 --warmup-ms 0 --min-ms 1");
    assert_eq!((text.code, text.out.lines().count()), (0, 4), "{}{}", text.out, text.err);
    let json = run(&folder, "m.svdo --bench --batch 2 --warmup-ms 0 --min-ms 1 --json -");
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    fits(&report);
    assert_eq!(report["batches"][0]["batch"], 2);
    for key in ["first_inference", "runs", "mean", "min", "median", "p99", "items_per_sec"] {
        assert!(report["batches"][0][key].as_f64().unwrap() > 0.0, "{key}: {}", json.out);
    }
}

#[test]
fn mistakes_are_one_line_and_exit_with_2() {
    let folder = Folder::new();
    folder.write("x.f32", &bytes(&[1.0, 2.0]));
    folder.write("x.txt", b"1 2 3");
    let whole = crate::example();
    folder.write("cut.svdo", &whole[..whole.len() - 5]);
    for (line, expected) in [
        ("none.svdo -i x.f32", "none.svdo: No such file"),
        ("cut.svdo -i x.f32", "cut.svdo: damaged .svdo file"),
        ("x.txt -i x.f32", "x.txt: not a valid .svdo file"),
        ("m.svdo -i x.f32", "x.f32: 8 bytes of raw f32, expected a multiple of 12"),
        ("m.svdo -i x.txt", "x.txt: format not recognised"),
        ("m.svdo -i x.f32 -o y.txt", "y.txt: outputs can be written as"),
        ("m.svdo -i x.f32 -o ./x.f32", "--output ./x.f32 is the same file as --input x.f32"),
        ("m.svdo -i x.f32 --json m.svdo", "--json m.svdo is the same file as the model m.svdo"),
        ("m.svdo -i x.f32 -o y.json --json ./y.json", "is the same file as --output y.json"),
        ("m.svdo --nonsense", "--nonsense"),
        ("m.svdo", "--input"),
    ] {
        if line.contains("y.txt") {
            folder.write("x.f32", &bytes(&[1.0, 2.0, 3.0]));
        }
        let failed = run(&folder, line);
        assert_eq!((failed.code, failed.out.as_str()), (2, ""), "{line}: {}", failed.err);
        assert!(failed.err.starts_with("error: "), "{line}: {}", failed.err);
        assert!(failed.err.contains(expected), "{line}: {:?} lacks {expected:?}", failed.err);
    }
    let named = infer(&folder).args(["\n::error::\u{1b}x", "-i", "x.f32"]).output().unwrap();
    let err = String::from_utf8(named.stderr).unwrap();
    assert!(err.starts_with("error: \\n::error::\\u{1b}x: No such file"), "{err:?}");
    assert_eq!(err.lines().count(), 1);
    let clamped =
        infer(&folder).args(["m.svdo", "--bench"]).env("SVDO_CPU", "z80").output().unwrap();
    assert_eq!(clamped.status.code(), Some(2));
    assert!(String::from_utf8(clamped.stderr).unwrap().contains("SVDO_CPU=z80: on this CPU"));
}

#[test]
fn help_and_version() {
    let folder = Folder::new();
    let help = run(&folder, "--help");
    assert_eq!((help.code, help.out.contains("Usage: svdo-infer")), (0, true), "{}", help.out);
    for option in ["--input", "--labels", "--output", "--top", "--serve-stdin", "--bench"] {
        assert!(help.out.contains(option), "{option}");
    }
    let version = run(&folder, "--version");
    for part in [env!("CARGO_PKG_VERSION"), "container versions: 1 to ", "kernels: "] {
        assert!(version.out.contains(part), "{}", version.out);
    }
}

/// What differs between the builds is refused by name, not misread.
#[cfg(not(feature = "cli"))]
#[test]
fn the_edge_build_says_what_it_lacks() {
    let folder = Folder::new();
    folder.write("x.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    for (line, expected) in [
        ("m.svdo --verify c.safetensors", "--verify is not in the edge build"),
        ("m.svdo -i x.gz", "Gzip is not read by this edge build"),
        ("m.onnx -i x.gz", "the edge build reads no ONNX"),
    ] {
        let failed = run(&folder, line);
        assert_eq!((failed.code, failed.err.contains(expected)), (2, true), "{}", failed.err);
    }
}
