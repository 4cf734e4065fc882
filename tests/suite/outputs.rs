//! No command loses a file that it reads, or shows a name as it stands in a file.

use std::path::Path;
use std::process::{Command, Output};

use crate::fixtures::{self, safetensors, tensor};

const COMPRESS: &str = env!("CARGO_BIN_EXE_svdo-compress");
const INFER: &str = env!("CARGO_BIN_EXE_svdo-infer");
const SVDO: &str = env!("CARGO_BIN_EXE_svdo");

/// Exit code, stdout, stderr.
fn run(program: &str, folder: &Path, line: &str) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(program)
        .args(line.split(' '))
        .current_dir(folder)
        .env("GITHUB_STEP_SUMMARY", folder.join("summary.md"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// LeNet-300-100 under several names, and the first images of MNIST's test set as IDX.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (from, to) in [
        ("lenet300_mnist.safetensors", "model.safetensors"),
        ("t10k-images-idx3-ubyte.gz", "images.gz"),
        ("t10k-labels-idx1-ubyte.gz", "labels.gz"),
    ] {
        std::fs::copy(fixtures::path(from), at(to)).unwrap();
    }
    std::fs::create_dir(at("shards")).unwrap();
    std::fs::copy(at("model.safetensors"), at("shards/one.safetensors")).unwrap();
    std::fs::write(at("net.json"), "{}").unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model.safetensors", at("soft")).unwrap();
        std::fs::hard_link(at("model.safetensors"), at("hard")).unwrap();
    }
    folder
}

/// Every file with its content.
fn content(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

#[test]
fn an_input_is_never_an_output() {
    let folder = folder();
    let here = folder.path();
    let model = fixtures::path("lenet300_mnist.safetensors");
    let (code, _, err) = run(COMPRESS, here, "model.safetensors");
    assert_eq!(code, 0, "{err}");
    let before = content(here);
    let absolute = here.join("model.safetensors");
    let absolute = absolute.to_str().unwrap();
    let data = "--validate images.gz --labels labels.gz";
    let mut cases = vec![
        (COMPRESS, "model.safetensors -o ./model.safetensors".to_owned()),
        (COMPRESS, format!("model.safetensors -o {absolute}")),
        (COMPRESS, format!("{absolute} -o model.safetensors")),
        (COMPRESS, "shards -o shards/one.safetensors".to_owned()),
        (COMPRESS, "model.safetensors --network net.json -o net.json".to_owned()),
        (COMPRESS, format!("model.safetensors {data} -o images.gz")),
        (COMPRESS, format!("model.safetensors {data} --html labels.gz")),
        (COMPRESS, "model.safetensors --calibrate images.gz --badge ./images.gz".to_owned()),
        (COMPRESS, "model.safetensors -o x --json ./x".to_owned()),
        (COMPRESS, "model.safetensors -o x --json y --markdown ./y".to_owned()),
        (COMPRESS, "model.safetensors --github --json summary.md".to_owned()),
        (INFER, "model.svdo -i images.gz -o model.svdo".to_owned()),
        (INFER, "model.svdo -i images.gz --json images.gz".to_owned()),
        (INFER, "model.svdo -i images.gz -l labels.gz --json ./labels.gz".to_owned()),
        (INFER, "model.svdo --verify model.safetensors --json model.safetensors".to_owned()),
        (INFER, "model.svdo --bench --json model.svdo".to_owned()),
        (SVDO, "export model.svdo -o ./model.svdo".to_owned()),
        (SVDO, "diff net.json summary.md --github".to_owned()),
    ];
    for option in ["-o", "--json", "--markdown", "--html", "--badge"] {
        cases.push((COMPRESS, format!("model.safetensors {option} shards/../model.safetensors")));
        if cfg!(unix) {
            for link in ["soft", "hard"] {
                cases.push((COMPRESS, format!("model.safetensors {option} {link}")));
                cases.push((COMPRESS, format!("{link} {option} model.safetensors")));
            }
        }
    }
    for (program, line) in cases {
        let (code, out, err) = run(program, here, &line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        // The export is refused for its name first.
        if !line.starts_with("export") {
            assert!(err.contains(" is the same file as "), "{line}: {err}");
        }
        assert!(err.lines().count() == 1 && err.len() < 500, "{line}: {err}");
        assert!(content(here) == before, "{line}");
    }
    assert!(std::fs::read(model).unwrap() == std::fs::read(absolute).unwrap());
}

#[cfg(unix)]
#[test]
fn standard_output_counts_as_the_file_that_it_is() {
    let folder = folder();
    let here = folder.path();
    let start = |line: &str, redirect: &str| {
        let line = format!("{COMPRESS} model.safetensors {line} {redirect}");
        Command::new("sh").args(["-c", &line]).current_dir(here).output().unwrap()
    };
    let refused = start("-o x.svdo", "> x.svdo");
    let err = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && err.contains("standard output"), "{err}");
    // Text and JSON, one after the other.
    for redirect in ["| cat", "> log; cat log"] {
        let both = start("-o x.svdo --json /dev/stdout", redirect);
        let text = String::from_utf8(both.stdout).unwrap();
        assert!(text.starts_with("{\n") && text.ends_with("}\n"), "{text}");
        assert!(start("-o /dev/null --json /dev/null", redirect).status.success());
    }
    assert!(std::fs::metadata("/dev/null").is_ok_and(|found| !found.is_file()));
}

/// A checkpoint whose layers are called by what acts in terminals, tables and workflows.
fn hostile(folder: &Path) -> std::path::PathBuf {
    let layers = ["\n::error::x", "\u{1b}[2J\u{202e}|`\r"];
    let mut tensors = Vec::new();
    for (layer, shape) in layers.iter().zip([[3, 4], [2, 3]]) {
        let weights = shape[0] * shape[1];
        let values: Vec<f32> = (0..weights).map(|i| 0.5 + i as f32).collect();
        tensors.push(tensor(&format!("{layer}.theta"), &shape, &values));
        tensors.push(tensor(&format!("{layer}.log_sigma2"), &shape, &vec![-9.0; weights]));
    }
    let path = folder.join("hostile.safetensors");
    std::fs::write(&path, safetensors(&tensors, None)).unwrap();
    path
}

#[test]
fn names_of_a_file_are_shown_but_do_not_act() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    hostile(here);
    let check = |(code, out, err): (i32, String, String)| {
        let summary = std::fs::read_to_string(here.join("summary.md")).unwrap_or_default();
        for text in [&out, &err, &summary] {
            let acts = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!text.contains(acts), "{text:?}");
            assert!(
                !text.lines().any(|line| line.trim_start().starts_with("::error::x")),
                "{text}"
            );
        }
        (code, out + &err)
    };
    let (code, text) = check(run(COMPRESS, here, "hostile.safetensors --html page.html --github"));
    assert!(code == 0 && text.contains("\\n::error::x"), "{text}");
    let page = std::fs::read_to_string(here.join("page.html")).unwrap();
    assert!(!page.contains('\u{1b}') && !page.contains('\u{202e}'));
    let (_, text) = check(run(SVDO, here, "inspect hostile.safetensors"));
    assert!(text.contains("\\u{1b}[2J"), "{text}");
    check(run(SVDO, here, "inspect hostile.svdo"));
    check(run(INFER, here, "hostile.svdo --bench --step-times --min-ms 0 --warmup-ms 0"));
    let (code, text) = check(run(COMPRESS, here, "hostile.safetensors --target-density x=0.5"));
    assert!(code == 2 && text.contains("\\n::error::x"), "{text}");
}
