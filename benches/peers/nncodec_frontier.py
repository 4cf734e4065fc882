"""Frontiers of size and loss: NNCodec over thresholds and quantization parameters, svdo by its own
search, on the same labelled samples. Prints one table as tab-separated values."""
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from nncodec import nnc

THRESHOLDS = [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]
PARAMETERS = range(-30, -11)


def read_checkpoint(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    tensor = lambda t: np.frombuffer(data[slice(*t["data_offsets"])], "<f4").reshape(t["shape"])
    tensors = {name: tensor(t) for name, t in header.items() if name != "__metadata__"}
    return tensors, json.loads(header["__metadata__"]["svdo"])["network"]


def read_idx(path):
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


def run(network, tensors, images):
    settings = network["input"]
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, *settings["shape"])
    x = (x * settings["scale"] - settings.get("mean", [0])[0]) / settings.get("std", [1])[0]
    for node in network["nodes"]:
        weights = lambda: (torch.tensor(tensors[f"{node['layer']}.{k}"]) for k in ("weight", "bias"))
        if node["op"] == "conv2d":
            x = F.conv2d(x, *weights(), stride=node.get("stride", 1))
        elif node["op"] == "linear":
            x = F.linear(x, *weights())
        elif node["op"] == "max_pool2d":
            x = F.max_pool2d(x, node["kernel"], node["stride"])
        else:
            x = {"relu": F.relu, "flatten": lambda x: x.flatten(1)}[node["op"]](x)
    return x


def main(checkpoint, images, labels):
    tensors, network = read_checkpoint(checkpoint)
    images, labels = read_idx(images), torch.tensor(read_idx(labels).astype(np.int64))
    torch.set_num_threads(1)
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
        for most in sorted({p[3] for p in points})[:: max(1, len(points) // 4)]:
            paths = sys.argv[1:4]
            command = [os.environ["SVDO"], "compress", paths[0], "--quantize", "rd", "--max-bytes"]
            command += [str(most), "--validate", paths[1], "--labels", paths[2], "--strip"]
            command += ["-o", os.path.join(folder, "x.svdo"), "--json", "-"]
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


if __name__ == "__main__":
    main(*sys.argv[1:4])
