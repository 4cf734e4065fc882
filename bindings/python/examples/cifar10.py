#!/usr/bin/env python3
"""Trains a network on CIFAR-10 under sparse variational dropout, from nothing to a .svdo file.

    cifar10.py DATA OUT --network vgg-like

DATA holds the binary version of CIFAR-10 (data_batch_1.bin to data_batch_5.bin, test_batch.bin; 162 MB from
https://www.cs.toronto.edu/~kriz/cifar.html). One tenth of the training images, 5,000, is held out for every
choice; the test images are read once, at the end. OUT gets the state after each epoch, so that the same command
goes on where it was stopped (--seconds stops it); log.csv; then model.safetensors, model.svdo and result.json.

1. Training with the KL's weight rising from 0 (--kl-scale, or steered to --target-sparsity).
2. The threshold on log alpha that prunes most, of those whose error on the held-out images is within --slack of
   the lowest, each with batch statistics measured again.
3. Fine-tuning of the weights that are left, without noise and without the KL.
4. Batch statistics again, compression with calibration, the error of the file on the test images.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np
import svdo
import svdo.torch as st
import torch
from networks import NETWORKS
from torch.nn import functional as F

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
THRESHOLDS = (0.0, 1.0, 2.0, 3.0, 4.0)


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--network", choices=NETWORKS, default="vgg-like")
    parser.add_argument("--width", type=float, default=1.0, help="factor of all channels")
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--finetune", type=int, default=30, help="epochs of fine-tuning")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3, help="of Adam, falling from half of the epochs on")
    parser.add_argument("--variance-rate", type=float, default=4.0, help="factor of the rate of log sigma^2")
    parser.add_argument("--kl-scale", type=float, default=0.3)
    parser.add_argument("--kl-delay", type=float, default=0.1, help="share of the epochs before the KL")
    parser.add_argument("--kl-ramp", type=float, default=0.4, help="share of the epochs in which it rises")
    parser.add_argument("--target-sparsity", type=float)
    parser.add_argument("--slack", type=float, default=0.003, help="error that a threshold may cost")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after the epoch in which these have passed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def read(folder, names, device):
    """Images u8 [n, 3, 32, 32] and labels."""
    records = []
    for name in names:
        records.append(np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(-1, 3073))
    records = torch.from_numpy(np.concatenate(records)).to(device)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def counts(layers):
    """Weights that are kept, and all."""
    return sum(layer.kept for layer in layers), sum(layer.total for layer in layers)


class Run:
    def __init__(self, options):
        self.options, self.device = options, torch.device(options.device)
        images, labels = read(options.data, [f"data_batch_{i}.bin" for i in range(1, 6)], self.device)
        held = len(images) // 10
        self.images, self.labels = images[:-held], labels[:-held]
        self.held = images[-held:], labels[-held:]
        self.on_gpu = self.device.type == "cuda"
        self.format = torch.channels_last if self.on_gpu else torch.contiguous_format
        shape = (1, 3, 1, 1)
        self.mean, self.std = (torch.tensor(v, device=self.device).view(shape) for v in (MEAN, STD))
        self.padded = F.pad(self.images, (4,) * 4)
        torch.manual_seed(options.seed)
        model = st.convert(NETWORKS[options.network](options.width))
        self.model = model.to(self.device, memory_format=self.format)
        self.epoch, self.phase, self.choice = 0, "train", None
        self.prepare()

    def prepare(self):
        """The optimizer of a phase, and what goes with it."""
        options = self.options
        fused = {"fused": True} if self.on_gpu else {}
        groups = st.parameter_groups(self.model, lr=options.rate)
        self.optimizer = torch.optim.Adam(groups, **fused)
        epochs, scale = options.epochs, options.kl_scale if self.phase == "train" else 0.0
        delay, ramp = options.kl_delay * epochs, options.kl_ramp * epochs
        rates = ((0.0, options.variance_rate),)
        schedule = st.Schedule(ramp=ramp, delay=delay, scale=scale, rates=rates)
        self.training = st.Training(
            self.model, len(self.images), schedule, optimizer=self.optimizer,
            target_sparsity=options.target_sparsity, csv=options.out / "log.csv",
        )

    def normalized(self, images):
        x = (images.float() / 255 - self.mean) / self.std
        return x.contiguous(memory_format=self.format)

    def batch(self, rows):
        """Images shifted by up to 4 pixels and mirrored at random."""
        shape, device = (len(rows), 1), self.device
        steps = torch.arange(32, device=device)
        down, right = (torch.randint(9, shape, device=device) for _ in range(2))
        mirrored = torch.rand(shape, device=device) < 0.5
        across = torch.where(mirrored, steps.flip(0), steps) + right
        down = (steps + down)[:, None, :, None]
        channels = torch.arange(3, device=device)[None, :, None, None]
        return self.normalized(self.padded[rows[:, None, None, None], channels, down, across[:, None, None]])

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu)

    def train_epoch(self):
        """One pass over the training images; gives the mean loss."""
        train, options = self.phase == "train", self.options
        # The rate falls from half of the epochs on; that of fine-tuning is lower and falls at once.
        of, rate, steady = options.epochs, options.rate, 0.5
        if not train:
            of, rate, steady = options.finetune, 0.3 * options.rate, 0.0
        self.model.train()
        if not train:
            # Without noise: as in evaluation mode, but for batch normalization.
            for layer in st.posteriors(self.model):
                layer.eval()
        losses = []
        batches = torch.randperm(len(self.images), device=self.device).split(options.batch)
        # Batch statistics of a single image say nothing.
        batches = [rows for rows in batches if len(rows) > 1]
        for step, rows in enumerate(batches):
            at = self.epoch + step / len(batches)
            fall = min(1.0, max(0.002, (1 - at / of) / (1 - steady)))
            self.optimizer.param_groups[0]["lr"] = rate * fall
            self.training.begin(at)
            with self.autocast():
                output = self.model(self.batch(rows))
            loss_of = self.training.loss if train else F.cross_entropy
            loss = loss_of(output.float(), self.labels[rows])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    @torch.no_grad()
    def error(self, images, labels):
        self.model.eval()
        wrong = 0
        for x, target in zip(images.split(1000), labels.split(1000)):
            wrong += (self.model(self.normalized(x)).argmax(1) != target).sum().item()
        return wrong / len(labels)

    def recalibrate(self):
        rows = torch.randperm(len(self.images), device=self.device)[:20_000]
        with self.autocast():
            st.recalibrate(self.model, (self.batch(some) for some in rows.split(500) if len(some) > 1))

    def set_threshold(self, threshold):
        for layer in st.posteriors(self.model):
            layer.thresh = threshold

    def choose(self):
        """The threshold, by the held-out images."""
        tried = []
        for threshold in THRESHOLDS:
            self.set_threshold(threshold)
            self.recalibrate()
            tried.append((threshold, counts(st.stats(self.model))[0], self.error(*self.held)))
        best = min(error for *_, error in tried)
        chosen = min(t for t in tried if t[2] <= best + self.options.slack and t[1] > 0)
        self.set_threshold(chosen[0])
        st.prune_(self.model)
        self.choice = {"threshold": chosen[0], "tried": tried}
        print(f"thresholds, weights kept, held-out error: {tried}; chosen {chosen[0]}", flush=True)

    def save(self):
        state = {name: getattr(self, name) for name in ("epoch", "phase", "choice")}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"training": self.training.state_dict(), "settings": settings(self.options)}
        state |= {"random": torch.get_rng_state()}
        if self.on_gpu:
            state["random_gpu"] = torch.cuda.get_rng_state()
        path = self.options.out / "state.pt"
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self):
        path = self.options.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=False)
        if state["settings"] != settings(self.options):
            sys.exit(f"{path} is of other settings, {state['settings']}: give those, or another folder")
        self.epoch, self.phase, self.choice = (state[name] for name in ("epoch", "phase", "choice"))
        self.model.load_state_dict(state["model"])
        if self.choice is not None:
            # What was pruned then is zero now, and nothing else is to stay so.
            self.set_threshold(1e9)
            st.prune_(self.model)
            self.set_threshold(self.choice["threshold"])
        self.prepare()
        self.optimizer.load_state_dict(state["optimizer"])
        self.training.load_state_dict(state["training"])
        torch.set_rng_state(state["random"].cpu())
        if self.on_gpu:
            torch.cuda.set_rng_state(state["random_gpu"].cpu())

    def go(self):
        """Goes on until all is done (True) or the time is over."""
        start = time.monotonic()
        self.resume()
        of = {"train": self.options.epochs, "finetune": self.options.finetune}
        while self.phase != "done":
            if self.epoch < of[self.phase]:
                loss = self.train_epoch()
                held = self.error(*self.held)
                layers = self.training.end(self.epoch, loss=loss, held_out_error=held)
                self.epoch += 1
                kept, total = counts(layers)
                print(f"{self.phase} {self.epoch}: loss {loss:.4f}, held-out error {100 * held:.2f} %, "
                      f"{total / max(kept, 1):.1f} times fewer weights", flush=True)
            if self.epoch == of[self.phase]:
                if self.phase == "train":
                    self.choose()
                self.phase, self.epoch = ("finetune" if self.phase == "train" else "done"), 0
                self.prepare()
            self.save()
            if self.options.seconds is not None and time.monotonic() - start > self.options.seconds:
                return self.phase == "done" and self.finish()
        return self.finish()

    def finish(self):
        """The files, and the one look at the test images."""
        out = self.options.out
        if (out / "result.json").exists():
            print(f"{out}/result.json is there: the test images are read once")
            return True
        self.recalibrate()
        kept, total = counts(st.stats(self.model))
        model = self.model.to("cpu", memory_format=torch.contiguous_format).eval()
        checkpoint, threshold = out / "model.safetensors", self.choice["threshold"]
        st.save(model, checkpoint, (3, 32, 32), scale=1 / 255, mean=MEAN, std=STD)
        held = [part.cpu().numpy() for part in self.held]
        some = self.images[:4000].cpu().numpy().astype(np.float32)
        report = svdo.compress(
            checkpoint, threshold, output=out / "model.svdo", strip=True, calibrate=some,
            validate=(held[0].astype(np.float32), held[1]),
        )
        print(report)
        images, labels = read(self.options.data, ["test_batch.bin"], "cpu")
        outputs = svdo.load(report.data)(images.numpy().astype(np.float32))
        error = float((outputs.argmax(1) != labels.numpy()).mean())
        result = {"test_error": error, "held_out_error": report.validation.error_rate}
        result |= {"bytes": len(report.data), "weights": total, "kept": kept, "weight_ratio": total / max(kept, 1)}
        result |= {**self.choice, **settings(self.options)}
        (out / "result.json").write_text(json.dumps(result, indent=1))
        print(json.dumps(result))
        return True


def settings(options):
    """What a state must agree in."""
    free = ("data", "out", "seconds", "device")
    return {name: value for name, value in vars(options).items() if name not in free}


def main(arguments=None):
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    return Run(options).go()


if __name__ == "__main__":
    if not main():
        print("not done: the same command goes on")
