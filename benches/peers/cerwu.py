"""Rate-constrained quantization with weight updates (CERWU, Conzelmann and Bamler, arXiv 2505.18758), written
from the paper: layer after layer, the squared change of outputs under the inputs' second moments H, plus lambda
times bits. Bits are a quadratic where weights are still free, which adds to H, and code lengths where a level is
chosen: columns one after the other, their errors made up for by the columns to come (optimal brain surgeon).
Code lengths are those of a significance flag, a sign and the magnitude as they came in the round before; levels
are then coded by NNCodec's lossless mode (DeepCABAC). Prints the points that no smaller one betters by divergence
on held-out training images, with their errors on the test set.
    cerwu.py CHECKPOINT TRAIN-IMAGES TRAIN-LABELS TEST-IMAGES TEST-LABELS
Linear and convolution layers with ReLU and max pooling. The last 10,000 training images choose."""
import itertools
import os
import struct
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from nncodec import nnc

from nncodec_frontier import pruned, read_checkpoint, read_idx
from nncodec_tuned import Measure, compacted, frontier

THRESHOLDS = [3.0, 2.0, 1.0]
# Steps over the root mean square of a layer's weights, and the price of a bit over its squared step.
STEPS = [0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.2]
PRICES = [0.01, 0.03, 0.06, 0.1, 0.2]
DAMPING = 0.01
ROUNDS = 3


def inputs_of(network, tensors, images, name):
    """The input of a layer in a network, one column for each weight of a row."""
    settings = network["input"]
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, *settings["shape"])
    x = (x * settings["scale"] - settings.get("mean", [0])[0]) / settings.get("std", [1])[0]
    for node in network["nodes"]:
        op = node["op"]
        if op in ("conv2d", "linear"):
            weight, bias = (torch.tensor(tensors[f"{node['layer']}.{k}"]) for k in ("weight", "bias"))
            if op == "conv2d":
                if node["layer"] == name:
                    patches = F.unfold(x, weight.shape[2:], stride=node.get("stride", 1))
                    return patches.transpose(1, 2).reshape(-1, patches.shape[1])
                x = F.conv2d(x, weight, bias, stride=node.get("stride", 1))
            else:
                if node["layer"] == name:
                    return x
                x = F.linear(x, weight, bias)
        elif op == "max_pool2d":
            x = F.max_pool2d(x, node["kernel"], node["stride"])
        else:
            x = {"relu": F.relu, "flatten": lambda x: x.flatten(1)}[op](x)


def code_lengths(levels, most):
    """Bits of each magnitude from 0 to the largest, the sign included."""
    sizes = np.abs(levels).astype(int).ravel()
    counts = np.bincount(sizes, minlength=most + 1).astype(float) + 0.25
    bits = -np.log2(counts / counts.sum())
    bits[1:] += 1
    return bits


def quantize(weights, moments, step, price):
    """Levels of the weights; zeros stay zero."""
    w = weights.astype(np.float64)
    kept, scale = w != 0, moments.trace() / len(moments)
    h = moments + DAMPING * scale * np.eye(len(moments))
    price = price * step * step * scale
    levels = np.rint(w / step)
    most = int(np.abs(levels).max()) + 2
    for _ in range(ROUNDS):
        bits = code_lengths(levels[kept], most)
        share = max((levels != 0).mean(), 1e-6)
        bits[0] = -np.log2(max(1 - share, 1e-9))
        values = np.arange(most + 1) * step
        # The quadratic through the code lengths, by least squares under their frequencies.
        frequency = np.bincount(np.abs(levels[kept]).astype(int), minlength=most + 1)
        curve = (frequency * bits * values**2).sum() / max((frequency * values**4).sum(), 1e-30)
        full = h + price * curve * np.eye(len(h))
        free = np.linalg.solve(full, h @ w.T).T
        free = np.where(kept, free, 0)
        inverse = np.linalg.inv(full)
        upper = np.linalg.cholesky(inverse).T
        for column in range(w.shape[1]):
            diagonal = upper[column, column]
            target = free[:, column]
            below = np.minimum(np.floor(np.abs(target) / step).astype(int), most - 1)
            best, least = np.zeros(len(w)), np.full(len(w), np.inf)
            for size in (np.zeros_like(below), below, below + 1):
                error = np.abs(target) - size * step
                rate = bits[size] - curve * (size * step) ** 2
                total = (error / diagonal) ** 2 + price * rate
                best, least = np.where(total < least, size, best), np.minimum(total, least)
            best = np.where(kept[:, column], best * np.sign(target), 0)
            levels[:, column] = best
            error = (target - best * step) / diagonal
            free[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
            free[:, column + 1 :] *= kept[:, column + 1 :]
    return levels.astype(np.int32)


@torch.no_grad()
def main(checkpoint, train_images, train_labels, test_images, test_labels):
    torch.set_num_threads(int(os.environ.get("THREADS", 1)))
    tensors, network = read_checkpoint(checkpoint)
    reference = pruned(tensors, 3.0)
    images, labels = read_idx(train_images), read_idx(train_labels)
    validation = Measure(network, reference, images[-10000:], labels[-10000:])
    test = Measure(network, reference, read_idx(test_images), read_idx(test_labels))
    fitted = images[:10000:4]
    names = [node["layer"] for node in network["nodes"] if "layer" in node]
    points = []
    with tempfile.TemporaryDirectory() as folder:
        stream = os.path.join(folder, "stream.nnc")
        for threshold in THRESHOLDS:
            start = compacted(checkpoint, threshold, folder)
            for width, price in itertools.product(STEPS, PRICES):
                current, integers, header = dict(start), {}, b""
                for name in names:
                    weights = start[f"{name}.weight"]
                    flat = weights.reshape(len(weights), -1)
                    x = inputs_of(network, current, fitted, name).double().numpy()
                    step = np.float32(width * np.sqrt((flat[flat != 0] ** 2).mean()))
                    levels = quantize(flat, x.T @ x / len(x), float(step), price)
                    bias = start[f"{name}.bias"]
                    bias_step = np.float32(step * max(1, np.sqrt((flat != 0).sum() / len(flat))) / 2)
                    bias_levels = np.rint(bias / bias_step).astype(np.int32)
                    header += struct.pack("<ff", step, bias_step)
                    integers[f"{name}.weight"] = levels.reshape(weights.shape)
                    integers[f"{name}.bias"] = bias_levels
                    current[f"{name}.weight"] = (levels * step).reshape(weights.shape).astype(np.float32)
                    current[f"{name}.bias"] = (bias_levels * bias_step).astype(np.float32)
                nnc.compress(integers, bitstream_path=stream)
                size = os.path.getsize(stream) + len(header)
                points.append((size, validation(current)[0], (threshold, width, price), current))
    print("cerwu bytes\tdivergence\tthreshold, step, price\ttest error %\ttest cross-entropy")
    for size, divergence, settings, found in frontier(points):
        _, error, loss = test(found)
        print(f"{size}\t{divergence:.5f}\t{settings}\t{100 * error:.2f}\t{loss:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
