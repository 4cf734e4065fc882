#!/usr/bin/env python3
"""Trains a small vision transformer on MNIST under sparse variational dropout, from nothing to .svdo files.

    vit.py DATA OUT

DATA holds the four IDX files of MNIST, gzipped. The last 10,000 training images are held out for every choice; the
test images are read once, at the end. An image is 16 patches of 7 x 7 pixels; blocks of attention and of two
layers, normalized before (Dosovitskiy et al., arXiv 2010.11929); the mean over the patches is classified. It needs
no GPU.

1. dense: without posteriors, Adam.
2. train: posteriors around all matrices, the KL's weight rising from 0.
3. finetune, for each of --ratios: the weights of lowest log alpha that make the network so many times smaller,
   without noise, beside the labels by the dense network's outputs.
4. file: model-RATIO.safetensors, model-RATIO.svdo with weights calibrated on training images, and in result.json
   the errors.
"""

import argparse
import copy
import gzip
import json
import math
import pathlib
import time

import numpy as np
import pruned
import svdo
import svdo.torch as st
import torch
from torch import nn
from torch.nn import functional as F

HELD = 10_000
# The temperature of the dense network's outputs, and their share of the loss of fine-tuning.
TEMPERATURE, SHARE = 4.0, 0.7


class VisionTransformer(nn.Module):
    """Pixels [batch, 1, 28, 28], from 0 to 1, to logits."""

    def __init__(self, width, blocks, heads):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(x).mean(1))


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dense", type=int, default=8, help="epochs without posteriors")
    parser.add_argument("--epochs", type=int, default=10, help="epochs under sparse variational dropout")
    parser.add_argument("--finetune", type=int, default=3, help="epochs of fine-tuning")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3, help="of Adam, falling as a cosine")
    parser.add_argument("--variance-rate", type=float, default=5.0, help="factor of the rate of log sigma^2")
    parser.add_argument("--init-log-sigma2", type=float, default=-10.0)
    parser.add_argument("--kl-scale", type=float, default=1.0)
    parser.add_argument("--kl-ramp", type=float, default=0.5, help="share of the epochs in which the KL rises")
    parser.add_argument("--ratios", type=float, nargs="+", default=[8.0, 16.0], help="all weights over those kept")
    parser.add_argument("--shift", type=int, default=2, help="pixels that training images are moved by, at most")
    parser.add_argument("--images", type=int, help="train on these first images alone")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def idx(path, offset):
    with gzip.open(path) as file:
        return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=offset).copy())


def read(folder, part):
    images = idx(folder / f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)
    return images, idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).long()


class Run:
    def __init__(self, options):
        self.options = options
        images, labels = read(options.data, "train")
        last = len(images) - HELD
        last = min(last, options.images or last)
        self.images, self.labels = images[:last], labels[:last]
        self.held = images[-HELD:], labels[-HELD:]
        self.log = (options.out / "log.csv").open("w")
        print("phase,epoch,loss,held_out_error,weight_ratio,seconds", file=self.log, flush=True)

    def moved(self, rows):
        """Training images, all of a batch moved by as much."""
        x, most = self.images[rows].float() / 255, self.options.shift
        down, right = torch.randint(2 * most + 1, (2,)).tolist()
        return F.pad(x, (most,) * 4)[:, :, down : down + 28, right : right + 28]

    def epochs(self, phase, model, count, training=None, teacher=None):
        """Trains a model; with a teacher without noise."""
        options = self.options
        optimizer = torch.optim.Adam(st.parameter_groups(model), lr=options.rate)
        if training is not None:
            training.optimizer = optimizer
        for epoch in range(count):
            began = time.monotonic()
            model.train()
            if teacher is not None:
                for layer in st.posteriors(model):
                    layer.eval()
            batches = torch.randperm(len(self.images)).split(options.batch)
            losses = []
            for step, rows in enumerate(batches):
                at = epoch + step / len(batches)
                optimizer.param_groups[0]["lr"] = options.rate * (0.5 + 0.5 * math.cos(math.pi * at / count))
                x, target = self.moved(rows), self.labels[rows]
                if training is not None:
                    training.begin(at)
                output = model(x)
                loss = F.cross_entropy(output, target)
                if training is not None:
                    loss = loss + training.penalty()
                if teacher is not None:
                    with torch.no_grad():
                        wanted = teacher(x)
                    loss = (1 - SHARE) * loss + SHARE * st.distillation(output, wanted, TEMPERATURE)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            ratio = 1.0
            if training is not None:
                layers = training.end(epoch)
                ratio = sum(l.total for l in layers) / max(sum(l.kept for l in layers), 1)
            elif teacher is not None:
                kept, total = pruned.kept(model)
                ratio = total / kept
            held, loss, seconds = error(model, *self.held), np.mean(losses), time.monotonic() - began
            print(f"{phase}, epoch {epoch + 1} of {count}: loss {loss:.4f}, held-out error {100 * held:.2f} %, "
                  f"{ratio:.1f} times fewer weights, {seconds:.1f} s", flush=True)
            print(f"{phase},{epoch + 1},{loss:.5f},{held:.4f},{ratio:.2f},{seconds:.1f}", file=self.log, flush=True)


