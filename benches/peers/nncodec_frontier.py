"""Frontiers of size and loss: NNCodec over thresholds and quantization parameters, svdo by its own
search, on the same labelled samples. Prints both frontiers and, at equal losses, the bytes of both,
as tab-separated values."""
import gzip
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from nncodec import nnc

import frontier_plot

THRESHOLDS = [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]
PARAMETERS = range(-30, -11)
# At which the two are compared: cross-entropy over the pruned network's, and rises of its error.
TIMES = [1.02, 1.05, 1.1, 1.2, 1.5]
RISES = [0, 0.0005, 0.001, 0.002, 0.005]


def read_checkpoint(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    kinds = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
    tensor = lambda t: np.frombuffer(data[slice(*t["data_offsets"])], kinds[t["dtype"]]).reshape(t["shape"])
    tensors = {name: tensor(t) for name, t in header.items() if name != "__metadata__"}
    return tensors, json.loads(header["__metadata__"]["svdo"])["network"]


def read_samples(path):
    """Images or labels: IDX, also compressed, or NumPy's."""
    if path.endswith(".npy"):
        return np.load(path)
    raw = gzip.open(path).read() if path.endswith(".gz") else open(path, "rb").read()
    dims = struct.unpack(">" + "I" * raw[3], raw[4 : 4 + 4 * raw[3]])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dims)


def pruned(tensors, threshold):
    kept = {}
    for name, theta in tensors.items():
        if name.endswith(".theta"):
            square = theta.astype(np.float64) ** 2
            with np.errstate(divide="ignore"):
                log_alpha = tensors[name[:-5] + "log_sigma2"] - np.log(square)
            kept[name[:-5] + "weight"] = np.where(log_alpha <= threshold, theta, 0).astype(np.float32)
        elif name.endswith(".bias"):
            kept[name] = theta.astype(np.float32)
    return kept


# What `run` knows.
OPERATIONS = {"conv2d", "linear", "max_pool2d", "relu", "flatten"}


def run(network, tensors, images):
    """Outputs, so many samples at a time that memory is small."""
    return torch.cat([run_batch(network, tensors, part) for part in torch.tensor(images).split(250)])


def run_batch(network, tensors, images):
    settings = network["input"]
    x = images.float().reshape(-1, *settings["shape"])
    each = lambda name, default: torch.tensor(settings.get(name, default)).reshape(-1, *[1] * (x.dim() - 2))
    x = (x * settings.get("scale", 1) - each("mean", [0.0])) / each("std", [1.0])
    for node in network["nodes"]:
        weights = lambda: (torch.tensor(tensors[f"{node['layer']}.{k}"]) for k in ("weight", "bias"))
        if node["op"] == "conv2d":
            top, left, bottom, right = node.get("padding", [0] * 4)
            x = F.conv2d(F.pad(x, (left, right, top, bottom)), *weights(), stride=node.get("stride", 1))
        elif node["op"] == "linear":
            x = F.linear(x.flatten(1), *weights())
        elif node["op"] == "max_pool2d":
            x = F.max_pool2d(x, node["kernel"], node["stride"])
        else:
            x = {"relu": F.relu, "flatten": lambda x: x.flatten(1)}[node["op"]](x)
    return x


def frontier(points, loss):
    """(bytes, loss) of points that no smaller one betters."""
    found, least = [], float("inf")
    for point in sorted(points, key=lambda p: (p[3], p[loss])):
        if point[loss] < least:
            least = point[loss]
            found.append((point[3], least))
    return found


def bytes_at(frontier, loss):
    """Bytes at a loss, between the points of a frontier on logarithmic scales."""
    for (small, high), (large, low) in zip(frontier, frontier[1:]):
        if high >= loss >= low:
            share = (math.log(high) - math.log(loss)) / (math.log(high) - math.log(low))
            return small * (large / small) ** share
    return None


def main(checkpoint, images_path, labels_path, calibrate=None):
    tensors, network = read_checkpoint(checkpoint)
    images = read_samples(images_path)
    labels = torch.tensor(read_samples(labels_path).astype(np.int64))
    torch.set_num_threads(1)
    with torch.no_grad():
        reference = run(network, pruned(tensors, 3.0), images)
    start = F.cross_entropy(reference, labels).item()
    errors = (reference.argmax(1) != labels).float().mean().item()
    points = []
    with tempfile.TemporaryDirectory() as folder:
        stream = os.path.join(folder, "stream.nnc")
        for threshold in THRESHOLDS:
            weights = pruned(tensors, threshold)
            for qp in PARAMETERS:
                nnc.compress(weights, bitstream_path=stream, qp=qp)
                decoded = {k: np.array(v) for k, v in nnc.decompress(stream).items()}
                with torch.no_grad():
                    outputs = run(network, decoded, images)
                error = (outputs.argmax(1) != labels).float().mean().item()
                loss = F.cross_entropy(outputs, labels).item()
                points.append(("nncodec", threshold, qp, os.path.getsize(stream), error, loss))
        peer = frontier(points, 5)
        for times in TIMES:
            most = bytes_at(peer, times * start)
            if most is None:
                continue
            command = [os.environ["SVDO"], "compress", checkpoint, "--strip", "--max-bytes"]
            command += [str(round(0.75 * most)), "--validate", images_path, "--labels", labels_path]
            command += ["--calibrate", calibrate] if calibrate else []
            command += ["--sweep", "3:3:1", "-o", os.path.join(folder, "x.svdo"), "--json", "-"]
            report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            for p in report["search"]:
                row = (p["threshold"], p["step"], p["file_bytes"], p["error_rate"], p["cross_entropy"])
                points.append(("svdo", *row))
    print("codec\tthreshold\tqp or step\tbytes\terror %\tcross-entropy")
    for codec in ("nncodec", "svdo"):
        least = float("inf")
        for point in sorted((p for p in points if p[0] == codec), key=lambda p: (p[3], p[5])):
            if point[5] < least:
                least = point[5]
                _, threshold, parameter, size, error, loss = point
                print(f"{codec}\t{threshold}\t{parameter:.3g}\t{size}\t{100 * error:.2f}\t{loss:.4f}")
    if plot := os.environ.get("FRONTIER_SVG"):
        codecs = ("nncodec", "svdo")
        curves = {c: frontier([p for p in points if p[0] == c], 5) for c in codecs}
        with open(plot, "w") as file:
            file.write(frontier_plot.svg(curves))
    print("\nequal\tnncodec bytes\tsvdo bytes\tsvdo over nncodec")
    losses = [(f"cross-entropy {t} x pruned", 5, t * start) for t in TIMES]
    losses += [(f"error + {100 * rise:.2g} %", 4, errors + rise) for rise in RISES]
    for name, column, loss in losses:
        both = [frontier([p for p in points if p[0] == c], column) for c in ("nncodec", "svdo")]
        if column == 4:
            # Errors are counts: the smallest file within the bound.
            sizes = [min((b for b, error in f if error <= loss), default=None) for f in both]
        else:
            sizes = [bytes_at(f, loss) for f in both]
        if None not in sizes:
            ratio = 100 * (sizes[1] / sizes[0] - 1)
            print(f"{name}\t{sizes[0]:.0f}\t{sizes[1]:.0f}\t{ratio:+.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:5])
