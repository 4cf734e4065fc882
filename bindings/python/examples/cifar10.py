#!/usr/bin/env python3
"""Trains a network on CIFAR-10 under sparse variational dropout, from nothing to .svdo files.

    cifar10.py DATA OUT --network vgg-like

DATA holds the binary version of CIFAR-10 (data_batch_1.bin to data_batch_5.bin, test_batch.bin; 162 MB from
https://www.cs.toronto.edu/~kriz/cifar.html). One tenth of the training images, 5,000, is held out for every
choice; the test images are read once for each file, at the end. OUT gets the state as the training goes on, so
that the same command continues where it was stopped (--seconds stops it), and log.csv.

1. dense: the network without posteriors (SGD), which is the teacher later.
2. train: posteriors around its weights (Adam), the KL's weight rising from 0 to --kl-scale.
3. finetune, for each of --ratios: the weights of lowest log alpha that make the network so many times smaller,
   trained on without noise (SGD), beside the labels by the teacher's outputs; batch statistics measured again.
   pruned-RATIO.npz is what is left, of a few MB. For --magnitude, the largest weights of the dense network
   instead, trained on in the same way: what step 2 is compared to.
4. file: pruned-RATIO.safetensors, pruned-RATIO.svdo with calibrated weights, and in result.json the errors of the
   files on held-out and test images. It needs no GPU: --no-file leaves it out, and the same command on another
   machine, with what stands in OUT but the state, does it.
"""

import argparse
import copy
import json
import math
import os
import pathlib
import sys
import time

import numpy as np
import pruned
import svdo
import svdo.torch as st
import torch
from graphed import Graphed
from networks import NETWORKS
from torch.nn import functional as F

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
# Momentum and decay of SGD, and the temperature of the teacher's outputs.
MOMENTUM, DECAY, TEMPERATURE = 0.9, 5e-4, 4.0


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--network", choices=NETWORKS, default="vgg-like")
    parser.add_argument("--width", type=float, default=1.0, help="factor of all channels")
    parser.add_argument("--dense", type=int, default=60, help="epochs without posteriors")
    parser.add_argument("--epochs", type=int, default=60, help="epochs under sparse variational dropout")
    parser.add_argument("--finetune", type=int, default=50, help="epochs of fine-tuning")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dense-rate", type=float, default=0.1, help="of SGD, at its highest")
    parser.add_argument("--rate", type=float, default=5e-4, help="of Adam, falling as a cosine")
    parser.add_argument("--variance-rate", type=float, default=10.0, help="factor of the rate of log sigma^2")
    parser.add_argument("--finetune-rate", type=float, default=0.05, help="of SGD, at its highest")
    parser.add_argument("--init-log-sigma2", type=float, default=-15.0)
    parser.add_argument("--kl-scale", type=float, default=0.3)
    parser.add_argument("--kl-ramp", type=float, default=0.4, help="share of the epochs in which the KL rises")
    parser.add_argument("--ratios", type=float, nargs="+", default=[64.0], help="all weights over those kept")
    parser.add_argument("--magnitude", type=float, nargs="*", default=[], help="ratios of pruning by magnitude")
    parser.add_argument("--teacher", type=float, default=0.7, help="the teacher's share of fine-tuning's loss")
    parser.add_argument("--cutout", type=int, default=8, help="pixels of the square that step 1 leaves out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after the epoch in which these have passed")
    parser.add_argument("--save-every", type=int, default=20, help="epochs from one state to the next")
    parser.add_argument("--no-file", action="store_true", help="end before step 4")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def read(folder, names, device):
    """Images u8 [n, 3, 32, 32] and labels."""
    records = np.concatenate([np.fromfile(folder / name, np.uint8).reshape(-1, 3073) for name in names])
    records = torch.from_numpy(records).to(device)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


