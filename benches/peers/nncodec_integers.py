"""The same whole numbers, coded by svdo and by NNCodec's lossless mode (int32 tensors through DeepCABAC). Whole files
on both sides: ours hold the network's description, too. Of a file, its levels are read off the weights and biases that
it is exported to, and NNCodec codes those. A checkpoint is compressed at fixed settings first; its layers are either
without their dead units (`compact`, a gift of svdo's to NNCodec) or in their original shapes.

    nncodec_integers.py CHECKPOINT.safetensors | FILE.svdo ...

svdo is $SVDO. Prints tab-separated values, a line for each setting or file."""
import itertools
import os
import subprocess
import sys
import tempfile

import numpy as np
from nncodec import nnc

from nncodec_frontier import read_checkpoint

SETTINGS = [
    (shapes, *setting)
    for shapes in ("compact", "original")
    for setting in [(3.0, 0.35, 0.02), (3.0, 0.65, 0.02), (1.5, 0.65, 0.02), (1.5, 1.0, 0.04)]
]


def reconstruction(curve, count):
    """What levels from 0 on stand for, in steps (formats/svdo-v1.md, forms)."""
    values = [0.0]
    for _ in range(count):
        values.append(values[-1] * (1 + curve / 64) + 1)
    return np.array(values)


def levels(values):
    """Values that are levels of one step, evenly spaced or along a curve, as those levels: of all readings that fit,
    the one of the smallest numbers."""
    magnitudes = np.unique(np.abs(values[values != 0])).astype(np.float64)
    if not len(magnitudes):
        return np.zeros(values.shape, np.int32)
    for first, curve in itertools.product(range(1, 200), range(256)):
        count = 255 if curve else int(magnitudes[-1] / magnitudes[0] * first) + 1
        table = reconstruction(curve, count) if curve else np.arange(count + 1.0)
        table *= magnitudes[0] / table[first]
        nearest = np.abs(table - magnitudes[:, None]).argmin(1) if curve else np.rint(magnitudes / table[1]).astype(int)
        if np.allclose(table[nearest], magnitudes, rtol=5e-7, atol=0):
            of = nearest[np.searchsorted(magnitudes, np.abs(values).astype(np.float64)) % len(magnitudes)]
            return np.where(values == 0, 0, np.sign(values) * of).astype(np.int32)
    sys.exit("the values are no levels of a step")


def compared(file, folder):
    """Weights that are kept in a file of ours, and the bytes of both."""
    dense, stream = (os.path.join(folder, n) for n in ("dense.safetensors", "x.nnc"))
    subprocess.run([os.environ["SVDO"], "export", file, "-o", dense], check=True, capture_output=True)
    tensors = {name: levels(values) for name, values in read_checkpoint(dense)[0].items()}
    nnc.compress(tensors, bitstream_path=stream)
    decoded = nnc.decompress(stream)
    assert all(np.array_equal(np.array(decoded[n]), t) for n, t in tensors.items())
    kept = sum(int((t != 0).sum()) for t in tensors.values() if t.ndim > 1)
    return kept, os.path.getsize(file), os.path.getsize(stream)


def of_checkpoint(checkpoint, folder):
    print("shapes\tthreshold\tstep\tlambda\tkept\tsvdo\tnncodec lossless\tnncodec / svdo")
    file = os.path.join(folder, "x.svdo")
    for shapes, threshold, step, rate in SETTINGS:
        settings = ["--thresh", threshold, "--step", step, "--lambda", rate, "--companding", 0]
        command = [os.environ["SVDO"], "compress", checkpoint, "--strip", "-o", file, "--quantize", "rd"]
        command += ["--no-simplify"] if shapes == "original" else []
        subprocess.run([*command, *map(str, settings)], check=True, capture_output=True)
        kept, ours, theirs = compared(file, folder)
        print(shapes, threshold, step, rate, kept, ours, theirs, f"{theirs / ours:.3f}", sep="\t")


def of_files(files, folder):
    print("file\tkept\tsvdo\tnncodec lossless\tnncodec / svdo")
    for file in files:
        kept, ours, theirs = compared(file, folder)
        print(file, kept, ours, theirs, f"{theirs / ours:.3f}", sep="\t")


def main(*paths):
    with tempfile.TemporaryDirectory() as folder:
        if all(path.endswith(".svdo") for path in paths):
            of_files(paths, folder)
        else:
            of_checkpoint(*paths, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
