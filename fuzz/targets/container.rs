//! Any bytes: `container::read` gives a model or an error, and what it gives is written again as
//! something that reads the same. Checksums are repaired first, so that the parser behind them is met.

use svdo::container;
use svdo::engine::uncertain::{UncertainEngine, Uncertainty};
use svdo::engine::{Engine, Isa, KernelChoice, Options};
use svdo::model::{ActivationRanges, Model, Variances};
use svdo::network::DomainKind;

/// The bytes behind a header's mark, under a checksum.
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut file = [&b"SVDO\x01"[..], bytes].concat();
    file.extend(checksum(&file).to_le_bytes());
    file
}

pub fn read(bytes: &[u8]) {
    if let Ok((model, Some(variances))) = container::read_with_variances(&sealed(bytes)) {
        variances.check(&model).unwrap();
        if is_small(&model) {
            predict(&model, &variances);
        }
    }
    if let Ok((model, ranges)) = container::read_for_int8(&sealed(bytes)) {
        let again = container::with_ranges(&sealed(bytes), &ranges).unwrap();
        assert!(container::read_for_int8(&again).unwrap().1 == ranges);
        if is_small(&model) {
            in_int8(&model, &ranges);
        }
    }
    let Ok(model) = container::read(&sealed(bytes)) else { return };
    for fast in [false, true] {
        let written = container::write(&model, fast).unwrap().bytes;
        let again = container::read(&written).unwrap();
        // Not the models: a NaN is not equal to itself.
        assert!(container::write(&again, fast).unwrap().bytes == written);
    }
    if is_small(&model) {
        run(&model);
    }
}

/// Whether a run is short, whatever the network.
pub fn is_small(model: &Model) -> bool {
    let Ok(shapes) = model.network.shapes() else { return false };
    let all = shapes.iter().chain([&model.network.input.shape]);
    let elements: usize =
        all.map(|s| s.elements().unwrap_or(usize::MAX)).fold(0, usize::saturating_add);
    let weights: usize =
        model.network.layers.iter().map(|l| l.rows() * l.cols()).fold(0, usize::saturating_add);
    elements < 1 << 12
        && weights < 1 << 12
        && elements * weights < 1 << 20
        && model.network.nodes.len() < 64
}

/// Under the posterior, whatever the variances: nothing panics or reads outside.
fn predict(model: &Model, variances: &Variances) {
    for how in [Uncertainty::Moments, Uncertainty::MonteCarlo { samples: 3, seed: 1 }] {
        for isa in Isa::supported() {
            let options = Options { threads: 2, ..Options::default() };
            let Ok(engine) = UncertainEngine::new(model, variances, how, isa, options) else {
                continue;
            };
            let ins = engine.input_shape().elements().unwrap();
            for samples in [1, 9] {
                let x = vec![0.0; samples * ins];
                let mut y = vec![0.0; samples * engine.row()];
                if engine.check_input(&x).is_ok() {
                    engine.infer(&x, &mut y).unwrap();
                }
                // Not finite: an error.
                let _ = engine.predict(&x, 1);
                let _ = engine.predict_numbers(&x);
            }
        }
    }
}

/// In 8 bits, whatever the ranges: nothing panics or reads outside.
fn in_int8(model: &Model, ranges: &ActivationRanges) {
    for isa in Isa::supported() {
        let options = Options { kernel: KernelChoice::Dense, threads: 2, ..Options::default() };
        let Ok(engine) = Engine::in_int8(model, ranges, isa, options) else { continue };
        run_by(&engine);
    }
}

/// Whatever the weights: nothing panics or reads outside.
fn run(model: &Model) {
    for isa in Isa::supported() {
        let Ok(engine) =
            Engine::with_options(model, isa, Options { threads: 2, ..Options::default() })
        else {
            continue;
        };
        run_by(&engine);
        let longest = engine.time().map_or(0, |time| time.longest);
        for steps in [1, 2, longest / 2] {
            if model.at(steps).is_ok_and(|model| is_small(&model))
                && let Ok(engine) = engine.at(steps)
            {
                run_by(&engine);
            }
        }
    }
}

fn run_by(engine: &Engine) {
    let length = |shape: svdo::network::Shape| shape.elements().unwrap();
    for samples in [1, 5] {
        let mut x = vec![0.5; length(engine.input_shape())];
        for domain in engine.domains() {
            x[domain.range.clone()].fill(match domain.kind {
                DomainKind::Real => 0.5,
                DomainKind::Ids(_) => 0.0,
                DomainKind::Mask => 1.0,
            });
        }
        let x = x.repeat(samples);
        let mut y = vec![0.0; samples * length(engine.output_shape())];
        engine.run(&mut engine.workspace(samples), &x, &mut y).unwrap();
    }
}

/// CRC-32 of IEEE 802.3, bit by bit.
pub fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8)
            .fold(sum ^ u32::from(byte), |sum, _| sum >> 1 ^ 0xedb8_8320 & (sum & 1).wrapping_neg())
    })
}
