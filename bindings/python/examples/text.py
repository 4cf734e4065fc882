#!/usr/bin/env python3
"""Trains a language model of characters, an LSTM, under sparse variational dropout, from a text to a .svdo file.

    text.py TEXT OUT

TEXT is a plain text of some MB: the King James Bible, say, by `apt-get install bible-kjv` and
`bible -f -l72 gen1:1-rev22:21 > TEXT`. Its last tenth is held out for every choice (first half) and for the test
(second half), which is read once. Training goes on from character to character through --batch pieces of the
text, in windows of --window.

1. dense: without posteriors, Adam; of its epochs, and of those of fine-tuning, the best on what is held out stays.
2. train: posteriors around its weights, one sample of them for each window, the KL's weight rising from 0.
3. finetune: the weights of lowest log alpha that make the network --ratio times smaller, without noise, beside
   the text by the dense network's outputs.
   pruned.npz is what is left, dense.npz what was.
4. file: model.safetensors, model.svdo, and in result.json the perplexities (of one character) of the dense
   network, of the pruned one and of the file, all in windows of 2,048 that begin without a state. It needs no
   GPU: --no-file leaves it out, and the same command on another machine does it.
"""

import argparse
import copy
import json
import math
import pathlib
import time

import numpy as np
import pruned
import svdo
import svdo.torch as st
import torch
from graphed import Graphed
from torch import nn
from torch.nn import functional as F

MEASURED = 2048
# The temperature of the dense network's outputs, and their share of the loss of fine-tuning.
TEMPERATURE, SHARE = 2.0, 0.5


class Characters(nn.Module):
    """Characters [batch, time] to logits of the next ones, [batch, time, characters]."""

    def __init__(self, characters, units, embedded=64):
        super().__init__()
        self.embedding = nn.Embedding(characters, embedded)
        self.lstm = nn.LSTM(embedded, units, batch_first=True)
        self.output = nn.Linear(units, characters)

    def forward(self, ids):
        return self.run(ids, None)[0]

    def run(self, ids, states):
        hidden, states = self.lstm(self.embedding(ids), states)
        return self.output(hidden), states


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--dense", type=int, default=16, help="epochs without posteriors")
    parser.add_argument("--epochs", type=int, default=24, help="epochs under sparse variational dropout")
    parser.add_argument("--finetune", type=int, default=12, help="epochs of fine-tuning")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3, help="of Adam, falling as a cosine in each step")
    parser.add_argument("--variance-rate", type=float, default=5.0, help="factor of the rate of log sigma^2")
    parser.add_argument("--init-log-sigma2", type=float, default=-10.0)
    parser.add_argument("--kl-scale", type=float, default=1.0)
    parser.add_argument("--kl-ramp", type=float, default=0.4, help="share of the epochs in which the KL rises")
    parser.add_argument("--target-sparsity", type=float, help="steer the KL's weight to this share of pruned weights")
    parser.add_argument("--ratio", type=float, default=20.0, help="all weights over those kept")
    parser.add_argument("--bits", type=int, help="of the file's weights, on a uniform grid; else by rate and distortion")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-file", action="store_true", help="end before step 4")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


