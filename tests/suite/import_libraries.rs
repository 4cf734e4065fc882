//! Posteriors as IVON, Pyro, NumPyro and Flax save them (fixtures/import/make_library_cases.py), each with
//! what the library's own account of it gives.

use crate::import_cases::{is_right, network, refusal};
use crate::imports::path;
use svdo::checkpoint::{Checkpoint, Naming, Options, Variance};

const OUTPUTS: &str = "libraries.npz";

#[test]
fn variances_of_ivon_are_those_of_the_weights_beside_them() {
    for case in ["ivon_order", "ivon_names", "ivon_old"] {
        let found = is_right(&format!("{case}.pt"), case, OUTPUTS, &Options::default());
        let notes = found.notes().join("; ");
        let expected = "optimizer: the state of IVON, read for the variances of 2 weights";
        assert!(notes.contains(expected) && notes.contains("profile ivon"), "{notes}");
        assert_eq!(found.variance(0), Some(Variance::LogSigma2));
    }
    for (case, words) in [
        ("groups", ["4 parameters in 2 groups", "--spread-kind sigma2"]),
        ("alone", ["state of an optimizer", "save both in one"]),
    ] {
        let file = path(&format!("cases/refused_ivon_{case}.pt"));
        let error = refusal(&file, &Options::default());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn parameter_stores_of_pyro_say_what_their_scales_are() {
    let auto = Options::default();
    let found = is_right("pyro_store.pt", "pyro_store", OUTPUTS, &auto);
    assert_eq!(found.variance(0), Some(Variance::LogSigma2));
    let guide = path("cases/pyro_guide.pt");
    let error = refusal(&guide, &auto);
    assert!(error.contains("--variance rho or --variance log_sigma"), "{error}");
    let rho = Options { variance: Some(Variance::Rho), ..auto.clone() };
    is_right("pyro_guide.pt", "pyro_store", OUTPUTS, &rho);
    let error = refusal(&path("cases/refused_pyro_vector.pt"), &auto);
    assert!(error.contains("all layers in one vector") && error.contains("--spread"), "{error}");
}

#[test]
fn posteriors_of_numpyro_are_read_with_what_has_none_beside_them() {
    is_right("numpyro_sites.pkl", "numpyro_sites", OUTPUTS, &Options::default());
    let options = network("numpyro_kernels");
    for file in ["numpyro_kernels.npz", "numpyro_kernels.msgpack"] {
        is_right(file, "numpyro_kernels", OUTPUTS, &options);
    }
}

#[test]
fn a_flax_module_is_read_with_its_statistics_and_dilation() {
    let found = is_right("flax_module.msgpack", "flax_module", OUTPUTS, &network("flax_module"));
    assert_eq!(found.network().layers[0].shape, [4, 2, 5, 5]);
    // 4 x 2 x 3 x 3 and 3 x 36 weights, two biases.
    assert_eq!(found.dense_bytes(), 4 * (72 + 108 + 4 + 3));
}

#[test]
fn variances_of_any_name_are_said_to_be_that() {
    let kind = Variance::Sigma2;
    let naming = Naming { mean: "*.loc".into(), spread: "*.scale".into(), kind };
    let options = Options { naming: Some(naming), ..Options::default() };
    let options = Options { dense: Some(svdo::checkpoint::profile::DenseLayout::OutIn), ..options };
    let found = Checkpoint::open(&path("cases/own_names.npz"), &options).unwrap();
    let as_sigma = Naming { kind: Variance::Sigma, ..options.naming.clone().unwrap() };
    let sigma = Options { naming: Some(as_sigma), ..options };
    let sigma = Checkpoint::open(&path("cases/own_names.npz"), &sigma).unwrap();
    let (mut variances, mut deviations) = Default::default();
    found.read_block(0, 0, 30, &mut variances).unwrap();
    sigma.read_block(0, 0, 30, &mut deviations).unwrap();
    for (log_sigma2, sigma) in variances.variance.iter().zip(&deviations.variance) {
        assert!((log_sigma2 - sigma.ln()).abs() < 1e-5, "{log_sigma2} {sigma}");
    }
}
