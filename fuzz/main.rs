//! libFuzzer over the target that `SVDO_FUZZ_TARGET` names.
#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static RUN: OnceLock<fn(&[u8])> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        // What works in parallel does so on this thread, which is faster and the same every time.
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        alone.build_global().unwrap();
        let name = std::env::var("SVDO_FUZZ_TARGET").unwrap_or_default();
        targets::named(&name).unwrap_or_else(|| {
            let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("SVDO_FUZZ_TARGET is {name:?}, not one of: {}", names.join(" "));
            std::process::exit(2);
        })
    });
    run(bytes);
});
