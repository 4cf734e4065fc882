"""CERWU (Conzelmann and Bamler 2025, arXiv 2505.18758), written anew from its paper, beside svdo: every layer on a
grid of its own, one weight after the other by what it does to the layer's outputs and what it costs, the rest of its
row making up for it. The objective is 1/2 (w - q)' H (w - q) + lambda R(q), with H the second moments of the layer's
inputs; of the rate R, in bits, gamma/2 q^2 goes into H first, with gamma = 1 / (ln 2 var(w)), and only what is left is
chosen by. R is estimated by adaptive binary models as DeepCABAC has them. What is quantized is the network that log
alpha prunes, without its dead units, with its zeros free to change or not; biases are on a grid, too. Integers are
coded by NNCodec's lossless mode; of each tensor a step is counted, 4 bytes.

    cerwu.py CHECKPOINT TRAIN-IMAGES TRAIN-LABELS TEST-IMAGES TEST-LABELS FILE.svdo ...

svdo is $SVDO. Moments are those of the first $CALIBRATE training images (5,000), the last 10,000 choose all settings by
the divergence from the network pruned at threshold 3; the test set is read once. Prints the frontier, then of each
svdo file the smallest stream that changes the outputs no more, as tab-separated values.
"""
import itertools
import math
import os
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from nncodec import nnc
from nncodec_frontier import pruned, read_checkpoint, read_samples
from nncodec_tuned import Measure, compacted, exported, frontier

THRESHOLDS = [float(t) for t in os.environ.get("THRESHOLDS", "3 2 1").split()]
# The largest weight of a layer in steps.
LARGEST = [int(n) for n in os.environ.get("LARGEST", "6 8 11 16 23 32").split()]
LAMBDAS = [float(x) for x in os.environ.get("LAMBDAS", "1e-6 1e-5 3e-5 1e-4 3e-4 1e-3 3e-3").split()]
# The bias's step over that of the weights times the root of the weights of a row.
BIASES = [float(x) for x in os.environ.get("BIASES", "0.125 0.25 0.5").split()]
DAMPING = 0.01


class Rate:
    """Bits of a number under adaptive models: whether it is 0, by the one before; its sign; whether its magnitude is
    above 1, 2 ... 10; the rest in Exp-Golomb form. Learns what is chosen."""

    FLAGS = 10
    SHIFT = 1 / 32

    def __init__(self):
        self.zero, self.sign, self.above = [0.5] * 3, [0.5], [0.5] * self.FLAGS
        self.before = 0

    def flags(self, q):
        """Each model that takes part, and its bit."""
        yield self.zero, self.before, q != 0
        if q != 0:
            yield self.sign, 0, q < 0
            for at in range(min(abs(q), self.FLAGS)):
                yield self.above, at, abs(q) > at + 1

    def bits(self, q):
        rest = abs(q) - self.FLAGS
        bits = 2 * int(math.log2(rest)) + 1 if rest > 0 else 0
        for models, at, bit in self.flags(q):
            bits -= math.log2(models[at] if bit else 1 - models[at])
        return bits

    def learn(self, q):
        for models, at, bit in self.flags(q):
            models[at] = min(max(models[at] + self.SHIFT * (bit - models[at]), 0.002), 0.998)
        self.before = 0 if q == 0 else 1 if q < 0 else 2


def quantized(weights, moments, step, rate_weight, free):
    """A layer's weights [out, in] in steps, as whole numbers. Zeros stay unless they are `free`."""
    w = weights.astype(np.float64) / step
    gamma = 1 / (math.log(2) * w.var())
    h = moments * step**2
    h[np.diag_indices_from(h)] += DAMPING * np.diag(h).mean()
    regular = h + rate_weight * gamma * np.eye(len(h))
    whole = factored(h, regular) if free else None
    rate, levels = Rate(), np.zeros(w.shape, np.int32)
    for row in range(len(w)):
        support = np.arange(w.shape[1]) if free else np.flatnonzero(w[row])
        if len(support) == 0:
            continue
        shrink, factor = whole or factored(h[np.ix_(support, support)], regular[np.ix_(support, support)])
        rest, last = w[row, support] @ shrink, -1
        for at, column in enumerate(support):
            if column > last + 1:
                rate.learn(0)
            last, value, own = column, rest[at], factor[at, at]
            near = math.floor(abs(value))
            tried = {0, *(int(math.copysign(m, value)) for m in (near, near + 1))}
            cost = lambda q: (value - q) ** 2 / (2 * own**2) + rate_weight * (rate.bits(q) - gamma / 2 * q * q)
            q = min(sorted(tried), key=cost)
            rate.learn(q)
            levels[row, column] = q
            rest[at:] -= (value - q) / own * factor[at, at:]
    return levels


def factored(h, regular):
    """What weights are multiplied with to take up the quadratic part of the rate, and the upper Cholesky factor of
    the inverse."""
    inverse = np.linalg.inv(regular)
    return h @ inverse, np.linalg.cholesky(inverse).T


