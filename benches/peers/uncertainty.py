"""The two LeNets of fixtures/ under their posteriors: svdo beside bayesian-torch, with the same means.

    python benches/peers/uncertainty.py PROGRAMS

PROGRAMS is a folder with svdo-compress and svdo-infer. Both prune at threshold 3 and predict the first 1,000 test images:
svdo by moments and by samples from a file with exact means and deviations as coded by default, bayesian-torch
(Reparameterization layers) by samples, each of which draws all weights once for all images. NLL, ECE (15 bins) and the microseconds of a core that a sample of an
image takes: of svdo-infer what a run of 128 samples takes more than one of 32, of bayesian-torch batches of 64 and of
1,000.

    pip install torch bayesian-torch numpy
"""

import gzip
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from bayesian_torch.layers import Conv2dReparameterization, LinearReparameterization
from torch.nn import functional as F

PROGRAMS = sys.argv[1]
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures")
IMAGES, TIMES = 1000, 8
torch.manual_seed(1)
torch.set_num_threads(1)


def read(name, head):
    with gzip.open(os.path.join(FIXTURES, name)) as file:
        return np.frombuffer(file.read(), "u1", offset=head)


PIXELS = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784)[:IMAGES]
LABELS = read("t10k-labels-idx1-ubyte.gz", 8)[:IMAGES]


def tensors(name):
    with open(os.path.join(FIXTURES, name + ".safetensors"), "rb") as file:
        raw = file.read()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__")

    def tensor(entry):
        start, end = entry["data_offsets"]
        return np.frombuffer(raw[8 + size + start:8 + size + end], "<f4").reshape(entry["shape"]).astype("f8")

    return {key: tensor(entry) for key, entry in header.items()}


def layer(values, name):
    """A layer of bayesian-torch whose pruned weights have neither mean nor deviation; biases have none either."""
    theta, log_sigma2 = values[name + ".theta"], values[name + ".log_sigma2"]
    pruned = log_sigma2 - np.log(theta ** 2) > 3
    sigma = np.exp(log_sigma2 / 2)
    rho = np.where(pruned, -200, np.log(np.expm1(sigma)))
    shape = theta.shape
    of = (Conv2dReparameterization(shape[1], shape[0], shape[2]) if theta.ndim == 4
          else LinearReparameterization(shape[1], shape[0]))
    mu_name, rho_name = ("mu_kernel", "rho_kernel") if theta.ndim == 4 else ("mu_weight", "rho_weight")
    for to, value in ((mu_name, np.where(pruned, 0, theta)), (rho_name, rho), ("mu_bias", values[name + ".bias"]),
                      ("rho_bias", np.full(shape[0], -200.0))):
        getattr(of, to).data = torch.tensor(value, dtype=torch.float32)
    return of


def network(values):
    layers = {name[:-6]: layer(values, name[:-6]) for name in values if name.endswith(".theta")}

    def forward(x):
        if "conv1" in layers:
            x = x.view(-1, 1, 28, 28)
            for name in ("conv1", "conv2"):
                x = F.relu(F.max_pool2d(layers[name](x, return_kl=False), 2))
            x = x.flatten(1)
        dense = [layers[name] for name in layers if name.startswith("fc")]
        for of in dense[:-1]:
            x = F.relu(of(x, return_kl=False))
        return dense[-1](x, return_kl=False)

    return forward


def scores(p):
    """NLL, and the error of calibration in 15 bins of confidence."""
    confidence, right = p.max(1), p.argmax(1) == LABELS
    bins = np.minimum((confidence * 15).astype(int), 14)
    of = [np.abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15)]
    return -np.log(p[np.arange(IMAGES), LABELS]).mean(), sum(of) / IMAGES


def sampled(forward, samples):
    x = torch.tensor(PIXELS / np.float32(255))
    with torch.no_grad():
        return np.mean([F.softmax(forward(x), 1).double().numpy() for _ in range(samples)], 0)


def sample_time(forward, batch):
    """Microseconds of a sample of an image, the least of many."""
    x, best = torch.tensor(PIXELS[:batch] / np.float32(255)), np.inf
    with torch.no_grad():
        for _ in range(200 if batch < IMAGES else 30):
            start = time.process_time()
            forward(x)
            best = min(best, time.process_time() - start)
    return best / batch * 1e6


def svdo(file, how, images, labels):
    """The report of a run, and the seconds of a core that it took."""
    command = [os.path.join(PROGRAMS, "svdo-infer"), file, "--input", images, "--uncertainty", how, "--seed", "1",
               "--threads", "1", "--json", "-", "--labels", labels]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    found = subprocess.run(command, check=True, capture_output=True).stdout
    return json.loads(found), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def write_idx(path, values, shape):
    with open(path, "wb") as file:
        file.write(struct.pack(">I", 0x800 + len(shape)) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes())


def main():
    print(f"{'network':15} {'by':28} {'NLL':>7} {'ECE':>7}  us/sample")
    with tempfile.TemporaryDirectory() as folder:
        def paths(times):
            images, labels = (os.path.join(folder, f"{kind}{times}") for kind in ("images", "labels"))
            write_idx(images, np.tile(PIXELS, (times, 1)), (IMAGES * times, 28, 28))
            write_idx(labels, np.tile(LABELS, times), (IMAGES * times,))
            return images, labels

        once, often = paths(1), paths(TIMES)
        for name in ("lenet300_mnist", "lenet5_mnist"):
            forward = network(tensors(name))
            file = os.path.join(folder, name + ".svdo")
            subprocess.run([os.path.join(PROGRAMS, "svdo-compress"), os.path.join(FIXTURES, name + ".safetensors"),
                            "--variances", "--thresh", "3", "--quantize", "exact", "-o", file],
                           check=True, capture_output=True)
            least = [min(svdo(file, how, *often)[1] for _ in range(4)) for how in ("mc=32", "mc=128")]
            each = (least[1] - least[0]) / (96 * IMAGES * TIMES) * 1e6
            for how in ("moments", "mc=32", "mc=128"):
                found = svdo(file, how, *once)[0]["scores"]
                took = "" if how == "moments" else f"{each:9.2f}"
                print(f"{name:15} {'svdo, ' + how:28} {found['nll']:7.4f} {100 * found['ece']:6.2f}%  {took}", flush=True)
            took = " ".join(f"{sample_time(forward, batch):9.2f}" for batch in (64, IMAGES))
            for samples in (32, 128):
                nll, ece = scores(sampled(forward, samples))
                print(f"{name:15} {f'bayesian-torch, {samples}':28} {nll:7.4f} {100 * ece:6.2f}%  {took}", flush=True)


main()
