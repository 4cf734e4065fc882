//! Files that the real frameworks wrote (fixtures/import/make.py), each laid out as one of the code
//! bases of formats/checkpoints.md: all hold one network, so all must give one file.

use std::path::{Path, PathBuf};

use crate::fixtures::{self, EXACT, compress};
use svdo::checkpoint::profile::Profile;
use svdo::checkpoint::{Checkpoint, Evidence, Options, Variance};
use svdo::compress::Settings;

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/import").join(name)
}

fn open(name: &str, network: Option<&str>, options: &Options) -> svdo::Result<Checkpoint> {
    let network = network.map(|network| path(network).into());
    Checkpoint::open(&path(name), &Options { network, ..options.clone() })
}

/// The compressed file without names, and the notes.
fn import(name: &str, network: Option<&str>, options: &Options) -> (Vec<u8>, String) {
    let settings = Settings { strip: true, ..EXACT };
    let done = open(name, network, options)
        .and_then(|c| Ok((compress(&c, &settings)?.written.bytes, c.notes().join("; "))));
    done.unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn profile(name: &str) -> Options {
    Options { profile: Some(Profile::named(name).unwrap()), ..Options::default() }
}

/// What opening a file says, which must be an error of one line that names the file.
fn refusal(name: &str, options: &Options) -> String {
    match open(name, None, options) {
        Ok(_) => panic!("{name} was accepted"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.contains(name), "{text}");
            text
        }
    }
}

