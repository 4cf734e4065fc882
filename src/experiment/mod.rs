//! Experiments of the papers as functions: settings in, tables and figures out.
//!
//! Each file is one experiment; its settings are checked in under `experiments/NAME/config.json`,
//! beside what it gave and `results.md`, which says what the source claims and why we differ.

pub mod chain;
pub mod check;
pub mod early_collapse;
pub mod gradient_variance;
pub mod kl;
pub mod lenet;
pub mod pruning;
pub mod random_labels;
pub mod relevance;
pub mod seeds;
pub mod spread;
pub mod task;
pub mod uncertainty;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::report::json;
use crate::train::recipe;

/// One experiment.
pub struct Experiment {
    /// What it is called.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// Whether it reads MNIST or CIFAR-10.
    pub needs_data: bool,
    /// Its settings, JSON.
    pub config: &'static str,
    run: fn(Value, &Resources<'_>) -> Result<Findings>,
}

/// What an experiment may use besides its settings.
pub struct Resources<'a> {
    /// Folder of MNIST's IDX files or CIFAR-10's binary ones.
    pub data: Option<&'a Path>,
    /// Where a long training leaves its state, and goes on from.
    pub state: Option<&'a Path>,
    /// Told what is going on, a line at a time.
    pub progress: &'a dyn Fn(&str),
}

/// What an experiment found.
pub struct Findings {
    /// Names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// What `summary.json` says.
    pub summary: Value,
    /// For the terminal.
    pub text: String,
    /// Whether everything that it checks holds.
    pub passed: bool,
}

/// A summary says what it is of.
#[derive(Serialize)]
struct Summary<'a> {
    experiment: &'static str,
    #[serde(flatten)]
    findings: &'a Value,
}

macro_rules! config {
    ($name:literal) => {
        include_str!(concat!("../../experiments/", $name, "/config.json"))
    };
}

/// Every experiment.
pub const ALL: [Experiment; 14] = [
    Experiment {
        name: "chain",
        about: "binary, Gaussian, fast, variational and sparse variational dropout, each checked \
                against the one before",
        needs_data: false,
        config: config!("chain"),
        run: chain::run,
    },
    Experiment {
        name: "kl",
        about: "forms of the KL from the log-uniform prior and how far they are off",
        needs_data: false,
        config: config!("kl"),
        run: kl::run,
    },
    Experiment {
        name: "gradient-variance",
        about: "variance of gradients by estimator and by parameterization",
        needs_data: false,
        config: config!("gradient-variance"),
        run: gradient_variance::run,
    },
    Experiment {
        name: "relevance",
        about: "linear regression: irrelevant features removed, theta against its closed form",
        needs_data: false,
        config: config!("relevance"),
        run: relevance::run,
    },
    Experiment {
        name: "mlp-mnist",
        about: "a multilayer perceptron on MNIST: sparsity and accuracy by epoch, the first layer",
        needs_data: true,
        config: config!("mlp-mnist"),
        run: lenet::run,
    },
    Experiment {
        name: "lenet-5",
        about: "LeNet-5 on MNIST: sparsity and accuracy by epoch",
        needs_data: true,
        config: config!("lenet-5"),
        run: lenet::run,
    },
    Experiment {
        name: "lenet-300-100-seeds",
        about: "LeNet-300-100 on MNIST by five seeds, fine-tuned: weights and errors, mean and range",
        needs_data: true,
        config: config!("lenet-300-100-seeds"),
        run: seeds::run,
    },
    Experiment {
        name: "lenet-5-seeds",
        about: "the same of LeNet-5",
        needs_data: true,
        config: config!("lenet-5-seeds"),
        run: seeds::run,
    },
    Experiment {
        name: "pruning",
        about: "sparse variational dropout, hard concrete gates, magnitude and random masks on LeNet-5, at equal \
                numbers of weights",
        needs_data: true,
        config: config!("pruning"),
        run: pruning::run,
    },
    Experiment {
        name: "alexnet-cifar",
        about: "AlexNet on CIFAR-10: sparsity and accuracy by epoch",
        needs_data: true,
        config: config!("alexnet-cifar"),
        run: lenet::run,
    },
    Experiment {
        name: "vgg-cifar",
        about: "a VGG-like network a quarter as wide on CIFAR-10: sparsity and accuracy by epoch",
        needs_data: true,
        config: config!("vgg-cifar"),
        run: lenet::run,
    },
    Experiment {
        name: "random-labels",
        about: "MNIST with random labels: sparse variational dropout against binary dropout",
        needs_data: true,
        config: config!("random-labels"),
        run: random_labels::run,
    },
    Experiment {
        name: "early-collapse",
        about: "LeNet-300-100 on few and on many images: its KL at once, with a ramp, and from a trained \
                network",
        needs_data: true,
        config: config!("early-collapse"),
        run: early_collapse::run,
    },
    Experiment {
        name: "uncertainty",
        about: "what pruned networks do not know: means, moments and samples of the posterior on digits, \
                clothes and mixtures",
        needs_data: true,
        config: config!("uncertainty"),
        run: uncertainty::run,
    },
];

