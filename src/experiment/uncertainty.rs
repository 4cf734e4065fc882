//! What a pruned network does not know: the scores of predictions by means, by moments and by samples of the
//! posterior, on digits, on clothes and on mixtures of two digits, at several thresholds, without and with the
//! variances of what was pruned.

use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Findings, Resources, demand, read};
use crate::checkpoint::{Checkpoint, Options};
use crate::compress::Job;
use crate::container;
use crate::data::{read_labels, read_samples};
use crate::engine::uncertain::{UncertainEngine, Uncertainty};
use crate::engine::{self, Isa};
use crate::error::{Error, Result};
use crate::model::{LayerVariances, LayerWeights, Model, Pattern, Values, Variances};
use crate::plot::{Axis, Figure, Panel, Series};
use crate::prune::{self, pruned_variance};
use crate::report::display;
use crate::uncertainty::predictive::Prediction;
use crate::uncertainty::ranking::{Detection, RiskCoverage};
use crate::uncertainty::scores::Scores;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    seed: u64,
    /// With a posterior, of images of 28 x 28.
    checkpoints: Vec<String>,
    /// Images of another kind, in the folder of the data.
    foreign: String,
    /// Of each kind.
    samples: usize,
    /// Thresholds of log alpha; null for no pruning.
    thresholds: Vec<Option<f64>>,
    /// Numbers of samples of the posterior.
    draws: Vec<usize>,
    reference: Reference,
    /// What a bit of the variances is worth, in nats of divergence.
    rates: Vec<f64>,
    /// For standard errors.
    resamples: usize,
}

/// What moments are held against.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    thresh: f64,
    draws: usize,
}

/// Runs the experiment.
///
/// # Errors
/// If a setting makes no sense or data is missing.
pub fn run(settings: Value, resources: &Resources<'_>) -> Result<Findings> {
    let config: Config = read(settings)?;
    demand((10..=10_000).contains(&config.samples), "samples", "10 to 10000")?;
    let draws = || config.draws.iter().chain([&config.reference.draws]);
    demand(draws().all(|n| (1..=100_000).contains(n)), "draws", "1 to 100000 each")?;
    demand((2..=10_000).contains(&config.resamples), "resamples", "2 to 10000")?;
    let folder = resources.data.unwrap_or(Path::new(""));
    let mut rows = Vec::new();
    let mut checks = Vec::new();
    let mut files = Vec::new();
    let mut text = String::new();
    for path in &config.checkpoints {
        let checkpoint = Checkpoint::open(Path::new(path), &Options::default())?;
        let sets = Sets::read(folder, &config, &checkpoint)?;
        for &threshold in &config.thresholds {
            let at = threshold.unwrap_or(f64::INFINITY);
            for kind in Pruned::ALL {
                if kind != Pruned::Dropped && threshold.is_none() {
                    continue;
                }
                (resources.progress)(&format!("{path}: threshold {at}, {}", kind.name()));
                let network = Network::new(&checkpoint, at, kind)?;
                for how in kind.ways(&config, at) {
                    let found = network.measure(&sets, how, &config)?;
                    rows.push(Row { checkpoint: path.clone(), threshold: at, kind, how, found });
                }
            }
        }
        (resources.progress)(&format!("{path}: moments against {} draws", config.reference.draws));
        checks.push(check(path, &checkpoint, &sets, &config)?);
        (resources.progress)(&format!("{path}: the file"));
        files.push(file(path, &checkpoint, &sets, &config)?);
    }
    let passed = checks.iter().all(|check| check["passed"] == true);
    for check in checks.iter().chain(&files) {
        let _ = writeln!(text, "{check:#}");
    }
    let summary = json!({"moments_against_samples": checks, "files": files, "passed": passed});
    Ok(Findings {
        files: vec![
            ("uncertainty.csv".into(), table(&rows).into()),
            ("uncertainty.svg".into(), figure(&rows, &config).document().into()),
        ],
        summary,
        text,
        passed,
    })
}

/// What is made of the variances of pruned weights.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pruned {
    /// Nothing.
    Dropped,
    /// A factor for each row and column.
    Summary,
    /// Each as it is.
    Kept,
}

impl Pruned {
    const ALL: [Self; 3] = [Self::Dropped, Self::Summary, Self::Kept];

    fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Summary => "summary",
            Self::Kept => "kept",
        }
    }

    /// The ways to predict that are measured with it, fewer where nothing is pruned and all takes long.
    fn ways(self, config: &Config, threshold: f64) -> Vec<How> {
        let most = if threshold.is_finite() { config.draws.len() } else { 1 };
        let draws = config.draws.iter().take(most).map(|&n| How::Samples(n));
        match self {
            Self::Dropped => [How::Mean, How::Moments].into_iter().chain(draws).collect(),
            Self::Summary | Self::Kept => vec![How::Moments],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Mean,
    Moments,
    Samples(usize),
}

impl How {
    fn name(self) -> String {
        match self {
            Self::Mean => "mean".into(),
            Self::Moments => "moments".into(),
            Self::Samples(n) => format!("mc={n}"),
        }
    }
}

/// Samples of three kinds.
struct Sets {
    digits: Vec<f32>,
    labels: Vec<u32>,
    clothes: Vec<f32>,
    mixtures: Vec<f32>,
}

impl Sets {
    fn read(folder: &Path, config: &Config, checkpoint: &Checkpoint) -> Result<Self> {
        let shape = checkpoint.network().input.shape;
        let elements = shape.elements()?;
        let first = |path: &Path| -> Result<Vec<f32>> {
            let mut values = read_samples(&[path.to_owned()], None, shape)?.values;
            if values.len() < config.samples * elements {
                let there = values.len() / elements;
                let problem =
                    format!("{there} images, setting samples asks for {}", config.samples);
                return Err(Error::data(problem).in_file(path));
            }
            values.truncate(config.samples * elements);
            Ok(values)
        };
        let digits = first(&folder.join("t10k-images-idx3-ubyte.gz"))?;
        let mut labels = read_labels(&folder.join("t10k-labels-idx1-ubyte.gz"))?;
        labels.truncate(config.samples);
        let clothes = first(&folder.join(&config.foreign))?;
        let mut mixtures = Vec::with_capacity(digits.len());
        for (at, digit) in digits.chunks_exact(elements).enumerate() {
            // The next digit of another class, in a circle.
            let others = (1..config.samples).map(|apart| (at + apart) % config.samples);
            let other = others.into_iter().find(|&other| labels[other] != labels[at]).unwrap_or(at);
            let other = &digits[other * elements..][..elements];
            mixtures.extend(digit.iter().zip(other).map(|(a, b)| 0.5 * (a + b)));
        }
        Ok(Self { digits, labels, clothes, mixtures })
    }
}

/// A pruned network and its variances.
struct Network {
    model: Model,
    variances: Variances,
}

impl Network {
    fn new(checkpoint: &Checkpoint, threshold: f64, kind: Pruned) -> Result<Self> {
        let pruned = prune::prune(checkpoint, threshold)?;
        let mut model = pruned.to_model()?;
        let mut layers = Vec::new();
        for index in 0..model.weights.len() {
            let mut own = spread(pruned.layer(index)?.log_sigma2.unwrap_or_default());
            match kind {
                Pruned::Dropped => {}
                Pruned::Summary => own.pruned = pruned_variance(checkpoint, index, threshold)?,
                Pruned::Kept => {
                    let whole = prune::prune_layer(checkpoint, index, f64::INFINITY)?;
                    model.weights[index] = with_zeros(&model.weights[index], &whole)?;
                    own = spread(whole.log_sigma2.unwrap_or_default());
                }
            }
            layers.push(own);
        }
        Ok(Self { model, variances: Variances { layers } })
    }

    fn predict(&self, x: &[f32], how: How, seed: u64) -> Result<Vec<Prediction>> {
        let none =
            || Variances { layers: vec![LayerVariances::default(); self.model.weights.len()] };
        let (variances, how) = match how {
            How::Mean => (none(), Uncertainty::Moments),
            How::Moments => (self.variances.clone(), Uncertainty::Moments),
            How::Samples(samples) => {
                (self.variances.clone(), Uncertainty::MonteCarlo { samples, seed })
            }
        };
        let threads = rayon::current_num_threads();
        let options = engine::Options { threads, ..engine::Options::default() };
        let engine = UncertainEngine::new(&self.model, &variances, how, Isa::best(), options)?;
        engine.predict(x, seed)
    }

    fn measure(&self, sets: &Sets, how: How, config: &Config) -> Result<Measured> {
        let predict = |x: &[f32]| self.predict(x, how, config.seed);
        Measured::new(
            predict(&sets.digits)?,
            predict(&sets.clothes)?,
            &predict(&sets.mixtures)?,
            sets,
        )
    }
}

fn spread(log_sigma2: Vec<f32>) -> LayerVariances {
    let weights = log_sigma2.iter().map(|&log| libm::exp(f64::from(log)) as f32).collect();
    LayerVariances { weights, ..LayerVariances::default() }
}

/// Weights in the pattern of the whole layer, zero where they were pruned.
fn with_zeros(weights: &LayerWeights, whole: &prune::PrunedLayer) -> Result<LayerWeights> {
    let kept = weights.values.to_f32();
    let mut pattern = Pattern::with_columns(weights.pattern.cols());
    let mut values = Vec::new();
    for (row, all) in whole.weights.outer_iterator().enumerate() {
        let own = weights.pattern.row(row);
        let first = weights.pattern.entries(row).start;
        pattern.push_row(all.indices().iter().copied())?;
        let value = |column| own.binary_search(column).map_or(0.0, |at| kept[first + at]);
        values.extend(all.indices().iter().map(value));
    }
    Ok(LayerWeights { pattern, values: Values::F32(values), bias: weights.bias.clone() })
}

/// Scores of one way to predict.
struct Measured {
    scores: Scores,
    aurc: f64,
    /// Clothes told from digits by entropy, and by mutual information.
    clothes: [Detection; 2],
    /// Mixtures told from digits by entropy.
    mixtures: Detection,
    digits: Vec<Prediction>,
    foreign: Vec<Prediction>,
}

impl Measured {
    fn new(
        digits: Vec<Prediction>,
        foreign: Vec<Prediction>,
        mixtures: &[Prediction],
        sets: &Sets,
    ) -> Result<Self> {
        let scores = Scores::new(&digits, &sets.labels)?;
        let aurc = RiskCoverage::new(&digits, &sets.labels)?.aurc;
        let information = |p: &Prediction| p.mutual_information;
        let told = |other: &[Prediction], score: fn(&Prediction) -> f64| {
            let of = |all: &[Prediction]| all.iter().map(score).collect::<Vec<_>>();
            Detection::new(&of(&digits), &of(other))
        };
        let clothes = [told(&foreign, |p| p.entropy)?, told(&foreign, information)?];
        let mixtures = told(mixtures, |p| p.entropy)?;
        Ok(Self { scores, aurc, clothes, mixtures, digits, foreign })
    }

    /// NLL, ECE and AUROC.
    fn three(&self) -> [f64; 3] {
        [self.scores.nll, self.scores.ece, self.clothes[0].auroc]
    }

    /// Standard errors of the three, over samples drawn again.
    fn errors(&self, labels: &[u32], config: &Config) -> Result<[f64; 3]> {
        let mut words = vec![0u32; 2 * self.digits.len()];
        let (mut sums, mut squares) = ([0.0; 3], [0.0; 3]);
        for resample in 0..config.resamples {
            let stream = crate::train::noise::Stream {
                seed: config.seed,
                purpose: crate::train::noise::EXPERIMENT,
                step: 0,
                index: resample as u32,
            };
            stream.integers(&mut words);
            let at = |word: &u32| ((u64::from(*word) * self.digits.len() as u64) >> 32) as usize;
            let (own, other) = words.split_at(self.digits.len());
            let digits: Vec<_> = own.iter().map(|w| self.digits[at(w)].clone()).collect();
            let labels: Vec<_> = own.iter().map(|w| labels[at(w)]).collect();
            let scores = Scores::new(&digits, &labels)?;
            let entropy = |p: &Prediction| p.entropy;
            let known: Vec<f64> = digits.iter().map(entropy).collect();
            let foreign: Vec<f64> = other.iter().map(|w| self.foreign[at(w)].entropy).collect();
            let auroc = Detection::new(&known, &foreign)?.auroc;
            for (at, value) in [scores.nll, scores.ece, auroc].into_iter().enumerate() {
                sums[at] += value;
                squares[at] += value * value;
            }
        }
        let n = config.resamples as f64;
        let of = |at: usize| ((squares[at] - sums[at] * sums[at] / n).max(0.0) / (n - 1.0)).sqrt();
        Ok([of(0), of(1), of(2)])
    }
}

/// One line of the table.
struct Row {
    checkpoint: String,
    threshold: f64,
    kind: Pruned,
    how: How,
    found: Measured,
}

/// Whether moments are as good as many samples.
fn check(path: &str, checkpoint: &Checkpoint, sets: &Sets, config: &Config) -> Result<Value> {
    let network = Network::new(checkpoint, config.reference.thresh, Pruned::Dropped)?;
    let samples = network.measure(sets, How::Samples(config.reference.draws), config)?;
    let moments = network.measure(sets, How::Moments, config)?;
    let errors = samples.errors(&sets.labels, config)?;
    let (by_samples, by_moments) = (samples.three(), moments.three());
    let mut all = serde_json::Map::new();
    let mut passed = true;
    for (at, name) in ["nll", "ece", "auroc"].into_iter().enumerate() {
        let apart = (by_moments[at] - by_samples[at]) / errors[at];
        passed &= apart.abs() <= 1.5;
        all.insert(
            name.into(),
            json!({
                "moments": by_moments[at],
                "samples": by_samples[at],
                "standard_error": errors[at],
                "standard_errors_apart": apart,
            }),
        );
    }
    Ok(json!({
        "checkpoint": path,
        "thresh": config.reference.thresh,
        "draws": config.reference.draws,
        "scores": all,
        "passed": passed,
    }))
}

/// What the variances cost in a file, and what their coding does to the scores.
fn file(path: &str, checkpoint: &Checkpoint, sets: &Sets, config: &Config) -> Result<Value> {
    let threshold = config.reference.thresh;
    let bytes = |variances| -> Result<Vec<u8>> {
        let job = Job::new(checkpoint).threshold(threshold as f32).variances(variances);
        Ok(job.run()?.file.bytes().to_vec())
    };
    let (without, with) = (bytes(false)?, bytes(true)?);
    let (model, coded) = container::read_with_variances(&with)?;
    let coded = Network { model, variances: coded.unwrap_or(Variances { layers: Vec::new() }) };
    let exact = Network::new(checkpoint, threshold, Pruned::Dropped)?;
    let nll = |network: &Network| -> Result<f64> {
        Ok(network.measure(sets, How::Moments, config)?.scores.nll)
    };
    let mut rates = Vec::new();
    for &rate in &config.rates {
        let written = container::write_with_variances(&exact.model, &exact.variances, rate)?;
        let (model, variances) = container::read_with_variances(&written.bytes)?;
        let variances = variances.unwrap_or(Variances { layers: Vec::new() });
        let nll = nll(&Network { model, variances })?;
        rates.push(json!({"nats_per_bit": rate, "bytes": written.variance_bytes, "nll": nll}));
    }
    let (exact, coded) = (nll(&exact)?, nll(&coded)?);
    Ok(json!({
        "rates": rates,
        "checkpoint": display(Path::new(path)),
        "bytes_without": without.len(),
        "bytes_with": with.len(),
        "bytes_more": with.len() as f64 / without.len() as f64 - 1.0,
        "nll_exact": exact,
        "nll_file": coded,
    }))
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "checkpoint,threshold,pruned_variances,predicted_by,accuracy,nll,nll_se,ece,brier,aurc,\
         auroc_clothes_entropy,fpr95_clothes_entropy,auroc_clothes_mutual_information,\
         auroc_mixtures_entropy\n",
    );
    for Row { checkpoint, threshold, kind, how, found } in rows {
        let Measured { scores, aurc, clothes, mixtures, .. } = found;
        let name = Path::new(checkpoint).file_stem().unwrap_or_default().to_string_lossy();
        let _ = writeln!(
            text,
            "{name},{threshold},{},{},{:.4},{:.5},{:.5},{:.5},{:.5},{:.6},{:.4},{:.4},{:.4},{:.4}",
            kind.name(),
            how.name(),
            scores.accuracy,
            scores.nll,
            scores.nll_se,
            scores.ece,
            scores.brier,
            aurc,
            clothes[0].auroc,
            clothes[0].fpr95,
            clothes[1].auroc,
            mixtures.auroc
        );
    }
    text
}

