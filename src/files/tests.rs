use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[cfg(feature = "compress")]
#[test]
fn a_failure_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write(&path, b"old").unwrap();
    let failed = write_with(&path, |file, temporary| {
        file.write_all(b"half")?;
        assert!(temporary.starts_with(folder.path()));
        Err(io::Error::other("full"))
    });
    assert!(failed.unwrap_err().to_string().ends_with("x: full"));
    assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"old".into(), vec!["x".into()]));
    write(&path, b"new").unwrap();
    assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"new".into(), vec!["x".into()]));
}

#[test]
fn names_that_are_taken_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let first = temporary::create_beside(&path).unwrap();
    let mut held = Vec::new();
    for count in 0..5000 {
        let name = format!("{}{}-{count}", temporary::prefix(&path), std::process::id());
        let file = File::options().write(true).create_new(true).open(folder.path().join(name));
        if let Ok(file) = file {
            #[cfg(unix)]
            file.lock().unwrap();
            held.push(file);
        }
    }
    let error = write(&path, b"").unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
    drop(first);
    assert!(write(&folder.path().join("no/such/x"), b"").is_err());
}

#[cfg(feature = "compress")]
#[test]
fn the_previous_file_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, previous) = (folder.path().join("x"), folder.path().join("x.previous"));
    for content in ["a", "b", "c"] {
        write_keeping(&path, &previous, content.as_bytes()).unwrap();
    }
    assert_eq!(
        (&fs::read(&path).unwrap()[..], &fs::read(&previous).unwrap()[..]),
        (&b"c"[..], &b"b"[..])
    );
    assert_eq!(names(folder.path()), ["x", "x.previous"]);
}

#[cfg(all(unix, feature = "compress"))]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_device_is_written_to_and_stays() {
        write(Path::new("/dev/null"), b"gone").unwrap();
        write_with(Path::new("/dev/null"), |file, _| file.write_all(b"gone")).unwrap();
        check(Path::new("/dev/null")).unwrap();
        assert!(!Path::new("/dev/null").is_file());
        let full = write(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(full.to_string().starts_with("/dev/full: "), "{full}");
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("far")).unwrap();
        symlink("far/target", at("near")).unwrap();
        symlink(at("near"), at("link")).unwrap();
        symlink("round", at("round")).unwrap();
        // The first time, the file is not there yet.
        for content in ["a", "b"] {
            write(&at("link"), content.as_bytes()).unwrap();
            assert_eq!(fs::read(at("far/target")).unwrap(), content.as_bytes());
        }
        assert!(at("link").is_symlink() && at("near").is_symlink());
        assert_eq!(names(&at("far")), ["target"]);
        assert!(write(&at("round"), b"x").is_err());
    }

    #[test]
    fn mode_and_owner_are_kept_and_read_only_files_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root may give files away.
        let given = std::os::unix::fs::chown(&path, Some(12345), Some(54321)).is_ok();
        write(&path, b"new").unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o640);
        if given {
            assert_eq!((found.uid(), found.gid()), (12345, 54321));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        for refused in [write(&path, b"newer"), check(&path)] {
            assert!(refused.unwrap_err().to_string().ends_with("x: the file is read-only"));
        }
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn leftovers_of_the_same_output_alone_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("x"), folder.path().join("y"));
        let left = |path: &Path| {
            let name = format!("{}1-0", temporary::prefix(path));
            fs::write(folder.path().join(&name), "half").unwrap();
            name
        };
        left(&path);
        let others = left(&other);
        fs::write(folder.path().join(".svdo-mine"), "").unwrap();
        let (_file, alive) = temporary::create_beside(&path).unwrap();
        write(&path, b"x").unwrap();
        let mut expected = vec![
            ".svdo-mine".to_owned(),
            others,
            alive.path().file_name().unwrap().to_str().unwrap().to_owned(),
            "x".to_owned(),
        ];
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn outputs_that_are_inputs_or_outputs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("in"), "").unwrap();
        fs::hard_link(at("in"), at("hard")).unwrap();
        symlink(at("in"), at("soft")).unwrap();
        symlink("out", at("dangling")).unwrap();
        let mut claims = Claims::default();
        claims.reads("the input", &at("in")).unwrap();
        claims.reads("--labels", &at("in")).unwrap();
        claims.writes("-o", &at("out")).unwrap();
        for same in ["in", "./in", "sub/../in", "hard", "soft", "out", "sub/../out", "dangling"] {
            let refused = claims.writes("--json", &at(same)).unwrap_err().to_string();
            let of = if same.ends_with("out") || same == "dangling" { "-o" } else { "the input" };
            assert!(refused.starts_with("--json ") && refused.contains(of), "{same}: {refused}");
        }
        assert!(claims.reads("--network", &at("dangling")).is_err());
        for free in ["-", "/dev/null", "/dev/null", "/dev/stdout"] {
            claims.writes("--json", Path::new(free)).unwrap();
        }
        claims.writes("--json", &at("other")).unwrap();
        claims.reads("--network", &at("no/such/folder")).unwrap();
    }
}