impl Experiment {
    /// The experiment of a name.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(name: &str) -> Result<&'static Self> {
        ALL.iter().find(|e| e.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|e| e.name).collect();
            Error::Argument {
                problem: format!("no experiment {name:?}; there are {}", names.join(", ")),
            }
        })
    }

    /// Its settings: `config` (JSON) or those that are checked in, with `changes` (key, value) made.
    ///
    /// # Errors
    /// If the JSON is none, or a key unknown.
    pub fn settings(&self, config: Option<&str>, changes: &[(String, String)]) -> Result<Value> {
        let problem = |problem: String| Error::Argument { problem };
        let parse = |text: &str| -> Result<Map<String, Value>> {
            serde_json::from_str(text)
                .map_err(|e| problem(format!("settings of {}: {e}", self.name)))
        };
        let known = parse(self.config)?;
        let mut settings = known.clone();
        for (key, value) in config.map(parse).transpose()?.unwrap_or_default() {
            change(&mut settings, key, value);
        }
        for (key, value) in changes {
            let value =
                serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone()));
            change(&mut settings, key.clone(), value);
        }
        if let Some(key) = settings.keys().find(|key| !known.contains_key(*key)) {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            return Err(problem(format!(
                "{} has no setting {key:?}; it has {}",
                self.name,
                known.join(", ")
            )));
        }
        Ok(settings.into())
    }

    /// Runs it; its settings are the first file.
    ///
    /// # Errors
    /// If a setting makes no sense, data is missing or a training diverges.
    pub fn run(&self, settings: Value, resources: &Resources<'_>) -> Result<Findings> {
        if self.needs_data && resources.data.is_none() {
            return Err(Error::Argument {
                problem: format!(
                    "{} reads MNIST or CIFAR-10: give the folder of its files by --data",
                    self.name
                ),
            });
        }
        let used = json::pretty(&settings)?.into_bytes();
        let mut findings = (self.run)(settings, resources)?;
        let summary = Summary { experiment: self.name, findings: &findings.summary };
        let summary = json::stamped("summary.schema.json", &summary)?.into_bytes();
        let files = [("config.json".into(), used), ("summary.json".into(), summary)];
        findings.files.splice(0..0, files);
        Ok(findings)
    }
}

/// Changes a setting: of an object, the members that are given; one that only the object `train` can
/// have, there.
fn change(settings: &mut Map<String, Value>, key: String, value: Value) {
    let within = !settings.contains_key(&key) && recipe::Config::has(&key);
    match (settings.get_mut(if within { "train" } else { &key }), value) {
        (Some(Value::Object(train)), value) if within => {
            train.insert(key, value);
        }
        (Some(Value::Object(before)), Value::Object(after)) => before.extend(after),
        (_, value) => {
            settings.insert(key, value);
        }
    }
}

/// Settings of one experiment.
fn read<T: DeserializeOwned>(settings: Value) -> Result<T> {
    serde_json::from_value(settings)
        .map_err(|e| Error::Argument { problem: format!("settings: {e}") })
}

/// A table as CSV: a name for each column, then numbers to seven digits, empty where not finite.
fn csv(columns: &[&str], rows: impl IntoIterator<Item = Vec<f64>>) -> Vec<u8> {
    let mut text = columns.join(",") + "\n";
    for row in rows {
        for (index, value) in row.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = match value {
                v if !v.is_finite() => write!(text, "{comma}"),
                v if *v != 0.0 && (v.abs() < 1e-4 || v.abs() >= 1e7) => {
                    write!(text, "{comma}{v:.6e}")
                }
                v => write!(text, "{comma}{}", (v * 1e7).round() / 1e7),
            };
        }
        text.push('\n');
    }
    text.into()
}

/// Whether a number makes sense.
fn demand(holds: bool, name: &str, rule: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Argument { problem: format!("setting {name} must be {rule}") })
    }
}

#[cfg(test)]
mod tests;
