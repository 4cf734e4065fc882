"""NNCodec with all its knobs turned, beside svdo: thresholds, layers as they are or without their dead units, qp,
opt_qp, nonweight_qp, lambda_scale, row skipping, with dependent quantization and without. Every choice is made on
training images that neither side was fitted on, by the divergence of the outputs from the pruned network's; the
test set is read once, for what was chosen. Prints the frontier of NNCodec, then of each svdo file the smallest
NNCodec stream that changes the outputs no more, as tab-separated values; on stderr, each stream as it is made.

    nncodec_tuned.py CHECKPOINT TRAIN-IMAGES TRAIN-LABELS TEST-IMAGES TEST-LABELS FILE.svdo ...

svdo is $SVDO; the last 10,000 training images choose, or as many as $CHOOSING says; $THRESHOLDS, separated by
spaces, are tried, the first of them the pruned network that outputs are compared with; the sweep begins with every
second qp from the first to the second of $QPS. A table printed before is
read instead of swept again if $FRONTIER names it. Linear and convolution layers with ReLU and max pooling; batch
normalization is folded, and such layers are tried without dead units alone.
"""
import itertools
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from nncodec_frontier import OPERATIONS, pruned, read_checkpoint, read_samples, run

THRESHOLDS = [float(t) for t in os.environ.get("THRESHOLDS", "3 2.5 2 1.5 1 0.5 0").split()]
QPS = [int(qp) for qp in os.environ.get("QPS", "-30 -7").split()]
# Streams that change the outputs by more than this, in nats, are no network any more.
MOST = 0.05
START = dict(opt_qp=True, nonweight_qp=-16, lambda_scale=0, row_skipping=False, use_dq=True)
KNOBS = dict(
    opt_qp=[True, False],
    nonweight_qp=[-75, -32, -24, -20, -18, -14, -12, -10],
    lambda_scale=[8, 16, 32, 64],
    row_skipping=[True],
    use_dq=[False],
)


def compacted(checkpoint, threshold, folder):
    """The pruned network without dead and constant units, bit for bit."""
    file = os.path.join(folder, "c.svdo")
    how = ["--thresh", str(threshold), "--quantize", "exact", "-o", file]
    subprocess.run([os.environ["SVDO"], "compress", checkpoint, *how], check=True, capture_output=True)
    return exported(file, folder)


def exported(file, folder):
    """The tensors of a file, under the names of its own description, and that."""
    dense = os.path.join(folder, "dense.safetensors")
    subprocess.run([os.environ["SVDO"], "export", file, "-o", dense], check=True, capture_output=True)
    return read_checkpoint(dense)


class Measure:
    """What a network does to the outputs on some samples."""

    def __init__(self, network, reference, images, labels):
        self.network, self.images = network, images
        self.labels = torch.tensor(labels.astype(np.int64))
        self.reference = F.log_softmax(run(network, reference, images), 1)

    def __call__(self, tensors, network=None):
        """Divergence from the reference in nats, error rate, cross-entropy."""
        outputs = F.log_softmax(run(network or self.network, tensors, self.images), 1)
        divergence = F.kl_div(outputs, self.reference, log_target=True, reduction="batchmean").item()
        error = (outputs.argmax(1) != self.labels).float().mean().item()
        return divergence, error, F.nll_loss(outputs, self.labels).item()


def frontier(points):
    """Those of (bytes, divergence, ...) that no smaller one betters."""
    found, least = [], MOST
    for point in sorted(points, key=lambda p: p[:2]):
        if point[1] < least:
            least = point[1]
            found.append(point)
    return found