class Data:
    """Training images that are shifted, mirrored and partly left out on the device, and held-out ones."""

    def __init__(self, options):
        self.device = torch.device(options.device)
        self.on_gpu = self.device.type == "cuda"
        self.format = torch.channels_last if self.on_gpu else torch.contiguous_format
        images, labels = read(options.data, [f"data_batch_{i}.bin" for i in range(1, 6)], self.device)
        held = len(images) // 10
        self.images, self.labels = images[:-held], labels[:-held]
        self.held = images[-held:], labels[-held:]
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        self.padded = F.pad(self.images, (4,) * 4)

    def normalized(self, images):
        x = (images.float() / 255 - self.mean) / self.std
        return x.contiguous(memory_format=self.format)

    def batch(self, rows, cutout=0):
        """Images shifted by up to 4 pixels and mirrored at random, a square of each at the mean."""
        count, device = len(rows), self.device
        steps = torch.arange(32, device=device)
        down, right = (torch.randint(9, (count, 1), device=device) for _ in range(2))
        mirrored = torch.rand((count, 1), device=device) < 0.5
        across = torch.where(mirrored, steps.flip(0), steps) + right
        down = (steps + down)[:, None, :, None]
        channels = torch.arange(3, device=device)[None, :, None, None]
        x = self.normalized(self.padded[rows[:, None, None, None], channels, down, across[:, None, None]])
        if cutout:
            top, left = (torch.randint(33 - cutout, (count, 1), device=device) for _ in range(2))
            high, wide = ((steps >= at) & (steps < at + cutout) for at in (top, left))
            x = x.masked_fill((high[:, :, None] & wide[:, None, :])[:, None], 0.0)
        return x

    def autocast(self):
        # Without its cache, which would not outlive the capture of a graph.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu, cache_enabled=False)


