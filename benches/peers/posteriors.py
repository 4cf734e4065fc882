"""Posteriors as other libraries train and save them, predicted by svdo and by the libraries' own sampling.

    python benches/peers/posteriors.py DATA PROGRAMS [LIBRARY ...]

DATA is a folder with MNIST's IDX files, PROGRAMS one with svdo-compress and svdo-infer. Each library trains a
perceptron 784-100-10 (and bayesian-torch a small convolutional network) for some hundred steps, saves it as its users
do, and samples its own logits; svdo imports the file, keeps all weights (--thresh inf), and predicts the logits of the
same images by moments and by samples; with variances as they are stored by default, and finer ones. A line for each: the root mean square of the difference of logits' means, in
deviations of that logit; the sum of their variances over those of the library, and the quartiles of the single ratios.

    pip install torch bayesian-torch blitz-bayesian-pytorch torchbnn ivon-opt numpyro numpy
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

DATA, PROGRAMS = sys.argv[1:3]
ONLY = sys.argv[3:]
IMAGES, SAMPLES, STEPS = 100, 1000, 300
torch.manual_seed(1)
torch.set_num_threads(1)


def read(name, head):
    for path in (os.path.join(DATA, name + ".gz"), os.path.join(DATA, name)):
        if os.path.exists(path):
            with (gzip.open if path.endswith(".gz") else open)(path) as file:
                return np.frombuffer(file.read(), "u1", offset=head)
    raise SystemExit(f"{DATA}: no {name}")


train_x = torch.tensor(read("train-images-idx3-ubyte", 16).reshape(-1, 784)[:20000] / np.float32(255))
train_y = torch.tensor(read("train-labels-idx1-ubyte", 8)[:20000].astype("i8"))
test_x = torch.tensor(read("t10k-images-idx3-ubyte", 16).reshape(-1, 784)[:IMAGES] / np.float32(255))


def batches():
    for _ in range(STEPS):
        at = torch.randint(len(train_x), (128,))
        yield train_x[at], train_y[at]


def fit(net, forward, kl):
    """Trains by the evidence lower bound."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for x, y in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(x), y) + kl() / len(train_x)
        loss.backward()
        optimizer.step()


def own_samples(forward):
    with torch.no_grad():
        return np.stack([forward(test_x).numpy() for _ in range(SAMPLES)]).astype("f8")


def bayesian_torch(folder):
    from bayesian_torch.layers import LinearReparameterization

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = LinearReparameterization(784, 100), LinearReparameterization(100, 10)

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(x, return_kl=False)), return_kl=False)

    net = Net()
    fit(net, net, lambda: net.fc1.kl_loss() + net.fc2.kl_loss())
    torch.save(net.state_dict(), path := os.path.join(folder, "net.pt"))
    return path, own_samples(net), []


def bayesian_torch_convolution(folder):
    from bayesian_torch.layers import Conv2dReparameterization, LinearReparameterization

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Conv2dReparameterization(1, 8, 5)
            self.fc = LinearReparameterization(8 * 12 * 12, 10)

        def forward(self, x):
            x = self.conv(x.view(-1, 1, 28, 28), return_kl=False)
            return self.fc(F.relu(F.max_pool2d(x, 2)).flatten(1), return_kl=False)

    net = Net()
    fit(net, net, lambda: net.conv.kl_loss() + net.fc.kl_loss())
    torch.save(net.state_dict(), path := os.path.join(folder, "net.pt"))
    nodes = [{"op": "conv2d", "layer": "conv"}, {"op": "max_pool2d", "kernel": [2, 2], "stride": [2, 2]},
             {"op": "relu"}, {"op": "flatten"}, {"op": "linear", "layer": "fc"}]
    with open(os.path.join(folder, "network.json"), "w") as file:
        json.dump({"version": 1, "input": {"shape": [1, 28, 28]}, "nodes": nodes}, file)
    return path, own_samples(net), ["--network", os.path.join(folder, "network.json")]


def blitz(folder):
    from blitz.modules import BayesianLinear

    net = nn.Sequential(BayesianLinear(784, 100), nn.ReLU(), BayesianLinear(100, 10))

    def kl():
        return sum(m.log_variational_posterior - m.log_prior for m in net if isinstance(m, BayesianLinear))

    fit(net, net, kl)
    torch.save(net.state_dict(), path := os.path.join(folder, "net.pt"))
    return path, own_samples(net), []


