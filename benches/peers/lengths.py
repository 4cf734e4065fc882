#!/usr/bin/env python3
"""Networks over sequences of any length, as PyTorch's two exporters write them, against PyTorch's outputs.

    cargo build --release --bin svdo-infer --bin svdo-compress
    pip install torch transformers onnx onnxscript
    lengths.py --folder FOLDER [--programs target/release] [MODEL ...]

Small configurations with random weights: BERT, DistilBERT and GPT-2 with masks and without, nn.TransformerEncoder,
taggers with LSTM and GRU, a temporal convolutional network. Each is exported once with a free time axis, read without
a word and compressed exactly; then sequences of several lengths go through both files together, and what comes is
compared with PyTorch's outputs of each alone. Exits with 1 if an output is further off than 1e-4."""

import argparse
import json
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import torch
from torch import nn

from masks import IDS, First, models
from sequences import Causal, Recurrent, Tagger

LENGTHS, TOLERANCE = (1, 2, 7, 20, 32), 1e-4
warnings.filterwarnings("ignore")


class Unmasked(nn.Module):
    """A transformer that sees all of its sequence."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        options = self.model.options if isinstance(self.model, First) else {}
        return self.model.model(input_ids, return_dict=False, **options)[0]


class Positions(nn.Module):
    """Causal attention over features with a table of positions that is cut to the sequence."""

    def __init__(self, heads=2):
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(1, 40, 16))
        self.inside, self.outside, self.classes = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, features):
        x = features + self.positions[:, :features.shape[1]]
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.inside(x).chunk(3, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.outside(y.transpose(1, 2).flatten(2))
        return self.classes(x), self.classes(x[:, -1])


class Chosen(nn.Module):
    """One of several outputs."""

    def __init__(self, model, which):
        super().__init__()
        self.model, self.which = model, which

    def forward(self, x):
        return self.model(x)[self.which]


class Pooled(nn.Module):
    """Features of all steps as one: their mean and their maximum."""

    def __init__(self):
        super().__init__()
        self.layer, self.classes = nn.Conv1d(6, 8, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.layer(x))
        return self.classes(torch.cat([x.mean(2), x.amax(2)], 1))


def cases():
    """Name, model, inputs of one sequence of so many steps, and the axis of time of each."""
    ids = lambda steps: {"input_ids": torch.randint(IDS, (1, steps))}
    masked = lambda steps: {**ids(steps), "attention_mask": torch.ones(1, steps).long()}
    kinds = lambda steps: {**masked(steps), "token_type_ids": torch.randint(2, (1, steps))}
    channels = lambda n: lambda steps: {"x": torch.randn(1, n, steps)}
    rows = lambda n: lambda steps: {"x": torch.randn(1, steps, n)}
    for name, model, has_kinds in models():
        yield name, model, kinds if has_kinds else masked, 1
        if name != "encoder":
            yield name + "-unmasked", Unmasked(model), ids, 1
    tagger = lambda cell: Tagger(cell)
    yield "lstm-tagger", tagger(nn.LSTM), lambda steps: {"ids": torch.randint(10000, (1, steps))}, 1
    yield "gru-tagger", tagger(nn.GRU), lambda steps: {"ids": torch.randint(10000, (1, steps))}, 1
    yield "gru", Recurrent(12, 24, 5), rows(12), 1
    yield "tcn", Causal(channels=12), channels(12), 2
    yield "pooled", Pooled(), channels(6), 2
    for which, name in ((0, "positions"), (1, "positions-last")):
        yield name, Chosen(Positions(), which), rows(16), 1


def seeded(cases):
    """The same weights and samples in each run, whatever is left out."""
    while True:
        torch.manual_seed(0)
        case = next(cases, None)
        if case is None:
            return
        yield case


def export(model, inputs, axis, path, dynamo):
    names = list(inputs)
    if dynamo:
        batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=2, max=32)
        shapes = [{0: batch, axis: time} for _ in names]
        # Sizes of 1 would be taken for constants.
        examples = tuple(x.expand(2, *x.shape[1:]).contiguous() for x in inputs.values())
        torch.onnx.export(model, examples, path, dynamo=True, input_names=names, output_names=["output"],
                          dynamic_shapes=shapes, external_data=False, verbose=False)
    else:
        axes = {name: {0: "batch", axis: "time"} for name in names}
        torch.onnx.export(model, tuple(inputs.values()), path, dynamo=False, input_names=names,
                          output_names=["output"], dynamic_axes=axes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("target/release"))
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.backends.mha.set_fastpath_enabled(False)
    failed = False
    print("| model | exporter | largest error, of the graph | of the file |\n|---|---|---|---|")
    for name, model, inputs, axis in seeded(cases()):
        if options.models and name not in options.models:
            continue
        model.eval()
        samples = [inputs(steps) for steps in LENGTHS]
        with torch.no_grad():
            expected = [model(*sample.values()).numpy().ravel() for sample in samples]
        lines, outputs = options.folder / f"{name}.jsonl", options.folder / f"{name}.json"
        # What is one input is a list; masks of ones stand for themselves.
        numbers = lambda sample: {n: x[0].tolist() for n, x in sample.items() if n != "attention_mask"}
        plain = lambda sample: numbers(sample) if len(sample) > 1 else next(iter(numbers(sample).values()))
        lines.write_text("".join(json.dumps(plain(sample)) + "\n" for sample in samples))
        for dynamo in (False, True):
            exporter = "newer" if dynamo else "older"
            path = options.folder / f"{name}-{exporter}.onnx"
            if not path.exists():
                try:
                    export(model, inputs(12), axis, path, dynamo)
                except Exception as e:  # the exporter's, not ours
                    print(f"| {name} | {exporter} | not exported: {str(e).splitlines()[0][:80]} | |", flush=True)
                    continue
            file = path.with_suffix(".svdo")
            compress = [options.programs / "svdo-compress", path, "--quantize", "exact", "--output", file]
            done = subprocess.run(compress, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"| {name} | {exporter} | {done.stderr.strip()} | |", flush=True)
                failed = True
                continue
            errors = []
            for of in (path, file):
                command = [options.programs / "svdo-infer", of, "--input", lines, "--output", outputs]
                done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                if done.returncode:
                    errors.append(done.stderr.strip())
                    failed = True
                    continue
                found = [np.array(row) for row in json.loads(outputs.read_text())]
                shapes = [row.shape for row in found] == [row.shape for row in expected]
                error = max(np.abs(a - b).max() for a, b in zip(found, expected)) if shapes else np.inf
                failed |= not error <= TOLERANCE
                errors.append(f"{error:.1e}")
            print(f"| {name} | {exporter} | " + " | ".join(errors) + " |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
