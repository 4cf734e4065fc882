//! Compression streams: its memory does not grow with the checkpoint. And running allocates
//! nothing.

use crate::fixtures::{self, EXACT, compress};
use svdo::checkpoint::Checkpoint;
use svdo::compress::Settings;
use svdo::engine::{Engine, Isa, Options};

#[test]
#[cfg(target_os = "linux")]
fn a_checkpoint_far_larger_than_the_memory_it_takes() {
    use std::io::Write;
    const ROWS: usize = 2048;
    const COLUMNS: usize = 4096;
    const LAYERS: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");

    // One percent of the weights has a small variance; the same block again and again.
    let mut noise = fixtures::Noise::new(7);
    let theta: Vec<u8> = noise.vec(1 << 16).iter().flat_map(|v| v.to_le_bytes()).collect();
    let log_sigma2: Vec<u8> = (0..1 << 16)
        .flat_map(|_| if noise.below(100) == 0 { -12f32 } else { 9.0 }.to_le_bytes())
        .collect();
    let bytes = ROWS * COLUMNS * 4;
    let mut header = serde_json::Map::new();
    for layer in 0..LAYERS {
        let at = 2 * layer * bytes;
        for (part, start) in [("theta", at), ("log_sigma2", at + bytes)] {
            let shape = [
                if layer % 2 == 0 { ROWS } else { COLUMNS },
                if layer % 2 == 0 { COLUMNS } else { ROWS },
            ];
            let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, start + bytes]});
            header.insert(format!("fc{layer}.{part}"), entry);
        }
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for _ in 0..LAYERS {
        for block in [&theta, &log_sigma2] {
            (0..bytes / block.len()).for_each(|_| file.write_all(block).unwrap());
        }
    }
    file.into_inner().unwrap();

    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_svdo-compress"))
        .arg(&path)
        .args(["--layout", "oi"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The high-water mark only rises, so the last reading before the end is close to it.
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let mark = status.iter().flat_map(|s| s.lines()).find_map(|l| l.strip_prefix("VmHWM:"));
        let mark = mark.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak_kib = peak_kib.max(mark.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    let file_mib = std::fs::metadata(&path).unwrap().len() >> 20;
    assert!(
        file_mib == 256 && (1..96 << 10).contains(&peak_kib),
        "{peak_kib} KiB of {file_mib} MiB"
    );
}

/// Many layers, of which one is in work at a time: the peak is that of the packed layers and the
/// file. Counts every allocation of this thread, the only one.
#[test]
fn layers_are_coded_one_after_the_other() {
    use safetensors::tensor::Dtype;
    const LAYERS: usize = 24;
    const SIDE: usize = 512;
    let folder = tempfile::tempdir().unwrap();
    let mut noise = fixtures::Noise::new(11);
    let bf16 = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
    };
    let count = SIDE * SIDE;
    let theta = noise.vec(count);
    let log_sigma2: Vec<f32> =
        (0..count).map(|_| if noise.below(50) == 0 { -12.0 } else { 9.0 }).collect();
    let (theta, log_sigma2) = (bf16(&theta), bf16(&log_sigma2));
    for layer in 0..LAYERS {
        let tensor = |part: &str, bytes: &[u8]| fixtures::Tensor {
            name: format!("fc{layer}.{part}"),
            dtype: Dtype::BF16,
            shape: vec![SIDE, SIDE],
            bytes: bytes.into(),
        };
        let tensors = [tensor("weight", &theta), tensor("log_sigma2", &log_sigma2)];
        let shard = fixtures::safetensors(&tensors, None);
        std::fs::write(folder.path().join(format!("{layer:02}.safetensors")), shard).unwrap();
    }
    let options = svdo::checkpoint::Options {
        dense: Some(svdo::checkpoint::profile::DenseLayout::OutIn),
        ..Default::default()
    };
    let checkpoint = Checkpoint::open(folder.path(), &options).unwrap();
    let settings = Settings {
        quantizer: svdo::quantize::Quantizer::RateDistortion(Default::default()),
        fast: true,
        ..EXACT
    };
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    let pool = alone.build().unwrap();
    let mut coded = None;
    let used = allocation_counter::measure(|| {
        coded = Some(pool.install(|| compress(&checkpoint, &settings)));
    });
    let coded = coded.unwrap().unwrap();
    let kept: u64 = coded.statistics.iter().map(|s| s.kept).sum();
    let file = coded.written.bytes.len() as u64;
    // 5 bytes and a little for a kept weight, the file twice, 12 MiB for one layer in work.
    let expected = 6 * kept + 2 * file + (12 << 20);
    assert!(kept > 100_000 && used.bytes_max < expected, "{} of {expected}", used.bytes_max);
    assert!(used.bytes_max < (4 * LAYERS * count) as u64 * 3 / 4);
    // As with all threads.
    let whole = compress(&checkpoint, &settings).unwrap();
    assert!(whole.written == coded.written && whole.simplified == coded.simplified);
    assert!(whole.quantized == coded.quantized);
}

#[test]
fn running_allocates_nothing() {
    for name in ["lenet300_mnist.safetensors", "lenet5_mnist.safetensors"] {
        let checkpoint = Checkpoint::open(&fixtures::path(name), &Default::default()).unwrap();
        let compressed = compress(&checkpoint, &EXACT).unwrap();
        let engine = Engine::new(&compressed.model().unwrap(), Isa::detect(None).unwrap()).unwrap();
        let mut workspace = engine.workspace(40);
        let input = fixtures::Noise::new(1).vec(40 * 784);
        let mut output = vec![0.0; 40 * 10];
        let used = allocation_counter::measure(|| {
            engine.run(&mut workspace, &input, &mut output).unwrap();
            engine.run(&mut workspace, &input[..784], &mut output[..10]).unwrap();
        });
        assert_eq!(used.count_total, 0, "{name}");
    }
}

#[test]
fn threads_share_a_model_and_find_the_same() {
    let checkpoint =
        Checkpoint::open(&fixtures::path("lenet5_mnist.safetensors"), &Default::default()).unwrap();
    let compressed = compress(&checkpoint, &EXACT).unwrap();
    let (model, isa) = (compressed.model().unwrap(), Isa::detect(None).unwrap());
    let with = |threads| {
        Engine::with_options(&model, isa, Options { threads, ..Options::default() }).unwrap()
    };
    let engine = with(2);
    let input = fixtures::Noise::new(1).vec(70 * 784);
    let mut alone = vec![0.0; 70 * 10];
    engine.run(&mut engine.workspace(70).with_threads(1), &input, &mut alone).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut output = vec![0.0; 70 * 10];
                let mut workspace = engine.workspace(70);
                for _ in 0..5 {
                    engine.run(&mut workspace, &input, &mut output).unwrap();
                    assert_eq!(output, alone);
                }
            });
        }
    });
    for threads in [2, 3, 8] {
        let mut output = vec![0.0; 70 * 10];
        with(threads).infer(&input, &mut output).unwrap();
        assert_eq!(output, alone);
    }
}