@torch.no_grad()
def error(model, images, labels):
    model.eval()
    parts = zip(images.split(1000), labels.split(1000))
    return sum((model(x.float() / 255).argmax(1) != y).sum().item() for x, y in parts) / len(labels)


def main(arguments=None):
    options = parsed(arguments)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if (out / "result.json").exists():
        print(f"{out}/result.json is there: the test images are read once")
        return
    torch.manual_seed(options.seed)
    began = time.process_time()
    run = Run(options)
    dense = VisionTransformer(options.width, options.blocks, options.heads)
    run.epochs("dense", dense, options.dense)
    dense.eval().requires_grad_(False)
    model = st.convert(copy.deepcopy(dense).requires_grad_(True), init_log_sigma2=options.init_log_sigma2)
    schedule = st.Schedule(
        ramp=options.kl_ramp * options.epochs, scale=options.kl_scale, rates=((0.0, options.variance_rate),))
    run.epochs("train", model, options.epochs, st.Training(model, len(run.images), schedule))
    trained = {"held_out": error(model, *run.held)}

    calibration = run.images[:10_000].numpy()
    files = {}
    for ratio in options.ratios:
        left = copy.deepcopy(model)
        threshold = pruned.prune_to(left, ratio)
        print(f"threshold {threshold:.2f}: held-out error {100 * error(left, *run.held):.2f} %", flush=True)
        run.epochs(f"finetune-{ratio:g}", left, options.finetune, teacher=dense)
        pruned.restore(left, threshold)
        path = out / f"model-{ratio:g}.safetensors"
        st.save(left, path, (1, 28, 28), scale=1 / 255)
        report = svdo.compress(path, threshold, output=path.with_suffix(".svdo"), strip=True, calibrate=calibration)
        print(report)
        files[ratio] = left, svdo.load(report.data), len(report.data), threshold

    # The one look at the test images.
    test = read(options.data, "t10k")
    kept, total = pruned.kept(model)
    result = {"weights": total, "held_out": {"dense": error(dense, *run.held), "trained": trained["held_out"]}}
    result["test"] = {"dense": error(dense, *test)}
    for ratio, (left, compressed, size, threshold) in files.items():
        kept, _ = pruned.kept(left)
        one = {"kept": kept, "weight_ratio": total / kept, "bytes": size, "threshold": threshold}
        for name, (images, labels) in (("held_out", run.held), ("test", test)):
            outputs = compressed(images.numpy().astype(np.float32))
            wrong = outputs.reshape(len(labels), -1).argmax(1) != labels.numpy()
            one[name] = {"pruned": error(left, images, labels), "file": float(wrong.mean())}
        result[f"{ratio:g}"] = one
    result["cpu_seconds"] = time.process_time() - began
    result["settings"] = {k: v for k, v in vars(options).items() if k not in ("data", "out")}
    (out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
