//! What the user says about a checkpoint, by the words of the command line.

use std::collections::BTreeMap;

use svdo::checkpoint::profile::{DenseLayout, KernelLayout, PROFILES, Profile};
use svdo::checkpoint::{Flatten, Options, Variance};
use svdo::{Error, Result};

/// Reads `profile`, `variance`, `layout` (one or two with a comma between), `flatten`,
/// `ignore_masks` and `trust_names`.
pub(crate) fn options(words: &BTreeMap<String, String>) -> Result<Options> {
    let mut options = Options::default();
    for (name, word) in words {
        match name.as_str() {
            "profile" => options.profile = Some(profile(word)?),
            "variance" => options.variance = Some(variance(word)?),
            "layout" => layout(&mut options, word)?,
            "flatten" => options.flatten = Some(flatten(word)?),
            "ignore_masks" => options.ignore_masks = true,
            "trust_names" => options.trust_names = true,
            _ => return Err(Error::Argument { problem: format!("{name} is no option") }),
        }
    }
    Ok(options)
}

fn profile(word: &str) -> Result<&'static Profile> {
    Profile::named(word).ok_or_else(|| {
        let names: Vec<&str> = PROFILES.iter().map(|p| p.name).collect();
        expected("profile", word, &names)
    })
}

fn variance(word: &str) -> Result<Variance> {
    match word {
        "log_sigma2" => Ok(Variance::LogSigma2),
        "log_sigma" => Ok(Variance::LogSigma),
        "log_alpha" => Ok(Variance::LogAlpha),
        "sigma" => Ok(Variance::Sigma),
        "sigma2" => Ok(Variance::Sigma2),
        "rho" => Ok(Variance::Rho),
        _ => Err(expected(
            "variance",
            word,
            &["log_sigma2", "log_sigma", "log_alpha", "sigma", "sigma2", "rho"],
        )),
    }
}

fn layout(options: &mut Options, words: &str) -> Result<()> {
    for word in words.split(',') {
        let again = match word {
            "oi" => options.dense.replace(DenseLayout::OutIn).is_some(),
            "io" => options.dense.replace(DenseLayout::InOut).is_some(),
            "oihw" => options.kernel.replace(KernelLayout::Oihw).is_some(),
            "hwio" => options.kernel.replace(KernelLayout::Hwio).is_some(),
            _ => return Err(expected("layout", word, &["oi", "io", "oihw", "hwio"])),
        };
        if again {
            let problem = format!("layout={words:?}: takes one of oi and io, one of oihw and hwio");
            return Err(Error::Argument { problem });
        }
    }
    Ok(())
}

fn flatten(word: &str) -> Result<Flatten> {
    match word {
        "channels-first" => Ok(Flatten::ChannelsFirst),
        "channels-last" => Ok(Flatten::ChannelsLast),
        _ => Err(expected("flatten", word, &["channels-first", "channels-last"])),
    }
}

fn expected(name: &str, found: &str, words: &[&str]) -> Error {
    Error::Argument { problem: format!("{name}={found:?}: expected {}", words.join(", ")) }
}