/// NLL and AUROC against threshold, one panel for each and network.
fn figure(rows: &[Row], config: &Config) -> Figure {
    let most = config.thresholds.iter().flatten().copied().fold(0.0, f64::max);
    let ways: [(Pruned, How, &str); 4] = [
        (Pruned::Dropped, How::Mean, "means"),
        (Pruned::Dropped, How::Moments, "moments"),
        (Pruned::Summary, How::Moments, "and a summary of the pruned"),
        (Pruned::Kept, How::Moments, "and all of the pruned"),
    ];
    let panel = |path: &String, axis: &str, of: fn(&Measured) -> f64| {
        let series = ways.iter().map(|&(kind, how, name)| {
            let own = rows
                .iter()
                .filter(|row| &row.checkpoint == path && row.kind == kind && row.how == how);
            // No pruning stands one further to the right.
            let points = own.map(|row| (row.threshold.min(most + 1.0), of(&row.found)));
            Series::line(name, points.collect())
        });
        let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
        Panel {
            title: format!("{name}: {axis}"),
            x: Axis::new("threshold; last: no pruning"),
            y: Axis::new(axis),
            series: series.collect(),
        }
    };
    let panels = config.checkpoints.iter().flat_map(|path| {
        [
            panel(path, "NLL, nats", |found| found.scores.nll),
            panel(path, "AUROC of clothes", |found| found.clothes[0].auroc),
        ]
    });
    Figure { title: "What pruning takes from uncertainty".into(), panels: panels.collect() }
}