def torchbnn(folder):
    import torchbnn as bnn

    def layer(i, o):
        return bnn.BayesLinear(prior_mu=0, prior_sigma=0.1, in_features=i, out_features=o)

    net = nn.Sequential(layer(784, 100), nn.ReLU(), layer(100, 10))
    kl = bnn.BKLLoss(reduction="sum")
    fit(net, net, lambda: kl(net))
    torch.save(net.state_dict(), path := os.path.join(folder, "net.pt"))
    return path, own_samples(net), ["--variance", "log_sigma"]


def ivon(folder):
    from ivon import IVON

    net = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = IVON(net.parameters(), lr=0.1, ess=len(train_x), weight_decay=1e-4, hess_init=0.1)
    for x, y in batches():
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
        optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, path := os.path.join(folder, "net.pt"))

    def forward(x):
        with optimizer.sampled_params():
            return net(x)

    return path, own_samples(forward), []


def numpyro(folder):
    import jax
    import jax.numpy as jnp
    import numpyro as npy
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def layer(n, i, o):
        w = npy.sample(f"w{n}", dist.Normal(0, 0.1).expand([i, o]).to_event(2))
        return w, npy.sample(f"b{n}", dist.Normal(0, 0.1).expand([o]).to_event(1))

    def logits(x, w1, b1, w2, b2):
        return jax.nn.relu(x @ w1 + b1) @ w2 + b2

    def model(x, y=None):
        out = logits(x, *layer(1, 784, 100), *layer(2, 100, 10))
        with npy.plate("data", len(train_x), subsample_size=x.shape[0]):
            npy.sample("y", dist.Categorical(logits=out), obs=y)

    guide = AutoNormal(model, init_scale=0.05)
    svi = SVI(model, guide, npy.optim.Adam(2e-3), Trace_ELBO())
    state = None
    step = jax.jit(svi.update)
    for x, y in batches():
        x, y = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())
        if state is None:
            state = svi.init(jax.random.PRNGKey(0), x, y)
        state, _ = step(state, x, y)
    params = svi.get_params(state)
    np.savez(path := os.path.join(folder, "net.npz"), **{k: np.asarray(v) for k, v in params.items()})
    drawn = guide.sample_posterior(jax.random.PRNGKey(1), params, sample_shape=(SAMPLES,))
    x = jnp.asarray(test_x.numpy())
    forward = jax.jit(lambda w1, b1, w2, b2: logits(x, w1, b1, w2, b2))
    out = [np.asarray(forward(*(drawn[k][i] for k in ("w1", "b1", "w2", "b2")))) for i in range(SAMPLES)]
    return path, np.stack(out).astype("f8"), []


def predicted(file, images, how):
    command = [os.path.join(PROGRAMS, "svdo-infer"), file, "--input", images, "--uncertainty", how,
               "--task", "regression", "--json", "-"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["predictions"]
    return np.array([p["mean"] for p in found]), np.array([p["std"] for p in found]) ** 2


def main():
    print(f"{'library':28} {'file':>9}  {'by':8} {'mean off':>8} {'variance':>9}  quartiles of ratios")
    for library in (bayesian_torch, bayesian_torch_convolution, blitz, torchbnn, ivon, numpyro):
        if ONLY and library.__name__ not in ONLY:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path, samples, options = library(folder)
            mean, variance = samples.mean(0), samples.var(0, ddof=1)
            np.save(images := os.path.join(folder, "x.npy"), test_x.numpy().reshape(IMAGES, -1))
            if "convolution" in library.__name__:
                np.save(images, test_x.numpy().reshape(IMAGES, 1, 28, 28))
            every = ["--thresh", "inf"]
            finer = [(f"rate {rate}", [*every, "--variance-rate", rate]) for rate in ("0.01", "0.001")]
            for kept, threshold in (("all", every), *finer, ("pruned", [])):
                file = os.path.join(folder, "net.svdo")
                command = [os.path.join(PROGRAMS, "svdo-compress"), path, "-o", file, "--variances"]
                subprocess.run(command + options + threshold, check=True, capture_output=True)
                for how in ("moments", f"mc={SAMPLES}"):
                    m, v = predicted(file, images, how)
                    off = np.sqrt(((m - mean) ** 2 / variance).mean())
                    quartiles = " ".join(f"{q:.3f}" for q in np.quantile(v / variance, [0.25, 0.5, 0.75]))
                    name, size = f"{library.__name__}, {kept}", os.path.getsize(file)
                    print(f"{name:28} {size:9}  {how:8} {off:8.3f} {v.sum() / variance.sum():9.3f}  {quartiles}",
                          flush=True)


main()