#[test]
fn every_code_base_gives_the_same_file() {
    let auto = Options::default;
    let (mlp, _) = import("mlp.safetensors", None, &auto());
    let (cnn, _) = import("cnn.safetensors", None, &auto());
    assert!(mlp != cnn);
    let cases: [(&str, &str, Options, &str); 52] = [
        ("sparse-vd-pytorch_mlp.pt", "", auto(), "PyTorch zip, profile sparse-vd-pytorch"),
        ("sparse-vd-pytorch_cnn.pt", "cnn", auto(), "layout oi,oihw"),
        ("pytorch-ard_mlp.t7", "", auto(), "PyTorch before 1.6, profile pytorch-ard or cplxmodule"),
        ("pytorch-ard_mlp.t7", "mlp", auto(), "the prefix net of all names is left out"),
        ("pytorch-ard_cnn.t7", "cnn", auto(), "layout oi,oihw"),
        ("linear-svdo_mlp.pt", "", auto(), "fc1.log_alpha ignored: fc1.log_sigma_2 says the same"),
        ("linear-svdo_cnn.pt", "cnn", auto(), "profile linear-svdo (by the names of its tensors)"),
        ("var-drop_mlp.pth", "", auto(), "layout oi"),
        ("var-drop_cnn.pth", "cnn", profile("var-drop"), "profile var-drop (as asked for)"),
        ("variance-networks_mlp.pt", "", auto(), "layout oi"),
        ("variance-networks_cnn.pt", "cnn", profile("variance-networks"), "(as asked for)"),
        ("numenta_mlp.pt", "", auto(), "fc1.w_mask is applied"),
        ("numenta_cnn.pt", "cnn", auto(), "profile numenta"),
        ("numenta_sentinels_mlp.pt", "", auto(), "profile numenta"),
        ("kefirski_mlp.pt", "mlp", auto(), "layout io"),
        ("kefirski_mlp.pt", "", profile("kefirski"), "layout io"),
        ("maxblumental_mlp.pt", "mlp", auto(), "layout io"),
        ("maxblumental_mlp.pt", "", auto(), "layout io"),
        ("cplxmodule_mask_mlp.pt", "", auto(), "fc2.mask is applied"),
        ("torch_views.pt", "", auto(), "the prefix module of all names"),
        ("torch_views_old.pt", "mlp", auto(), "PyTorch before 1.6"),
        ("state-of-sparsity_mlp.ckpt-5", "", auto(), "TensorFlow checkpoint"),
        ("state-of-sparsity_mlp.ckpt-5.index", "", profile("state-of-sparsity"), "layout io"),
        ("state-of-sparsity_mlp.ckpt-5.data-00000-of-00001", "", auto(), "layout io"),
        ("state-of-sparsity_cnn.ckpt-5", "cnn", auto(), "layout io,hwio"),
        ("state-of-sparsity_cnn.ckpt-5", "cnn", auto(), "row, column, channel of a [4, 2, 2] map"),
        ("bayeswatch_mlp.ckpt-1", "", auto(), "6 tensors are read from their moving averages"),
        ("bayeswatch_mlp.npz", "", auto(), "NumPy .npz, profile bayeswatch"),
        ("cjratcliff_mlp.npz", "", auto(), "profile cjratcliff"),
        ("sparse-vd-keras_mlp.ckpt", "mlp", auto(), "the prefix model of all names"),
        ("sparse-vd-keras_cnn.npz", "cnn", auto(), "layout io,hwio"),
        ("bayesgroup_mlp.npy", "", profile("bayesgroup"), "2 layers named layer0, layer1"),
        ("bayesgroup_mlp.npy", "mlp_list", profile("bayesgroup"), "NumPy object array"),
        ("bayesgroup_cnn.npy", "cnn_list", profile("bayesgroup"), "layout io,oihw"),
        ("sparse-bayesian-rnn_mlp.npy", "", profile("sparse-bayesian-rnn"), "layout io"),
        (
            "sparse-bayesian-rnn_mlp.npy",
            "",
            Options { variance: Some(Variance::LogSigma), ..auto() },
            "layout io",
        ),
        ("pickle2_mlp.pkl", "mlp", auto(), "pickle"),
        ("pickle4_mlp.pkl", "mlp", auto(), "pickle"),
        ("pickle5_mlp.pkl", "mlp", auto(), "pickle"),
        ("fortran_mlp.npz", "mlp", auto(), "layout oi"),
        ("deflated_mlp.npz", "mlp", auto(), "layout oi"),
        ("sparse-vd-keras_mlp.weights.h5", "", auto(), "Keras HDF5, profile state-of-sparsity or"),
        ("sparse-vd-keras_mlp.weights.h5", "mlp", auto(), "stores variables without names"),
        ("sparse-vd-keras_mlp.keras", "mlp", auto(), "layout io"),
        ("sparse-vd-keras_cnn.keras", "cnn", auto(), "layout io,hwio"),
        ("sparse-vd-keras_mlp.h5", "", auto(), "Keras HDF5"),
        ("sparse-vd-keras_model_mlp.h5", "mlp", auto(), "layout io"),
        ("sparse-vd-keras_model_mlp.h5", "", profile("sparse-vd-keras"), "(as asked for)"),
        ("hdf5_latest_mlp.h5", "mlp", auto(), "Keras HDF5"),
        ("hdf5_ordered_mlp.h5", "", auto(), "Keras HDF5"),
        ("sharded", "", auto(), "sharded safetensors"),
        ("sharded/model.safetensors.index.json", "mlp", auto(), "sharded safetensors"),
    ];
    for (name, network, options, note) in cases {
        let network = (!network.is_empty()).then(|| format!("{network}.network.json"));
        let (bytes, notes) = import(name, network.as_deref(), &options);
        let expected = if name.contains("cnn") { &cnn } else { &mlp };
        assert!(bytes == *expected, "{name} gives another file: {notes}");
        assert!(notes.contains(note), "{name}: {notes:?} lacks {note:?}");
    }
}

#[test]
fn group_posteriors_are_multiplied_in() {
    let auto = Options::default();
    let (folded, _) = import("bayesian-compression_cnn.folded.safetensors", None, &auto);
    let (bytes, notes) = import("bayesian-compression_cnn.pt", Some("cnn.network.json"), &auto);
    assert!(bytes == folded, "{notes}");
    assert!(notes.contains("profile bayesian-compression") && notes.contains("prune at -3"));
}