def sweep(checkpoint, tensors, validation):
    """(bytes, divergence, settings, tensors, network) of the streams on the frontier, and how many were made."""
    from nncodec import nnc

    with tempfile.TemporaryDirectory() as folder:
        stream = os.path.join(folder, "stream.nnc")
        networks, points = {}, {}
        for threshold in THRESHOLDS:
            if tensors is not None:
                networks[threshold, "raw"] = pruned(tensors, threshold), None
            networks[threshold, "compacted"] = compacted(checkpoint, threshold, folder)

        def point(key, qp, settings):
            name = (key, qp, *settings.values())
            if name not in points:
                nnc.compress(networks[key][0], bitstream_path=stream, qp=qp, **settings)
                decoded = {k: np.array(v) for k, v in nnc.decompress(stream).items()}
                network = networks[key][1]
                points[name] = (os.path.getsize(stream), validation(decoded, network)[0], name, decoded, settings)
                print(*points[name][:3], file=sys.stderr, flush=True)

        # Biases of folded normalizations want finer steps than those of plain layers.
        for key, qp, nonweight in itertools.product(networks, range(*QPS, 2), (-16, -32)):
            point(key, qp, {**START, "nonweight_qp": nonweight})
        # From the frontier on, one knob at a time, until none helps.
        turned = set()
        while new := [p for p in frontier(points.values()) if p[2] not in turned]:
            for _, _, name, _, settings in new:
                turned.add(name)
                key, qp = name[:2]
                for other in (qp - 1, qp + 1):
                    point(key, other, settings)
                for knob, values in KNOBS.items():
                    for value in values:
                        point(key, qp, {**settings, knob: value})
        found = frontier(points.values())
        return [(*p[:4], networks[p[2][0]][1]) for p in found], len(points)


def read_table(path):
    """What a run before has printed of the frontier."""
    with open(path) as file:
        rows = [line.split("\t") for line in file.read().split("\n\n")[0].splitlines()[1:]]
    return [(int(r[0]), float(r[1]), float(r[3]) / 100, float(r[4])) for r in rows]


@torch.no_grad()
def main(checkpoint, train_images, train_labels, test_images, test_labels, *files):
    torch.set_num_threads(int(os.environ.get("THREADS", 1)))
    tensors, network = read_checkpoint(checkpoint)
    count = int(os.environ.get("CHOOSING", 10000))
    if all(node["op"] in OPERATIONS for node in network["nodes"]):
        reference = pruned(tensors, THRESHOLDS[0])
    else:
        tensors = None
        with tempfile.TemporaryDirectory() as folder:
            reference, network = compacted(checkpoint, THRESHOLDS[0], folder)
    choosing = (read_samples(p)[-count:] for p in (train_images, train_labels))
    validation = Measure(network, reference, *choosing)
    test = Measure(network, reference, read_samples(test_images), read_samples(test_labels))
    if path := os.environ.get("FRONTIER"):
        found = read_table(path)
    else:
        best, count = sweep(checkpoint, tensors, validation)
        print("nncodec bytes\tdivergence\tsettings\ttest error %\ttest cross-entropy")
        found = []
        for size, divergence, name, decoded, network in best:
            _, error, loss = test(decoded, network)
            found.append((size, divergence, error, loss))
            settings = " ".join(map(str, (*name[0], *name[1:])))
            print(f"{size}\t{divergence:.5f}\t{settings}\t{100 * error:.2f}\t{loss:.4f}")
        _, error, loss = test(reference)
        print(f"\n{count} streams; pruned: {100 * error:.2f} %, {loss:.4f}\n")
    print("svdo bytes\tdivergence\terror %\tcross-entropy\tnncodec bytes\terror %\tcross-entropy\tsvdo over nncodec")
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            decoded = exported(file, folder)
            size, (divergence, *_), (_, error, loss) = os.path.getsize(file), validation(*decoded), test(*decoded)
            row = [size, f"{divergence:.5f}", f"{100 * error:.2f}", f"{loss:.4f}"]
            if peer := min((p for p in found if p[1] <= divergence), default=None):
                row += [peer[0], f"{100 * peer[2]:.2f}", f"{peer[3]:.4f}", f"{100 * (size / peer[0] - 1):+.1f} %"]
            print(*row, sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
