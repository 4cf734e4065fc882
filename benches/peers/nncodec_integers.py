"""The same whole numbers, coded by svdo and by NNCodec's lossless mode (int32 tensors through
DeepCABAC): svdo compresses the checkpoint at fixed settings, its file is exported, the levels are
read off the weights and biases, and NNCodec codes those. Whole files on both sides; the layers either
without their dead units (`compact`, a gift of svdo's to NNCodec) or in their original shapes. Prints one line of tab-separated values for each setting."""
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


def levels(values):
    """Values that are whole multiples of one step, as those multiples."""
    least = np.abs(values[values != 0]).min(initial=np.inf)
    for divisor in range(1, 200):
        multiples = values.astype(np.float64) / (least / divisor)
        whole = np.rint(multiples)
        if np.all(np.abs(multiples - whole) < 1e-4 * np.maximum(1, np.abs(whole))):
            return whole.astype(np.int32)
    sys.exit("the values are no multiples of a step")


def main(checkpoint):
    print("shapes\tthreshold\tstep\tlambda\tkept\tsvdo\tnncodec lossless\tnncodec / svdo")
    with tempfile.TemporaryDirectory() as folder:
        file, dense, stream = (os.path.join(folder, n) for n in ("x.svdo", "x.safetensors", "x.nnc"))
        svdo = os.environ["SVDO"]
        for shapes, threshold, step, rate in SETTINGS:
            settings = ["--thresh", threshold, "--step", step, "--lambda", rate, "--companding", 0]
            command = [svdo, "compress", checkpoint, "--strip", "-o", file, "--quantize", "rd"]
            command += ["--no-simplify"] if shapes == "original" else []
            subprocess.run([*command, *map(str, settings)], check=True, capture_output=True)
            subprocess.run([svdo, "export", file, "-o", dense], check=True, capture_output=True)
            tensors = {name: levels(values) for name, values in read_checkpoint(dense)[0].items()}
            nnc.compress(tensors, bitstream_path=stream)
            decoded = nnc.decompress(stream)
            assert all(np.array_equal(np.array(decoded[n]), t) for n, t in tensors.items())
            kept = sum(int((t != 0).sum()) for t in tensors.values() if t.ndim > 1)
            ours, theirs = os.path.getsize(file), os.path.getsize(stream)
            print(shapes, threshold, step, rate, kept, ours, theirs, f"{theirs / ours:.3f}", sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