class Text:
    """A text as numbers of characters, in three parts."""

    def __init__(self, path):
        text = path.read_text(encoding="utf-8", errors="replace")
        self.characters = sorted(set(text))
        number = {character: n for n, character in enumerate(self.characters)}
        ids = torch.tensor([number[character] for character in text])
        held, test = (len(ids) * part // 20 for part in (18, 19))
        self.train, self.held, self.test = ids[:held], ids[held:test], ids[test:]


class Trained:
    """Steps of training through a text."""

    def __init__(self, model, options, text, rate, epochs, training=None, teacher=None):
        self.model, self.options, self.training, self.teacher = model, options, training, teacher
        self.rate, self.epochs, self.device = rate, epochs, torch.device(options.device)
        gpu = self.device.type == "cuda"
        pieces = text.train[: len(text.train) // options.batch * options.batch]
        self.pieces = pieces.view(options.batch, -1).to(self.device)
        self.windows = (self.pieces.shape[1] - 1) // options.window
        groups = st.parameter_groups(model)
        for group in groups:
            group["lr"] = torch.tensor(rate, device=self.device) if gpu else rate
        self.optimizer = torch.optim.Adam(groups, fused=gpu, capturable=gpu)
        if training is not None:
            training.optimizer = self.optimizer
        shape = (1, options.batch, options.units)
        # Of the model, then of its teacher.
        self.states = tuple(torch.zeros(shape, device=self.device) for _ in range(4))
        self.step = Graphed(self.one_step, enabled=gpu)

    def one_step(self, window, target):
        output, states = self.model.run(window, self.states[:2])
        output = output.reshape(-1, output.shape[-1])
        loss = F.cross_entropy(output, target.reshape(-1))
        data_loss = loss.detach()
        if self.teacher is not None:
            with torch.no_grad():
                wanted, teachers = self.teacher.run(window, self.states[2:])
            states += teachers
            likeness = st.distillation(output, wanted.reshape(output.shape), TEMPERATURE)
            loss = (1 - SHARE) * loss + SHARE * likeness
        if self.training is not None:
            loss = loss + self.training.penalty()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for held, new in zip(self.states, states):
                held.copy_(new)
        return data_loss

    def epoch(self, epoch):
        """Through the whole text once; gives the mean loss of the data."""
        for state in self.states:
            state.zero_()
        losses, size = [], self.options.window
        for number in range(self.windows):
            at = epoch + number / self.windows
            rate = self.rate * (0.5 + 0.5 * math.cos(math.pi * at / self.epochs))
            group = self.optimizer.param_groups[0]
            group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else group.update(lr=rate)
            if self.training is not None:
                self.training.begin(at)
            begin = number * size
            losses.append(self.step(*(self.pieces[:, begin + k : begin + k + size] for k in (0, 1))))
        return torch.stack(losses).mean().item()


def windows(ids):
    """[windows, MEASURED] with a character more for the last target; what is left over is left out."""
    count = (len(ids) - 1) // MEASURED
    return ids[: count * MEASURED].view(count, MEASURED), ids[1 : count * MEASURED + 1].view(count, MEASURED)


@torch.no_grad()
def perplexity(model, ids, device):
    model.eval()
    losses = []
    for window, target in zip(*(part.to(device).split(32) for part in windows(ids))):
        losses.append(F.cross_entropy(model(window).transpose(1, 2), target, reduction="none").flatten())
    return torch.cat(losses).mean().exp().item()


def train(options, text):
    """The three phases; leaves dense.npz and pruned.npz."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    log = (options.out / "log.csv").open("w")
    print("phase,epoch,loss,held_out_perplexity,weight_ratio", file=log, flush=True)

    def go(phase, trained, prepare=lambda: None):
        """Gives the state of the epoch that was best on the part that is held out."""
        best = (math.inf, None)
        for epoch in range(trained.epochs):
            began = time.monotonic()
            trained.model.train()
            prepare()
            loss = trained.epoch(epoch)
            held = perplexity(trained.model, text.held, device)
            count, total = 1, 1
            if phase == "train":
                layers = trained.training.end(epoch)
                count, total = sum(l.kept for l in layers), sum(l.total for l in layers)
            elif phase == "finetune":
                count, total = pruned.kept(trained.model)
            ratio, seconds = total / max(count, 1), time.monotonic() - began
            print(f"{phase}, epoch {epoch + 1} of {trained.epochs}: loss {loss:.4f}, held-out perplexity {held:.4f}, "
                  f"{ratio:.1f} times fewer weights, {seconds:.1f} s", flush=True)
            print(f"{phase},{epoch + 1},{loss:.5f},{held:.5f},{ratio:.2f}", file=log, flush=True)
            if held < best[0]:
                best = held, copy.deepcopy(trained.model.state_dict())
        return best[1]

    model = Characters(len(text.characters), options.units).to(device)
    model.load_state_dict(go("dense", Trained(model, options, text, options.rate, options.dense)))
    np.savez_compressed(options.out / "dense.npz", **{n: t.cpu().numpy() for n, t in model.state_dict().items()})
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    model = st.convert(model, init_log_sigma2=options.init_log_sigma2)
    schedule = st.Schedule(
        ramp=options.kl_ramp * options.epochs, scale=options.kl_scale, rates=((0.0, options.variance_rate),)
    )
    training = st.Training(
        model, len(text.train), schedule, target_sparsity=options.target_sparsity, capturable=device.type == "cuda"
    )
    go("train", Trained(model, options, text, options.rate, options.epochs, training))
    threshold = pruned.prune_to(model, options.ratio)

    def without_noise():
        for layer in st.posteriors(model):
            layer.eval()

    print(f"threshold {threshold:.2f}: held-out perplexity {perplexity(model, text.held, device):.4f}", flush=True)
    trained = Trained(model, options, text, options.rate, options.finetune, teacher=teacher)
    model.load_state_dict(go("finetune", trained, without_noise))
    pruned.restore(model, threshold)
    pruned.write(model, threshold, options.out / "pruned.npz")


def file(options, text):
    """The file, and the one look at the test part."""
    out = options.out
    dense = Characters(len(text.characters), options.units)
    arrays = np.load(out / "dense.npz")
    dense.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    model = st.convert(Characters(len(text.characters), options.units)).eval()
    threshold = pruned.read(model, out / "pruned.npz")
    example = torch.zeros(1, MEASURED, dtype=torch.long)
    st.save(model, out / "model.safetensors", example)
    how = {} if options.bits is None else {"quantize": "uniform", "bits": options.bits}
    report = svdo.compress(out / "model.safetensors", threshold, output=out / "model.svdo", strip=True, **how)
    print(report)
    compressed = svdo.load(report.data)

    def of_file(ids):
        window, target = windows(ids)
        logits = torch.from_numpy(compressed(window.numpy())).view(*window.shape, -1)
        return F.cross_entropy(logits.transpose(1, 2), target).exp().item()

    count, total = pruned.kept(model)
    result = {"characters": len(text.characters), "weights": total, "kept": count, "weight_ratio": total / count}
    result |= {"bytes": len(report.data), "threshold": threshold}
    for name, ids in (("held_out", text.held), ("test", text.test)):
        result[name] = {
            "dense": perplexity(dense, ids, "cpu"), "pruned": perplexity(model, ids, "cpu"), "file": of_file(ids)
        }
    result["settings"] = {k: v for k, v in vars(options).items() if k not in ("text", "out", "no_file", "device")}
    (out / "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result))


def main(arguments=None):
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    text = Text(options.text)
    if not (options.out / "pruned.npz").exists():
        train(options, text)
    if not options.no_file:
        if (options.out / "result.json").exists():
            print(f"{options.out}/result.json is there: the test part is read once")
            return
        file(options, text)


if __name__ == "__main__":
    main()
