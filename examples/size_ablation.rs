//! What each part of the quantizer is worth: bytes of the whole file at the same change of outputs.
//!
//! `size_ablation CHECKPOINT IMAGES LABELS [NATS]`, on images and labels of the training data. Each
//! row changes one setting; the step is set so that the divergence from the network pruned at 3 is
//! 0.004 nats, or as given. Below them, what the coder is worth: the weights of `all` in other codings.
//! Prints tab-separated values; cross-entropy, in nats, is that of the file nearest to the divergence.

use std::path::PathBuf;

use rayon::prelude::*;
use svdo::checkpoint::Checkpoint;
use svdo::compress::{Samples, Settings, coders, encode, encode_fitted, measure};
use svdo::engine::Isa;
use svdo::prune::prune;
use svdo::quantize::{Calibration, Quantizer, RateDistortion};

/// Images that are run; those calibrated with are the last of them.
const SAMPLES: usize = 20_000;
const CALIBRATED: usize = 10_000;

#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    threshold: f32,
    calibrated: bool,
    simplify: bool,
    rd: RateDistortion,
}

/// A file tried: the logarithms of its step, bytes and divergence, its cross-entropy, and its bytes
/// with the layers under each other coder.
struct Tried {
    logs: [f64; 3],
    cross_entropy: f64,
    coders: Vec<(&'static str, f64)>,
}

/// The rows of the table, with and without calibration.
fn rows() -> Vec<Row> {
    let rd = RateDistortion {
        step: 0.6,
        lambda: 0.04,
        companding: 13,
        gamma: 0.0,
        bias: 0.25,
        distill: 0,
    };
    let all = Row { name: "all", threshold: 1.5, calibrated: true, simplify: true, rd };
    let changed = [
        all,
        Row { name: "threshold 3", threshold: 3.0, ..all },
        Row { name: "threshold 0.5", threshold: 0.5, ..all },
        Row { name: "even levels", rd: RateDistortion { companding: 0, ..rd }, ..all },
        Row { name: "bits without a price", rd: RateDistortion { lambda: 0.0, ..rd }, ..all },
        Row { name: "dead units kept", simplify: false, ..all },
        Row { name: "gamma 0.5", rd: RateDistortion { gamma: 0.5, ..rd }, ..all },
        Row { name: "gamma 1", rd: RateDistortion { gamma: 1.0, ..rd }, ..all },
    ];
    let both = [true, false].map(|calibrated| changed.map(|row| Row { calibrated, ..row }));
    // A calibration weighs errors by itself.
    both.concat().into_iter().filter(|r| !(r.calibrated && r.rd.gamma > 0.0)).collect()
}

fn main() -> svdo::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [checkpoint, images, labels, nats @ ..] = &arguments[..] else {
        eprintln!("usage: size_ablation CHECKPOINT IMAGES LABELS [NATS]");
        std::process::exit(2);
    };
    let nats = nats.first().and_then(|n| n.to_str()?.parse().ok()).unwrap_or(0.004f64);
    let checkpoint = Checkpoint::open(checkpoint, &Default::default())?;
    let shape = checkpoint.network().input.shape;
    let elements = shape.elements()?;
    let values = svdo::data::read_samples(std::slice::from_ref(images), None, shape)?.values;
    let labels = svdo::data::read_labels(labels)?;
    let count = labels.len().min(SAMPLES);
    let (values, labels) = (&values[..count * elements], &labels[..count]);
    let reference = prune(&checkpoint, 3.0)?;
    let exact = reference.to_model()?;
    let fitted = &values[count.saturating_sub(CALIBRATED) * elements..];
    let calibration = Calibration::new(&reference, fitted)?;
    let isa = Isa::detect(None)?;
    let samples = Samples { values, labels: Some(labels) };

    let point = |row: &Row, step: f64| -> svdo::Result<Tried> {
        let quantizer = Quantizer::RateDistortion(RateDistortion { step, ..row.rd });
        let settings =
            Settings { quantizer, simplify: row.simplify, strip: true, ..Settings::default() };
        let pruned = prune(&checkpoint, row.threshold)?;
        let compressed = match row.calibrated {
            true => encode_fitted(pruned, &settings, &calibration)?,
            false => encode(pruned, &settings)?,
        };
        let model = compressed.model()?;
        let (_, change) = measure(&exact, &model, samples, isa)?;
        let bytes = compressed.bytes().len() as f64;
        let sizes = coders::compare(&model, &compressed.written)?;
        let ours = sizes[0].bytes() as f64;
        Ok(Tried {
            logs: [step, bytes, change.divergence.max(1e-9)].map(f64::ln),
            cross_entropy: change.evaluation.map_or(0.0, |e| e.cross_entropy),
            coders: sizes[1..].iter().map(|s| (s.coder, bytes - ours + s.bytes() as f64)).collect(),
        })
    };
    // The nearest point, and its bytes moved to the divergence along the usual slope of the logarithms.
    let nearest = |row: &Row| -> svdo::Result<Option<(f64, Tried)>> {
        let mut found = vec![point(row, row.rd.step)?];
        for _ in 0..5 {
            let slope = match &found[..] {
                [.., a, b] if (b.logs[0] - a.logs[0]).abs() > 1e-6 => {
                    ((b.logs[2] - a.logs[2]) / (b.logs[0] - a.logs[0])).max(0.5)
                }
                _ => 1.6,
            };
            let last = found[found.len() - 1].logs;
            let next = last[0] + ((nats.ln() - last[2]) / slope).clamp(-1.2, 1.2);
            found.push(point(row, next.exp().clamp(0.02, 20.0))?);
        }
        let apart = |tried: &Tried| tried.logs[2] - nats.ln();
        found.sort_by(|a, b| apart(a).abs().total_cmp(&apart(b).abs()));
        let best = found.swap_remove(0);
        let bytes = (best.logs[1] + 0.25 * apart(&best)).exp();
        Ok((apart(&best).abs() < 0.25).then_some((bytes, best)))
    };
    let rows = rows();
    let found = rows.par_iter().map(nearest).collect::<svdo::Result<Vec<_>>>()?;
    println!("setting\tcalibrated\tbytes\tcross-entropy\tover all\tover its own kind");
    let size = |at: usize| found[at].as_ref().map(|(bytes, _)| *bytes);
    for (at, row) in rows.iter().enumerate() {
        let bytes = size(at);
        let over = |other: Option<f64>| match (bytes, other) {
            (Some(bytes), Some(other)) => format!("{:+.1} %", 100.0 * (bytes / other - 1.0)),
            _ => "-".into(),
        };
        let own = rows.iter().position(|r| r.name == "all" && r.calibrated == row.calibrated);
        println!(
            "{}\t{}\t{}\t{}\t{}\t{}",
            row.name,
            if row.calibrated { "yes" } else { "no" },
            bytes.map_or_else(|| "-".into(), |b| format!("{b:.0}")),
            found[at].as_ref().map_or_else(|| "-".into(), |f| format!("{:.4}", f.1.cross_entropy)),
            over(size(0)),
            over(own.and_then(size))
        );
    }
    if let Some((bytes, tried)) = &found[0] {
        let moved = bytes / tried.logs[1].exp();
        for (coder, size) in &tried.coders {
            let over = 100.0 * (size * moved / bytes - 1.0);
            let (size, entropy) = (size * moved, tried.cross_entropy);
            println!("all under {coder}\tyes\t{size:.0}\t{entropy:.4}\t{over:+.1} %\t");
        }
    }
    Ok(())
}
