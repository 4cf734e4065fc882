"""NNCodec with all its knobs turned, beside svdo: thresholds, layers as they are or without their dead
units, qp, opt_qp, nonweight_qp, lambda_scale, row skipping, with dependent quantization and without. Every
choice is made on training images that neither side was fitted on, by the divergence of the outputs from the
pruned network's; the test set is read once, for what was chosen. Prints the frontier of NNCodec, then of each
svdo file the smallest NNCodec stream that changes the outputs no more, as tab-separated values.
    nncodec_tuned.py CHECKPOINT TRAIN-IMAGES TRAIN-LABELS TEST-IMAGES TEST-LABELS FILE.svdo ...
svdo is $SVDO; the last 10,000 training images choose, or as many as $CHOOSING says; $THRESHOLDS, separated by
spaces, are tried."""
import itertools
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from nncodec import nnc

from nncodec_frontier import pruned, read_checkpoint, read_idx, run

THRESHOLDS = [float(t) for t in os.environ.get("THRESHOLDS", "3 2.5 2 1.5 1 0.5 0").split()]
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
    file, dense = os.path.join(folder, "c.svdo"), os.path.join(folder, "c.safetensors")
    svdo = os.environ["SVDO"]
    exact = [svdo, "compress", checkpoint, "--thresh", str(threshold), "--quantize", "exact", "-o", file]
    subprocess.run(exact, check=True, capture_output=True)
    return exported(file, dense)


def exported(file, dense):
    subprocess.run([os.environ["SVDO"], "export", file, "-o", dense], check=True, capture_output=True)
    return read_checkpoint(dense)[0]


class Measure:
    """What a network does to the outputs on some samples."""

    def __init__(self, network, reference, images, labels):
        self.network, self.images = network, images
        self.labels = torch.tensor(labels.astype(np.int64))
        self.reference = F.log_softmax(run(network, reference, images), 1)

    def __call__(self, tensors):
        outputs = F.log_softmax(run(self.network, tensors, self.images), 1)
        divergence = F.kl_div(outputs, self.reference, log_target=True, reduction="batchmean").item()
        error = (outputs.argmax(1) != self.labels).float().mean().item()
        return divergence, error, F.nll_loss(outputs, self.labels).item()


def frontier(points):
    found, least = [], float("inf")
    for point in sorted(points, key=lambda p: p[:2]):
        if point[1] < least:
            least = point[1]
            found.append(point)
    return found


@torch.no_grad()
def main(checkpoint, train_images, train_labels, test_images, test_labels, *files):
    torch.set_num_threads(int(os.environ.get("THREADS", 1)))
    tensors, network = read_checkpoint(checkpoint)
    count = int(os.environ.get("CHOOSING", 10000))
    reference = pruned(tensors, 3.0)
    choosing = (read_idx(p)[-count:] for p in (train_images, train_labels))
    validation = Measure(network, reference, *choosing)
    test = Measure(network, reference, read_idx(test_images), read_idx(test_labels))
    _, start_error, start_loss = test(reference)
    with tempfile.TemporaryDirectory() as folder:
        stream = os.path.join(folder, "stream.nnc")
        networks, points = {}, {}
        for threshold in THRESHOLDS:
            networks[threshold, "raw"] = pruned(tensors, threshold)
            networks[threshold, "compacted"] = compacted(checkpoint, threshold, folder)

        def point(key, qp, settings):
            name = (key, qp, *settings.values())
            if name not in points:
                nnc.compress(networks[key], bitstream_path=stream, qp=qp, **settings)
                decoded = {k: np.array(v) for k, v in nnc.decompress(stream).items()}
                size = os.path.getsize(stream)
                points[name] = (size, validation(decoded)[0], name, decoded, settings)

        for key, qp in itertools.product(networks, range(-30, -7, 2)):
            point(key, qp, START)
        # From the frontier on, one knob at a time, until none helps.
        turned = set()
        while True:
            new = [p for p in frontier(points.values()) if p[2] not in turned]
            if not new:
                break
            for _, _, name, _, settings in new:
                turned.add(name)
                key, qp = name[:2]
                for other in (qp - 1, qp + 1):
                    point(key, other, settings)
                for knob, values in KNOBS.items():
                    for value in values:
                        point(key, qp, {**settings, knob: value})
        best = frontier(points.values())
        print("nncodec bytes\tdivergence\tsettings\ttest error %\ttest cross-entropy")
        found = []
        for size, divergence, name, decoded, _ in best:
            _, error, loss = test(decoded)
            found.append((size, divergence, error, loss))
            settings = " ".join(map(str, (*name[0], *name[1:])))
            print(f"{size}\t{divergence:.5f}\t{settings}\t{100 * error:.2f}\t{loss:.4f}")
        print(f"\n{len(points)} streams; pruned: {100 * start_error:.2f} %, {start_loss:.4f}")
        print("\nsvdo bytes\tdivergence\ttest error %\ttest cross-entropy\tnncodec bytes\tits error %\tits cross-entropy\tsvdo over nncodec")
        for file in files:
            decoded = exported(file, os.path.join(folder, "x.safetensors"))
            ours, (divergence, *_), (_, error, loss) = os.path.getsize(file), validation(decoded), test(decoded)
            row = [ours, f"{divergence:.5f}", f"{100 * error:.2f}", f"{loss:.4f}"]
            peer = min((p for p in found if p[1] <= divergence), default=None)
            if peer:
                row += [peer[0], f"{100 * peer[2]:.2f}", f"{peer[3]:.4f}", f"{100 * (ours / peer[0] - 1):+.1f} %"]
            print(*row, sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
