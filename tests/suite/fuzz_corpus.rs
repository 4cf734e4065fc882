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

#[test]
fn tmp_random() {
    let mut seed = std::env::var("SEED").map_or(1u64, |s| s.parse().unwrap());
    let count = std::env::var("COUNT").map_or(200u64, |s| s.parse().unwrap());
    let run = targets::named(&std::env::var("TARGET").unwrap_or("networks".into())).unwrap();
    for i in 0..count {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let bytes: Vec<u8> = (0..160)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as u8
            })
            .collect();
        let _ = i;
        if std::panic::catch_unwind(|| run(&bytes)).is_err() {
            panic!("seed {seed}");
        }
        seed += 1;
    }
}
