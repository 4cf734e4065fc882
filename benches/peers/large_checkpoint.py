"""Writes a sharded bf16 checkpoint of any size: a chain of linear layers, one in each shard.

    python large_checkpoint.py FOLDER [LAYERS [DISTINCT [KEPT [ROWS [COLUMNS]]]]]        (numpy)

Each layer has ROWS x COLUMNS = 4096 x 8192 means and as many variances, 64 MiB of either; a share
KEPT of them (0.02) has log alpha around -3.5, the rest around 6.5. Only DISTINCT layers (4) are
drawn, the others are copies; on a file system with reflinks (XFS, Btrfs) they take no space, so that
150 layers, 20 GB, fit in 0.6 GB.
"""

import json
import os
import subprocess
import sys

import numpy as np

HEADER = 4096  # so that the copies share whole blocks


def bf16(values):
    return ((values.astype(np.float32).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def data(seed, count, kept):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal(count, dtype=np.float32) * np.float32(0.02)
    log_alpha = np.where(rng.random(count, dtype=np.float32) < kept, np.float32(-4), np.float32(6))
    log_alpha += rng.random(count, dtype=np.float32)
    return bf16(theta), bf16(log_alpha + np.log(theta**2 + np.float32(1e-30)))


def header(layer, rows, columns):
    shape = [rows, columns] if layer % 2 == 0 else [columns, rows]
    size = 2 * rows * columns
    tensors = {
        f"fc{layer}.{part}": {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        for part, at in [("weight", 0), ("log_sigma2", size)]
    }
    text = json.dumps(tensors).encode().ljust(HEADER - 8)
    return tensors, len(text).to_bytes(8, "little") + text


def main(folder, layers=150, distinct=4, kept=0.02, rows=4096, columns=8192):
    layers, distinct, rows, columns = int(layers), int(distinct), int(rows), int(columns)
    os.makedirs(folder, exist_ok=True)
    weight_map = {}
    name = lambda layer: f"model-{layer + 1:05}-of-{layers:05}.safetensors"
    for layer in range(layers):
        tensors, start = header(layer, rows, columns)
        weight_map.update({tensor: name(layer) for tensor in tensors})
        path = os.path.join(folder, name(layer))
        if layer < distinct:
            with open(path, "wb") as file:
                file.write(start)
                for part in data(layer, rows * columns, float(kept)):
                    part.tofile(file)
        else:
            source = os.path.join(folder, name(layer % distinct))
            subprocess.run(["cp", "--reflink=auto", source, path], check=True)
            with open(path, "r+b") as file:
                file.write(start)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
