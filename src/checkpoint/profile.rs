//! Code bases that train SVDO networks, and how each stores them. `formats/checkpoints.md` is this
//! table for users.
//!
//! All of them mean the same posterior, so all of them give the same file: log alpha is always
//! computed without epsilon or clamp and a weight is kept where it is at most the threshold. What a
//! code base does itself (`epsilon`, `clamp`, `keeps_tie`) is recorded to explain differences of a
//! few weights from its own count.

use super::Variance;
use super::pyro;

/// Which index of a dense matrix comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseLayout {
    /// `[out, in]`, as PyTorch.
    OutIn,
    /// `[in, out]`, as TensorFlow, Keras, Theano.
    InOut,
}

/// The order of a convolution kernel's indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelLayout {
    /// `[out, in, height, width]`, as PyTorch and Theano.
    Oihw,
    /// `[height, width, in, out]`, as TensorFlow and Keras.
    Hwio,
}

/// Where a code base's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Names in a PyTorch state dictionary.
    Torch,
    /// Variables of TensorFlow or Keras.
    TensorFlow,
    /// A list of arrays without names: weights, bias, variance of each layer.
    Positions,
    /// This library's own convention, in any container.
    Any,
}

/// How a code base stores a network.
#[derive(Debug)]
pub struct Profile {
    /// For `--profile`.
    pub name: &'static str,
    /// The repository or the paper.
    pub source: &'static str,
    /// Kind of container.
    pub origin: Origin,
    /// Names of the mean.
    pub theta: &'static [&'static str],
    /// Names of the variance, and what they hold.
    pub variance: &'static [(&'static str, Variance)],
    /// Layout of dense layers.
    pub dense: DenseLayout,
    /// Layout of convolutions.
    pub kernel: KernelLayout,
    /// How its log alpha avoids log 0.
    pub epsilon: &'static str,
    /// To what it clamps log alpha.
    pub clamp: Option<(f32, f32)>,
    /// Whether it keeps a weight whose log alpha equals the threshold.
    pub keeps_tie: bool,
    /// The threshold it prunes with.
    pub threshold: Option<f32>,
    /// What its bias looks like.
    pub bias: &'static str,
    /// What its batch normalization stores.
    pub batch_norm: &'static str,
    /// Why its files cannot be used.
    pub refused: Option<&'static str>,
}

const LOG_SIGMA2: &[(&str, Variance)] = &[("log_sigma2", Variance::LogSigma2)];

const BASE: Profile = Profile {
    name: "svdo",
    source: "this library",
    origin: Origin::Any,
    theta: &["theta", "W", "weight"],
    variance: &[
        ("log_sigma2", Variance::LogSigma2),
        ("log_sigma", Variance::LogSigma),
        ("log_alpha", Variance::LogAlpha),
    ],
    dense: DenseLayout::OutIn,
    kernel: KernelLayout::Oihw,
    epsilon: "none",
    clamp: None,
    keeps_tie: true,
    threshold: Some(3.0),
    bias: "[out]",
    batch_norm: "none",
    refused: None,
};

const TENSORFLOW: Profile = Profile {
    origin: Origin::TensorFlow,
    dense: DenseLayout::InOut,
    kernel: KernelLayout::Hwio,
    variance: LOG_SIGMA2,
    epsilon: "log(theta^2 + 1e-8)",
    clamp: Some((-8.0, 8.0)),
    keeps_tie: false,
    ..BASE
};

const TORCH: Profile = Profile {
    origin: Origin::Torch,
    theta: &["weight"],
    variance: LOG_SIGMA2,
    clamp: Some((-10.0, 10.0)),
    keeps_tie: false,
    batch_norm: "running_var",
    ..BASE
};

/// A mean-field posterior under a Gaussian prior.
const GAUSSIAN: Profile = Profile {
    theta: &["weight_mu"],
    epsilon: "none",
    clamp: None,
    keeps_tie: true,
    threshold: None,
    bias: "bias_mu [out], Gaussian",
    ..TORCH
};