#[test]
fn batch_normalization_is_folded_into_the_layer_before_it() {
    let auto = Options::default();
    let (folded, _) = import("norm_cnn.folded.safetensors", None, &auto);
    for (name, network, options, note) in [
        ("norm_cnn.pt", "norm_cnn", auto.clone(), "batch normalization norm1 is folded into fc1"),
        ("norm_bayesgroup_cnn.npy", "norm_cnn_list", profile("bayesgroup"), "inv_std"),
    ] {
        let (bytes, notes) = import(name, Some(&format!("{network}.network.json")), &options);
        assert!(bytes == folded, "{name}: {notes}");
        assert!(notes.contains(note), "{notes}");
    }
    // Not named, it must not be forgotten.
    let error = open("norm_cnn.pt", Some("cnn.network.json"), &auto).err().unwrap().to_string();
    assert!(error.contains("running_mean") && error.contains("\"op\": \"batch_norm\""), "{error}");
}

/// A description of the network of `norm_cnn.pt` with one change, and what opening it says.
fn changed_norm(from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network.json");
    let text = std::fs::read_to_string(path("norm_cnn.network.json")).unwrap();
    assert!(text.contains(from));
    std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    let options = Options { network: Some(file.into()), ..Options::default() };
    match Checkpoint::open(&path("norm_cnn.pt"), &options) {
        Ok(checkpoint) => checkpoint.notes().join("; "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn batch_normalization_that_cannot_be_folded_says_why() {
    for (from, to, expected) in [
        ("\"norm0\"", "\"norm7\"", "no running_mean or moving_mean is there"),
        ("\"layer\": \"norm0\",", "", "needs a \"layer\": the prefix of its tensors"),
        ("\"op\": \"max_pool2d\",", "\"op\": \"batch_norm\",", "needs a \"layer\""),
        ("\"layer\": \"norm1\"", "\"layer\": \"norm0\"", "expected 5 numbers"),
    ] {
        let found = changed_norm(from, to);
        assert!(found.contains(expected) && !found.contains('\n'), "{found:?} lacks {expected:?}");
    }
}

#[test]
fn tied_weights_are_loaded_once() {
    let auto = Options::default();
    let (once, _) = import("tied_mlp.once.safetensors", None, &auto);
    for network in ["tied_mlp.network.json", "tied_once_mlp.network.json"] {
        let (bytes, notes) = import("tied_mlp.pt", Some(network), &auto);
        assert!(bytes == once, "{network}: {notes}");
        assert!(notes.contains("again is tied, one tensor with two names: loaded once"), "{notes}");
    }
}

#[test]
fn masks_and_thresholds_are_compared() {
    let ignore = Options { ignore_masks: true, ..Options::default() };
    for options in [Options::default(), ignore] {
        let checkpoint = open("cplxmodule_mask_mlp.pt", None, &options).unwrap();
        let mut pruned = 0;
        for layer in 0..2 {
            // Its log sigma^2 are all -20, so that a threshold of 3 keeps everything.
            let found = checkpoint.compare_mask(layer, 3.0).unwrap().unwrap();
            assert_eq!((found.only_mask, found.total), (0, [24, 12][layer]));
            assert!(found.only_threshold > 0);
            pruned += found.only_threshold;
            let none = checkpoint.compare_mask(layer, -100.0).unwrap().unwrap();
            assert_eq!(
                (none.only_threshold, none.only_mask),
                (0, none.total - found.only_threshold)
            );
        }
        let model = svdo::prune::prune(&checkpoint, 3.0).unwrap();
        let kept: u64 = model.statistics().map(|s| s.kept).sum();
        assert_eq!(kept, if options.ignore_masks { 36 } else { 36 - pruned });
    }
    let checkpoint = open("mlp.safetensors", None, &Options::default()).unwrap();
    assert_eq!(checkpoint.compare_mask(0, 3.0).unwrap(), None);
}

#[test]
fn claims_about_accuracy_are_read() {
    for (name, network, expected) in [
        ("pytorch-ard_mlp.t7", None, Some(0.985)),
        ("norm_cnn.pt", Some("norm_cnn.network.json"), Some(0.975)),
        ("var-drop_mlp.pth", None, None),
    ] {
        let checkpoint = open(name, network, &Options::default()).unwrap();
        assert_eq!(checkpoint.claimed_accuracy(), expected, "{name}");
    }
}

#[test]
fn layers_have_thresholds_of_their_own() {
    use svdo::compress::encode;
    use svdo::prune::{Thresholds, prune};
    let checkpoint = open("cnn.safetensors", None, &Options::default()).unwrap();
    let code = |thresholds: Thresholds, settings: &Settings| {
        encode(prune(&checkpoint, thresholds).unwrap(), settings).unwrap()
    };
    let first = svdo::threshold::at_density(&checkpoint, &[0], 0.25).unwrap();
    let thresholds = Thresholds::Each(vec![first.into(), 3.0, f64::NEG_INFINITY]);
    let coded = code(thresholds, &EXACT);
    let kept: Vec<u64> = coded.statistics.iter().map(|s| s.kept).collect();
    let all = code(3.0.into(), &EXACT);
    assert_eq!(kept, [18, all.statistics[1].kept, 0]);
    assert_eq!(
        (coded.model().unwrap().threshold, all.model().unwrap().threshold),
        (None, Some(3.0))
    );
    // The same threshold for each is the same file but for the threshold it says.
    let each = Thresholds::Each(vec![3.0; 3]);
    let stripped = Settings { strip: true, ..EXACT };
    let each = code(each, &stripped);
    let all = code(3.0.into(), &stripped);
    assert!(each.written == all.written);
}

#[test]
fn masks_can_be_left_alone() {
    let ignore = Options { ignore_masks: true, ..Options::default() };
    let (with, _) = import("cplxmodule_mask_mlp.pt", None, &Options::default());
    let (without, _) = import("cplxmodule_mask_mlp.pt", None, &ignore);
    assert!(without.len() > with.len());
}

#[test]
fn what_cannot_be_used_says_why() {
    let auto = Options::default();
    for (name, expected) in [
        ("refused_sigma_only.pt", "keeps its information in the variance"),
        ("refused_complex.pt", "complex layers are not supported"),
        ("refused_numenta_flat.pt", "one vector without their shapes"),
        ("refused_whole_module.pt", "torch.nn.modules.linear.Linear is not among"),
        ("refused_log_sigma.pt", "--variance log_sigma or --variance log_sigma2"),
        ("refused_square.pt", "--layout oi or --layout io"),
        ("refused_sbp.npz", "truncated log-normal"),
        ("refused_varout.npz", "below 1 by construction"),
        ("refused_chunked.h5", "stored in chunks: save it without compression"),
        ("bayesgroup_mlp.npy", "--variance log_sigma or --profile"),
    ] {
        let found = refusal(name, &auto);
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
    let found = refusal("refused_sbp.npz", &profile("sbp"));
    assert!(found.contains("log-normal"), "{found}");
}

#[test]
fn flags_settle_what_the_file_leaves_open() {
    use svdo::checkpoint::profile::DenseLayout;
    let auto = Options::default();
    for dense in [DenseLayout::OutIn, DenseLayout::InOut] {
        open("refused_square.pt", None, &Options { dense: Some(dense), ..auto.clone() }).unwrap();
    }
    for kind in [Variance::LogSigma, Variance::LogSigma2] {
        open("refused_log_sigma.pt", None, &Options { variance: Some(kind), ..auto.clone() })
            .unwrap();
    }
    // What was saved under the wrong name is the same network when it is read as what it is.
    let options = Options { variance: Some(Variance::LogSigma2), ..auto.clone() };
    let (bytes, _) = import("refused_log_sigma.pt", None, &options);
    assert!(bytes == import("mlp.safetensors", None, &auto).0);
}

#[test]
fn found_thresholds_keep_what_was_asked_for() {
    let checkpoint = open("cnn.safetensors", None, &Options::default()).unwrap();
    let kept = |threshold: f32| {
        let model = svdo::prune::prune(&checkpoint, f64::from(threshold)).unwrap();
        model.statistics().map(|s| s.kept).sum::<u64>()
    };
    let total = 4 * 2 * 9 + 5 * 16 + 3 * 5;
    for density in [0.0, 0.1, 0.333, 0.5, 0.9] {
        let threshold = svdo::threshold::at_density(&checkpoint, &[0, 1, 2], density).unwrap();
        let most = (density * f64::from(total)).floor() as u64;
        assert!(kept(threshold) <= most, "{density}");
        assert!(kept(threshold.next_up()) > most, "{density}");
    }
    let all = svdo::threshold::at_density(&checkpoint, &[0, 1, 2], 1.0).unwrap();
    assert_eq!((all, kept(all)), (f32::INFINITY, total as u64));
    // Made with log alpha around -4 and around 5.
    let valley = svdo::threshold::valley(&checkpoint).unwrap();
    assert!((-3.0..4.0).contains(&valley), "{valley}");
}

#[test]
fn magnitude_keeps_the_largest() {
    let checkpoint = open("mlp.safetensors", None, &Options::default()).unwrap();
    let model = svdo::threshold::largest(&checkpoint, &[7, 0]).unwrap();
    let mut theta: Vec<f32> = checkpoint.read_theta(0).unwrap().iter().map(|t| t.abs()).collect();
    theta.sort_by(|a, b| b.total_cmp(a));
    let mut found: Vec<f32> =
        model.layer(0).unwrap().weights.data().iter().map(|t| t.abs()).collect();
    found.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(found, theta[..7]);
    assert_eq!(model.layer(1).unwrap().weights.nnz(), 0);
}

#[test]
fn exports_hold_the_bits_of_the_model() {
    let checkpoint = open("cnn.safetensors", None, &Options::default()).unwrap();
    let settings = Settings { simplify: false, ..EXACT };
    let model = compress(&checkpoint, &settings).unwrap().model().unwrap();
    let exported = svdo::export::safetensors(&model).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&exported).unwrap();
    for (index, layer) in model.network.layers.iter().enumerate() {
        let theta = checkpoint.read_theta(index).unwrap();
        let pruned = svdo::prune::prune_layer(&checkpoint, index, 3.0).unwrap();
        let mut expected = vec![0f32; theta.len()];
        for (&value, (row, column)) in pruned.weights.iter() {
            expected[row as usize * layer.cols() + column as usize] = value;
        }
        let expected: Vec<u8> = expected.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weight = tensors.tensor(&format!("{}.weight", layer.name)).unwrap();
        assert_eq!((weight.shape(), weight.data()), (&layer.shape[..], &expected[..]));
        // In ONNX and .npz the values stand as they are.
        let onnx = svdo::export::onnx(&model, false).unwrap();
        assert!(onnx.windows(expected.len()).any(|w| w == expected));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.npz");
    std::fs::write(&file, svdo::export::npz(&model).unwrap()).unwrap();
    let source = svdo::checkpoint::open_source(&file).unwrap();
    assert_eq!(source.tensors().len(), 6);
    let mut weight = vec![0.0; 72];
    source.read(0, 0, &mut weight).unwrap();
    assert_eq!(weight, model.weights[0].to_dense().unwrap().into_raw_vec_and_offset().0);
}

#[test]
fn inspect_shows_every_container() {
    for name in [
        "cnn.safetensors",
        "sharded",
        "pytorch-ard_mlp.t7",
        "torch_views.pt",
        "bayesgroup_mlp.npy",
        "deflated_mlp.npz",
        "pickle2_mlp.pkl",
        "state-of-sparsity_cnn.ckpt-5",
        "refused_sbp.npz",
    ] {
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_svdo"))
            .args(["inspect", "--json"])
            .arg(path(name))
            .output()
            .unwrap();
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        let found: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert!(found["tensors"].as_array().is_some_and(|t| !t.is_empty()), "{name}");
        assert!(found["layers"].is_array() != found["problem"].is_string(), "{name}");
    }
}

#[test]
fn masks_and_zeros_prune_without_posterior() {
    let network = Some("mlp.network.json");
    let auto = Options::default();
    let (zeros, notes) = import("pruned_zeros_mlp.safetensors", network, &auto);
    assert!(notes.contains("a network without variances, layout oi"), "{notes}");
    for (name, evidence, note) in [
        ("pruned_orig_mlp.pt", Evidence::Mask, "fc2.bias_mask is applied: biases it marks 0"),
        ("pruned_mask_mlp.pt", Evidence::Mask, "no posterior: masks say what is pruned"),
        ("pruned_mask_mlp.npz", Evidence::Mask, "fc1.mask is applied"),
        ("pruned_zeros_mlp.pt", Evidence::Zeros, "no posterior: every weight that is not zero"),
        ("pruned_zeros_mlp.npz", Evidence::Zeros, "whatever the threshold"),
    ] {
        for network in [network, None] {
            let (bytes, notes) = import(name, network, &auto);
            assert!(bytes == zeros, "{name}: {notes}");
            assert!(notes.contains(note) && !notes.contains("nothing"), "{name}: {notes}");
            let checkpoint = open(name, network, &auto).unwrap();
            assert_eq!([0, 1].map(|layer| checkpoint.evidence(layer)), [evidence; 2]);
        }
    }
    // Without their masks these layers are dense, and the note says so.
    let ignore = Options { ignore_masks: true, ..Options::default() };
    let (bytes, notes) = import("pruned_orig_mlp.pt", network, &ignore);
    assert!(bytes.len() > zeros.len());
    assert!(notes.contains("nothing is pruned: there is neither posterior nor mask"), "{notes}");
    let checkpoint = open("cnn.safetensors", None, &auto).unwrap();
    assert_eq!(checkpoint.evidence(2), Evidence::Posterior(Variance::LogSigma2));
}

#[test]
fn exports_are_compressed_again() {
    let settings = Settings { simplify: false, ..EXACT };
    let checkpoint = open("cnn.safetensors", None, &Options::default()).unwrap();
    let first = compress(&checkpoint, &settings).unwrap().model().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, network) in [
        ("again.safetensors", svdo::export::safetensors(&first).unwrap(), None),
        ("again.npz", svdo::export::npz(&first).unwrap(), Some(path("cnn.network.json").into())),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let checkpoint = Checkpoint::open(&file, &Options { network, ..Options::default() });
        let again = compress(&checkpoint.unwrap(), &settings).unwrap().model().unwrap();
        for (one, other) in first.weights.iter().zip(&again.weights) {
            assert!(one.pattern == other.pattern, "{name}");
            assert!(one.to_dense().unwrap() == other.to_dense().unwrap(), "{name}");
            assert_eq!(one.bias, other.bias, "{name}");
        }
    }
}

/// A chain of small layers, each added to its input.
fn long_chain(layers: usize) -> Vec<u8> {
    use crate::fixtures::{Tensor, safetensors, tensor};
    use svdo::network::describe::Description;
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut nodes = Vec::new();
    for layer in 0..layers {
        let name = format!("block{layer}.fc");
        tensors.push(tensor(&format!("{name}.weight"), &[8, 8], &[0.5; 64]));
        tensors.push(tensor(&format!("{name}.log_sigma2"), &[8, 8], &[-9.0; 64]));
        tensors.push(tensor(&format!("{name}.bias"), &[8], &[0.1; 8]));
        let (output, sum) = (format!("fc{layer}"), format!("sum{layer}"));
        nodes.push(serde_json::json!({"op": "linear", "layer": name, "name": output}));
        let before = if layer == 0 { "input".into() } else { format!("sum{}", layer - 1) };
        nodes.push(serde_json::json!({"op": "add", "inputs": [output, before], "name": sum}));
    }
    let network = serde_json::json!({"version": 1, "input": {"shape": [8]}, "nodes": nodes});
    safetensors(&tensors, Some(&Description::from_json(&network.to_string()).unwrap()))
}

#[test]
fn ten_thousand_layers_are_found() {
    const LAYERS: usize = 10_000;
    let checkpoint = fixtures::open(&long_chain(LAYERS)).unwrap();
    let network = checkpoint.network();
    assert_eq!((network.layers.len(), network.nodes.len()), (LAYERS, 2 * LAYERS));
    for at in [0, 1, 4_999, LAYERS - 1] {
        assert_eq!(network.layers[at].name, format!("block{at}.fc"));
        assert_eq!(checkpoint.read_bias(at).unwrap(), Some(vec![0.1; 8]));
    }
    let described = svdo::network::describe::Description::of(network);
    assert_eq!(described.resolve(network.layers.clone()).unwrap(), *network);
}
