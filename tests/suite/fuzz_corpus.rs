//! The bodies of all fuzz targets over their corpora.

#[path = "../../fuzz/targets/mod.rs"]
mod targets;

use std::path::Path;

/// Of a target: every file, and each cut short and changed a little.
#[test]
fn every_corpus_passes() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let known: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    for folder in std::fs::read_dir(&corpora).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "a corpus {name} without a target");
    }
    for (name, run) in targets::TARGETS {
        let mut count = 0;
        for file in std::fs::read_dir(corpora.join(name)).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            run(&bytes);
            run(&bytes[..bytes.len() / 2]);
            run(&[]);
            count += 1;
        }
        assert!(count > 1, "the corpus of {name} has {count} files");
    }
}