/// Every code base known, in the order of `formats/checkpoints.md`.
pub const PROFILES: [Profile; 27] = [
    BASE,
    Profile {
        name: "bayesgroup",
        source: "bayesgroup/variational-dropout-sparsifies-dnn (the paper's code)",
        origin: Origin::Positions,
        theta: &["W"],
        variance: &[("ls", Variance::LogSigma2)],
        dense: DenseLayout::InOut,
        clamp: Some((-8.0, 8.0)),
        batch_norm: "inv_std = 1/sqrt(var + 1e-3)",
        ..BASE
    },
    Profile {
        name: "state-of-sparsity",
        source: "google-research/state_of_sparsity",
        theta: &["kernel", "weights"],
        variance: &[("log_sigma2", Variance::LogSigma2), ("aux", Variance::LogSigma2)],
        batch_norm: "moving_variance, eps 1e-5",
        ..TENSORFLOW
    },
    Profile {
        name: "cjratcliff",
        source: "cjratcliff/variational-dropout (names its variables Variable_k: save them as W, ls2)",
        theta: &["W"],
        variance: &[("ls2", Variance::LogSigma2)],
        ..TENSORFLOW
    },
    Profile {
        name: "bayeswatch",
        source: "BayesWatch/tf-variational-dropout",
        theta: &["w"],
        ..TENSORFLOW
    },
    Profile {
        name: "sparse-vd-pytorch",
        source: "senya-ashukha/sparse-vd-pytorch, bayesgroup/deepbayes-2019",
        theta: &["W"],
        variance: &[("log_sigma", Variance::LogSigma)],
        epsilon: "2 log(1e-16 + |theta|)",
        bias: "[1, out]",
        ..TORCH
    },
    Profile {
        name: "pytorch-ard",
        source: "HolyBayes/pytorch_ard",
        epsilon: "2 log(|theta| + 1e-15)",
        ..TORCH
    },
    Profile {
        name: "cplxmodule",
        source: "ivannz/cplxmodule (real layers)",
        epsilon: "2 log(|theta| + 1e-12)",
        clamp: None,
        keeps_tie: true,
        threshold: None,
        ..TORCH
    },
    Profile {
        name: "var-drop",
        source: "stanislaushimovolos/Variational-Dropout-Pytorch",
        epsilon: "2 log(|theta| + 1e-10)",
        bias: "[1, out]",
        ..TORCH
    },
    Profile {
        name: "linear-svdo",
        source: "the LinearSVDO/Conv2dSVDO port",
        variance: &[("log_sigma_2", Variance::LogSigma2)],
        epsilon: "log(theta^2 + 1e-8)",
        ..TORCH
    },
    Profile {
        name: "kefirski",
        source: "kefirski/variational_dropout",
        theta: &["theta"],
        dense: DenseLayout::InOut,
        clamp: Some((-8.0, 8.0)),
        keeps_tie: true,
        ..TORCH
    },
    Profile {
        name: "maxblumental",
        source: "maxblumental/variational-drouput",
        theta: &["W"],
        dense: DenseLayout::InOut,
        clamp: Some((-8.0, 8.0)),
        threshold: None,
        ..TORCH
    },
    Profile {
        name: "sparse-vd-keras",
        source: "Cerphilly/Sparse_VD_tf2, Faptimus420/Sparse_VD_keras-core",
        theta: &["kernel"],
        epsilon: "log(theta^2 + 1e-10)",
        clamp: Some((-20.0, 4.0)),
        keeps_tie: true,
        ..TENSORFLOW
    },
    Profile {
        name: "numenta",
        source: "numenta/nupic.research",
        theta: &["w_mu", "z_mu"],
        variance: &[("w_logvar", Variance::LogSigma2), ("z_logvar", Variance::LogSigma2)],
        epsilon: "log(theta^2 + 1e-8)",
        clamp: None,
        ..TORCH
    },
    Profile {
        name: "bayesian-compression",
        source: "KarenUllrich/Tutorial_BayesianCompressionForDL",
        theta: &["weight_mu"],
        variance: &[("weight_logvar", Variance::LogSigma2)],
        epsilon: "log(z_mu^2 + 1e-8), for groups",
        clamp: None,
        threshold: Some(-3.0),
        bias: "bias_mu [out], Gaussian",
        ..TORCH
    },
    Profile {
        name: "sbp",
        source: "necludov/group-sparsity-sbp",
        theta: &["W", "kernel"],
        refused: Some(
            "its noise is a truncated log-normal on whole units, not a Gaussian on weights: there \
             is no log alpha to prune by",
        ),
        ..TENSORFLOW
    },
    Profile {
        name: "sparse-bayesian-rnn",
        source: "tipt0p/SparseBayesianRNN (dense layers)",
        origin: Origin::Positions,
        theta: &["W"],
        variance: &[("ls", Variance::LogSigma)],
        dense: DenseLayout::InOut,
        clamp: Some((-8.0, 8.0)),
        ..BASE
    },
    Profile {
        name: "variance-networks",
        source: "da-molchanov/variance-networks",
        theta: &["W", "weight"],
        variance: &[("log_alpha", Variance::LogAlpha), ("sigma", Variance::Sigma)],
        clamp: None,
        threshold: None,
        bias: "[1, out], [1, out, 1, 1]",
        ..TORCH
    },
    Profile {
        name: "bayesian-torch",
        source: "IntelLabs/bayesian-torch (Reparameterization and Flipout layers)",
        theta: &["mu_weight", "mu_kernel"],
        variance: &[("rho_weight", Variance::Rho), ("rho_kernel", Variance::Rho)],
        bias: "mu_bias [out], Gaussian",
        ..GAUSSIAN
    },
    Profile {
        name: "blitz",
        source: "piEsposito/blitz-bayesian-deep-learning",
        variance: &[("weight_rho", Variance::Rho)],
        ..GAUSSIAN
    },
    Profile {
        name: "torchbnn",
        source: "Harry24k/bayesian-neural-network-pytorch",
        variance: &[("weight_log_sigma", Variance::LogSigma)],
        ..GAUSSIAN
    },
    Profile {
        name: "bayesian-cnn",
        source: "kumar-shridhar/PyTorch-BayesianCNN",
        theta: &["W_mu"],
        variance: &[("W_rho", Variance::Rho)],
        ..GAUSSIAN
    },
    Profile {
        name: "tfp",
        source: "TensorFlow Probability (Reparameterization and Flipout layers)",
        origin: Origin::TensorFlow,
        theta: &["kernel_posterior_loc"],
        variance: &[("kernel_posterior_untransformed_scale", Variance::Rho)],
        dense: DenseLayout::InOut,
        kernel: KernelLayout::Hwio,
        bias: "bias_posterior_loc [out], Gaussian",
        batch_norm: "moving_variance",
        ..GAUSSIAN
    },
    Profile {
        name: "numpyro",
        source: "NumPyro (AutoNormal over Flax modules)",
        origin: Origin::TensorFlow,
        theta: &["kernel_auto_loc"],
        variance: &[("kernel_auto_scale", Variance::Sigma)],
        dense: DenseLayout::InOut,
        kernel: KernelLayout::Hwio,
        bias: "bias_auto_loc [out], Gaussian",
        ..GAUSSIAN
    },
    Profile {
        name: "ivon",
        source: "team-approx-bayes/ivon (the optimizer's state beside the model)",
        theta: &["weight"],
        variance: &[("ivon_sigma2", Variance::Sigma2)],
        bias: "bias [out], Gaussian",
        ..GAUSSIAN
    },
    Profile {
        name: "pyro",
        source: "Pyro (AutoNormal), probabilistic forward pass",
        theta: &[pyro::LOC],
        variance: &[
            (pyro::SCALE, Variance::Sigma),
            (pyro::LOG_SCALE, Variance::LogSigma),
            (pyro::RHO, Variance::Rho),
            (pyro::UNCONSTRAINED, Variance::Rho),
        ],
        bias: "[out], Gaussian",
        ..GAUSSIAN
    },
    Profile {
        name: "varout",
        source: "gngdb/variational-dropout",
        origin: Origin::Positions,
        theta: &["W"],
        refused: Some(
            "its alpha is the sigmoid of logitalpha, below 1 by construction: nothing can be \
             pruned by it",
        ),
        ..BASE
    },
];

impl Profile {
    /// Whether its posterior is one under a Gaussian prior, whose log alpha nothing drives up.
    pub(super) fn is_gaussian(&self) -> bool {
        self.bias.ends_with("Gaussian") && self.threshold.is_none()
    }

    /// The profile of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|p| p.name == name)
    }
}
