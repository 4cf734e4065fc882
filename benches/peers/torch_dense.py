#!/usr/bin/env python3
"""The step of svdo.torch beside that of the same network without posteriors, on a CPU, eager: torch_dense.py [--help]

Forward, loss with the KL, backward and Adam (fused, log sigma^2 in a group of its own), by turns in one process: dense,
ours in f32, ours with variances in bf16, dense, and so on. Prints the least time of each in ms and, in brackets, over the
dense one's. Images are random; times do not depend on them.
"""

import argparse
import pathlib
import sys
import time

import svdo.torch as st
import torch
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings/python/examples"))
from networks import NETWORKS  # noqa: E402

FORMATS = {"channels_last": torch.channels_last, "channels_first": torch.contiguous_format}
KINDS = ("dense", "f32", "bf16")


class Step:
    """A step of training on one batch of images of 32 x 32."""

    def __init__(self, name, kind, format, batch):
        torch.manual_seed(0)
        model = NETWORKS[name]()
        model = (model if kind == "dense" else st.convert(model)).to(memory_format=FORMATS[format]).train()
        self.model, self.kind = model, kind
        self.x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=FORMATS[format])
        self.target = torch.randint(10, (batch,))
        self.optimizer = torch.optim.Adam(st.parameter_groups(model, lr=1e-3), fused=True)

    def __call__(self):
        """Takes the step; gives its milliseconds."""
        st.use_bf16_variances(self.kind == "bf16")
        begun = time.perf_counter()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.target)
        if self.kind != "dense":
            loss = loss + st.kl(self.model) * (0.1 / 45_000)
        loss.backward()
        self.optimizer.step()
        return (time.perf_counter() - begun) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[*FORMATS])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, {options.threads} threads, batch {options.batch}")
    print("| network | layout | dense | f32 | variances in bf16 |\n|---|---|---|---|---|")
    for name in options.networks:
        for format in options.formats:
            steps = [Step(name, kind, format, options.batch) for kind in KINDS]
            # The first round is no measurement: memory is new, kernels are made.
            times = [[step() for step in steps] for _ in range(options.rounds + 1)][1:]
            least = [min(of) for of in zip(*times)]
            cells = [f"{least[0]:.0f}", *(f"{ms:.0f} ({ms / least[0]:.2f})" for ms in least[1:])]
            print(f"| {name} | {format.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