def input_moments(network, tensors, images):
    """For each layer the mean of x x' over samples and places."""
    sums, counts = {}, {}
    for part in torch.tensor(images).split(500):
        settings = network["input"]
        x = part.float().reshape(-1, *settings["shape"])
        each = lambda name, default: torch.tensor(settings.get(name, default)).reshape(-1, *[1] * (x.dim() - 2))
        x = (x * settings.get("scale", 1) - each("mean", [0.0])) / each("std", [1.0])
        for node in network["nodes"]:
            if node["op"] in ("conv2d", "linear"):
                name = node["layer"]
                weight, bias = (torch.tensor(tensors[f"{name}.{kind}"]) for kind in ("weight", "bias"))
                if node["op"] == "conv2d":
                    top, left, bottom, right = node.get("padding", [0] * 4)
                    x = F.pad(x, (left, right, top, bottom))
                    columns = F.unfold(x, weight.shape[2:], stride=node.get("stride", 1)).transpose(1, 2)
                    x = F.conv2d(x, weight, bias, stride=node.get("stride", 1))
                else:
                    columns = x.flatten(1)
                    x = F.linear(columns, weight, bias)
                columns = columns.reshape(-1, columns.shape[-1]).double()
                sums[name] = sums.get(name, 0) + columns.T @ columns
                counts[name] = counts.get(name, 0) + len(columns)
            elif node["op"] == "max_pool2d":
                x = F.max_pool2d(x, node["kernel"], node["stride"])
            else:
                x = {"relu": F.relu, "flatten": lambda x: x.flatten(1)}[node["op"]](x)
    return {name: (total / counts[name]).numpy() for name, total in sums.items()}


def sweep(checkpoint, calibration, validation):
    """(bytes, divergence, settings, tensors, network) of the streams on the frontier, and how many were made."""
    points, made = [], 0
    with tempfile.TemporaryDirectory() as folder:
        stream = os.path.join(folder, "stream.nnc")
        for threshold in THRESHOLDS:
            tensors, network = compacted(checkpoint, threshold, folder)
            moments = input_moments(network, tensors, calibration)
            for free, largest, weight in itertools.product((False, True), LARGEST, LAMBDAS):
                levels, steps = {}, {}
                for name in moments:
                    theta = tensors[f"{name}.weight"]
                    steps[name] = np.abs(theta).max() / largest
                    flat = theta.reshape(len(theta), -1)
                    found = quantized(flat, moments[name].copy(), steps[name], weight, free)
                    levels[f"{name}.weight"] = found.reshape(theta.shape)
                for fine in BIASES:
                    all_steps = {f"{name}.weight": step for name, step in steps.items()}
                    for name, step in steps.items():
                        each = (levels[f"{name}.weight"] != 0).sum() / len(levels[f"{name}.weight"])
                        bias = all_steps[f"{name}.bias"] = fine * step * math.sqrt(max(each, 1))
                        levels[f"{name}.bias"] = np.rint(tensors[f"{name}.bias"] / bias).astype(np.int32)
                    nnc.compress(dict(levels), bitstream_path=stream)
                    decoded = {name: (q * all_steps[name]).astype(np.float32) for name, q in levels.items()}
                    size = os.path.getsize(stream) + 4 * len(levels)
                    settings = (threshold, "free" if free else "masked", largest, weight, fine)
                    made += 1
                    points.append((size, validation(decoded, network)[0], settings, decoded, network))
                    points = frontier(points) if made % 50 == 0 else points
    return frontier(points), made


@torch.no_grad()
def main(checkpoint, train_images, train_labels, test_images, test_labels, *files):
    torch.set_num_threads(1)
    tensors, network = read_checkpoint(checkpoint)
    reference = pruned(tensors, 3.0)
    images, labels = read_samples(train_images), read_samples(train_labels)
    validation = Measure(network, reference, images[-10000:], labels[-10000:])
    calibration = images[: int(os.environ.get("CALIBRATE", 5000))]
    found, made = sweep(checkpoint, calibration, validation)
    test = Measure(network, reference, read_samples(test_images), read_samples(test_labels))
    print("cerwu bytes\tdivergence\tsettings\ttest error %\ttest cross-entropy")
    scored = []
    for size, divergence, settings, decoded, own in found:
        _, error, loss = test(decoded, own)
        scored.append((size, divergence, error, loss))
        print(f"{size}\t{divergence:.5f}\t{' '.join(map(str, settings))}\t{100 * error:.2f}\t{loss:.4f}")
    print(f"\n{made} streams\n")
    print("svdo bytes\tdivergence\terror %\tcross-entropy\tcerwu bytes\terror %\tcross-entropy\tsvdo over cerwu")
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            decoded = exported(file, folder)
            size, (divergence, *_), (_, error, loss) = os.path.getsize(file), validation(*decoded), test(*decoded)
            row = [size, f"{divergence:.5f}", f"{100 * error:.2f}", f"{loss:.4f}"]
            if peer := min((p for p in scored if p[1] <= divergence), default=None):
                row += [peer[0], f"{100 * peer[2]:.2f}", f"{peer[3]:.4f}", f"{100 * (size / peer[0] - 1):+.1f} %"]
            print(*row, sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