class Run:
    def __init__(self, options):
        self.options, self.data = options, Data(options)
        torch.manual_seed(options.seed)
        self.network = self.placed(NETWORKS[options.network](options.width))
        # With posteriors, and what pruning left of it.
        self.model, self.left = None, None
        # The phases, each with its epochs.
        self.phases = [("dense", options.dense), ("train", options.epochs)]
        self.phases += [(name, options.finetune) for name in pruned_names(options)]
        self.at, self.epoch, self.threshold = 0, 0, None

    def placed(self, model):
        return model.to(self.data.device, memory_format=self.data.format)

    def phase(self):
        return self.phases[self.at][0] if self.at < len(self.phases) else "file"

    def prepare(self):
        """What a phase trains, by what optimizer and what step."""
        options, phase, gpu = self.options, self.phase(), self.data.on_gpu
        self.training = None
        self.fine = phase not in ("dense", "train")

        def rate(value):
            return torch.tensor(value, device=self.data.device) if gpu else value

        self.trained = {"dense": self.network, "train": self.model}.get(phase, self.left)
        if phase == "train":
            self.highest = options.rate
            groups = st.parameter_groups(self.model)
            for group in groups:
                group["lr"] = rate(options.rate)
            self.optimizer = torch.optim.Adam(groups, fused=gpu, capturable=gpu)
            schedule = st.Schedule(
                ramp=options.kl_ramp * options.epochs, scale=options.kl_scale,
                rates=((0.0, options.variance_rate),),
            )
            self.training = st.Training(
                self.model, len(self.data.images), schedule, optimizer=self.optimizer, capturable=gpu,
            )
        else:
            self.highest = options.dense_rate if phase == "dense" else options.finetune_rate
            self.optimizer = torch.optim.SGD(
                [p for n, p in self.trained.named_parameters() if not n.endswith("log_sigma2")],
                lr=rate(self.highest), momentum=MOMENTUM, nesterov=True, weight_decay=DECAY, fused=gpu,
            )
        self.step = Graphed(self.one_step, enabled=gpu)

    def one_step(self, rows):
        phase = self.phase()
        labels = self.data.labels[rows]
        x = self.data.batch(rows, self.options.cutout if phase == "dense" else 0)
        with self.data.autocast():
            output = self.trained(x)
            if self.fine:
                with torch.no_grad():
                    wanted = self.network(x)
        output = output.float()
        loss = F.cross_entropy(output, labels)
        if phase == "train":
            loss = loss + self.training.penalty()
        elif self.fine:
            share = self.options.teacher
            loss = (1 - share) * loss + share * st.distillation(output, wanted, TEMPERATURE)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss

    def set_rate(self, at):
        """A tenth of the epochs up, then down as a cosine; Adam begins at its highest."""
        of = max(self.phases[self.at][1], 1)
        share = min(at / of, 1.0)
        rise = 1.0 if self.training is not None else min(1.0, share / 0.1 + 0.02)
        value = self.highest * rise * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in self.optimizer.param_groups[:1]:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        if self.training is not None:
            self.training.begin(at)

    def train_epoch(self):
        """One pass over the training images; gives the mean loss."""
        self.trained.train()
        if self.trained is self.left:
            # Without noise.
            for layer in st.posteriors(self.left):
                layer.eval()
        size, count = self.options.batch, len(self.data.images)
        order = torch.randperm(count, device=self.data.device)
        # Steps of one size; the images that are left have their turn in another epoch.
        batches = order[: max(count // size, 1) * size].split(size)
        losses = []
        for step, rows in enumerate(batches):
            self.set_rate(self.epoch + step / len(batches))
            losses.append(self.step(rows))
        return torch.stack(losses).mean().item()

    @torch.no_grad()
    def error(self, model):
        """On the held-out images."""
        model.eval()
        wrong = 0
        for x, target in zip(*(part.split(1000) for part in self.data.held)):
            wrong += (model(self.data.normalized(x)).argmax(1) != target).sum().item()
        return wrong / len(self.data.held[1])

    def recalibrate(self, model):
        rows = torch.randperm(len(self.data.images), device=self.data.device)[:20_000]
        with self.data.autocast():
            st.recalibrate(model, (self.data.batch(some) for some in rows.split(500) if len(some) > 1))

    def begin_phase(self):
        """What stands between two phases."""
        phase = self.phase()
        if phase == "train":
            # The teacher from now on.
            self.network.eval().requires_grad_(False)
            self.model = self.with_posteriors()
        elif phase != "file":
            # By one variance for all, log alpha falls as the magnitude rises.
            self.left = self.with_posteriors() if "magnitude" in phase else copy.deepcopy(self.model)
            self.threshold = pruned.prune_to(self.left, float(phase.split("-")[-1]))
            self.recalibrate(self.left)
            error = self.error(self.left)
            print(f"{phase}: threshold {self.threshold:.2f}, held-out error {100 * error:.2f} %", flush=True)
        if phase != "file":
            self.prepare()

    def with_posteriors(self):
        model = copy.deepcopy(self.network).requires_grad_(True)
        return self.placed(st.convert(model, init_log_sigma2=self.options.init_log_sigma2))

    def end_phase(self):
        """Writes what a fine-tuned network is made of."""
        if self.fine:
            phase = self.phase()
            self.recalibrate(self.left)
            print(f"{phase}: held-out error {100 * self.error(self.left):.2f} %", flush=True)
            done = copy.deepcopy(self.left)
            pruned.restore(done, self.threshold)
            pruned.write(done, self.threshold, self.options.out / f"{phase}.npz")

    def save(self):
        state = {name: getattr(self, name) for name in ("at", "epoch", "threshold")}
        state |= {"settings": settings(self.options)}
        parts = ("network", "model", "left", "optimizer")
        state |= {n: part.state_dict() for n in parts if (part := getattr(self, n)) is not None}
        state |= {"random": torch.get_rng_state()}
        if self.data.on_gpu:
            state["random_gpu"] = torch.cuda.get_rng_state()
        path = self.options.out / "state.pt"
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self):
        path = self.options.out / "state.pt"
        if not path.exists():
            self.prepare()
            return
        state = torch.load(path, map_location=self.data.device, weights_only=False)
        if state["settings"] != settings(self.options):
            sys.exit(f"{path} is of other settings, {state['settings']}: give those, or another folder")
        for name in ("at", "epoch", "threshold"):
            setattr(self, name, state[name])
        self.network.load_state_dict(state["network"])
        if self.at > 0:
            self.network.eval().requires_grad_(False)
            self.model = self.with_posteriors()
            self.model.load_state_dict(state["model"])
        if self.at > 1 and self.phase() != "file":
            self.left = copy.deepcopy(self.model)
            self.left.load_state_dict(state["left"])
            for layer in st.posteriors(self.left):
                layer.thresh = 1e9
            pruned.keep_zeros(self.left, self.threshold)
        if self.phase() != "file":
            self.prepare()
            self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if self.data.on_gpu:
            torch.cuda.set_rng_state(state["random_gpu"].cpu())

    def go(self):
        """Goes on until all is trained (True) or the time is over."""
        start, out = time.monotonic(), self.options.out
        if all((out / f"{name}.npz").exists() for name in pruned_names(self.options)):
            return True
        self.resume()
        while self.at < len(self.phases):
            phase, of = self.phases[self.at]
            if self.epoch < of:
                began = time.monotonic()
                loss = self.train_epoch()
                seconds = time.monotonic() - began
                held = self.error(self.trained)
                ratio = 1.0
                if phase == "train":
                    layers = self.training.end(self.epoch)
                    ratio = sum(l.total for l in layers) / max(sum(l.kept for l in layers), 1)
                elif self.fine:
                    kept, total = pruned.kept(self.left)
                    ratio = total / kept
                self.epoch += 1
                print(f"{phase}, epoch {self.epoch} of {of}: loss {loss:.4f}, held-out error "
                      f"{100 * held:.2f} %, {ratio:.1f} times fewer weights, {seconds:.2f} s", flush=True)
                self.log(phase, loss, held, ratio)
            if self.epoch >= of:
                self.end_phase()
                self.at, self.epoch = self.at + 1, 0
                self.begin_phase()
            over = self.options.seconds is not None and time.monotonic() - start > self.options.seconds
            if over or self.at < len(self.phases) and self.epoch % self.options.save_every == 0:
                self.save()
            if over:
                return self.at == len(self.phases)
        return True

    def log(self, phase, loss, held, ratio):
        path = self.options.out / "log.csv"
        header = "" if path.exists() else "phase,epoch,loss,held_out_error,weight_ratio\n"
        with path.open("a") as file:
            file.write(f"{header}{phase},{self.epoch},{loss:.5f},{held:.5f},{ratio:.2f}\n")


def files(options):
    """The files of the networks that are left, and the one look at the test images."""
    out = options.out
    path = out / "result.json"
    results = json.loads(path.read_text()) if path.exists() else []
    data = Data(argparse.Namespace(**{**vars(options), "device": "cpu"}))
    for name in pruned_names(options):
        if any(result["network"] == name for result in results):
            print(f"{path} has the errors of {name}: the test images are read once")
            continue
        model = st.convert(NETWORKS[options.network](options.width)).eval()
        threshold = pruned.read(model, out / f"{name}.npz")
        checkpoint = out / f"{name}.safetensors"
        st.save(model, checkpoint, (3, 32, 32), scale=1 / 255, mean=MEAN, std=STD)
        held = data.held[0].numpy().astype(np.float32), data.held[1].numpy()
        report = svdo.compress(
            checkpoint, threshold, output=out / f"{name}.svdo", strip=True,
            calibrate=data.images[:1000].numpy().astype(np.float32), validate=held,
        )
        print(report)
        images, labels = read(options.data, ["test_batch.bin"], "cpu")
        outputs = svdo.load(report.data)(images.numpy().astype(np.float32))
        kept, total = pruned.kept(model)
        result = {"network": name, "test_error": float((outputs.argmax(1) != labels.numpy()).mean())}
        result |= {"held_out_error": report.validation.error_rate, "bytes": len(report.data)}
        result |= {"weights": total, "kept": kept, "weight_ratio": total / kept, "threshold": threshold}
        results.append(result | {"settings": settings(options)})
        path.write_text(json.dumps(results, indent=1))
        print(json.dumps(result))


def pruned_names(options):
    """Those of the networks that are left."""
    ratios = [f"pruned-{ratio:g}" for ratio in options.ratios]
    return ratios + [f"magnitude-{ratio:g}" for ratio in options.magnitude]


def settings(options):
    """What a state must agree in."""
    free = ("data", "out", "seconds", "save_every", "no_file", "device")
    return {name: value for name, value in vars(options).items() if name not in free}


def main(arguments=None):
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    if not Run(options).go():
        return False
    if not options.no_file:
        files(options)
    return True


if __name__ == "__main__":
    if not main():
        print("not done: the same command goes on")
