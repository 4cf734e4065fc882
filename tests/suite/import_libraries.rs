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

/// Names of the mean and spread of weights and of biases, and what a spread of 0.3 is in that form.
const CONVENTIONS: [([&str; 4], f64); 8] = [
    (["mu_weight", "rho_weight", "mu_bias", "rho_bias"], -1.050_225_8),
    (["weight_mu", "weight_rho", "bias_mu", "bias_rho"], -1.050_225_8),
    (["W_mu", "W_rho", "bias_mu", "bias_rho"], -1.050_225_8),
    (["weight_mu", "weight_log_sigma", "bias_mu", "bias_log_sigma"], -1.203_972_8),
    (["weight_mu", "weight_logvar", "bias_mu", "bias_logvar"], -2.407_945_6),
    (
        [
            "kernel_posterior_loc",
            "kernel_posterior_untransformed_scale",
            "bias_posterior_loc",
            "bias_posterior_untransformed_scale",
        ],
        -1.050_225_8,
    ),
    (["kernel_auto_loc", "kernel_auto_scale", "bias_auto_loc", "bias_auto_scale"], 0.3),
    (["weight", "ivon_sigma2", "bias", "bias_ivon_sigma2"], 0.09),
];

#[test]
fn sigmas_of_weights_and_biases_are_those_of_every_library() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posterior.safetensors");
    for (names, spread) in CONVENTIONS {
        let layer = |name: &str| format!("fc.{name}");
        let means: Vec<f32> = (0..15).map(|i| 0.3 + 0.1 * i as f32).collect();
        let values = [
            (layer(names[0]), vec![5, 3], means.clone()),
            (layer(names[1]), vec![5, 3], vec![spread as f32; 15]),
            (layer(names[2]), vec![5], vec![0.5; 5]),
            (layer(names[3]), vec![5], vec![spread as f32; 5]),
        ];
        let bytes: Vec<Vec<u8>> =
            values.iter().map(|v| v.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = values.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            let view =
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (name.clone(), view.unwrap())
        });
        std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        let dense = Some(svdo::checkpoint::profile::DenseLayout::OutIn);
        let found = Checkpoint::open(&file, &Options { dense, ..Options::default() }).unwrap();
        let mut block = svdo::checkpoint::Block::default();
        found.read_block(0, 0, 15, &mut block).unwrap();
        let kind = found.variance(0).unwrap();
        for (&theta, &stored) in block.theta.iter().zip(&block.variance) {
            let log_sigma2 = f64::from(kind.log_sigma2(theta, stored));
            assert!((log_sigma2 - 0.09f64.ln()).abs() < 1e-6, "{names:?}: {log_sigma2}");
            let log_alpha = kind.log_alpha(theta, stored);
            let exact = (0.09 / f64::from(theta).powi(2)).ln();
            assert!((log_alpha - exact).abs() < 1e-6, "{names:?}: {log_alpha}");
        }
        let unused = found.notes().iter().any(|note| note.contains("ignored"));
        assert!(!unused, "{names:?}: {:?}", found.notes());
        let job = svdo::compress::Job::new(&found).threshold(f32::INFINITY).variances(true);
        let done = job.run().unwrap();
        let (_, variances) = svdo::container::read_with_variances(done.file.bytes()).unwrap();
        let layer = &variances.unwrap().layers[0];
        assert_eq!((layer.weights.len(), layer.bias.len()), (15, 5), "{names:?}");
        // Logarithms of biases are stored in sixteenths of an octave.
        let all =
            layer.weights.iter().map(|v| (v, 1.5)).chain(layer.bias.iter().map(|v| (v, 1.05)));
        for (v, factor) in all {
            assert!((0.09 / factor..0.09 * factor).contains(v), "{names:?}: {v}");
        }
    }
}
