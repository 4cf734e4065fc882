#!/usr/bin/env python3
"""Networks of sequences with random weights, pruned layer by layer, through their ONNX exports: outputs
against PyTorch's, times beside ONNX Runtime's on one thread.

    cargo build --release --example bench_worker
    pip install torch torchvision transformers onnx onnxscript onnxruntime
    sequences.py --folder FOLDER [--zeros 0 80 90 95] [MODEL ...]

Prints a Markdown table of microseconds. Calls are interleaved in bursts as in inference.py."""

import argparse
import pathlib
import sys
import warnings

import numpy as np
import torch
from torch import nn

from inference import BURST, Engine

TOLERANCE = 1e-4  # relative to the largest output
TOKENS = 128
warnings.filterwarnings("ignore")


class Tagger(nn.Module):
    """An embedding, two layers in both directions, a class for each token."""

    def __init__(self, cell):
        super().__init__()
        self.words = nn.Embedding(10000, 128)
        self.cells = cell(128, 256, 2, batch_first=True, bidirectional=True)
        self.classes = nn.Linear(512, 20)

    def forward(self, ids):
        return self.classes(self.cells(self.words(ids))[0])


class Recurrent(nn.Module):
    """A GRU over features and two dense layers, as WaveRNN has them (arXiv 1802.08435)."""

    def __init__(self, features, units, classes):
        super().__init__()
        self.gru = nn.GRU(features, units, batch_first=True)
        self.first, self.second = nn.Linear(units, units), nn.Linear(units, classes)

    def forward(self, x):
        return self.second(torch.relu(self.first(self.gru(x)[0])))


class Causal(nn.Module):
    """A temporal convolutional network (arXiv 1803.01271): dilated, padded at the left, residual."""

    def __init__(self, channels=128, levels=5, kernel=3):
        super().__init__()
        self.padding = [(kernel - 1) * 2**level for level in range(levels)]
        self.layers = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=2**level) for level in range(levels))
        self.head = nn.Conv1d(channels, 10, 1)

    def forward(self, x):
        for padding, layer in zip(self.padding, self.layers):
            x = x + torch.relu(layer(nn.functional.pad(x, (padding, 0))))
        return self.head(x)


class Hidden(nn.Module):
    """The last hidden states of a model of the library `transformers`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, return_dict=False)[0]


def bert(layers, width):
    import transformers

    return Hidden(transformers.BertModel(transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=4 * width, attn_implementation="eager"), add_pooling_layer=False))


def distilbert():
    import transformers

    return Hidden(transformers.DistilBertModel(transformers.DistilBertConfig(attn_implementation="eager")))


def gpt2():
    import transformers

    return Hidden(transformers.GPT2Model(transformers.GPT2Config(use_cache=False, attn_implementation="eager")))


def whisper():
    """The encoder, of features of 30 seconds as convolutions in its first layers make them."""
    import transformers

    return Hidden(transformers.models.whisper.modeling_whisper.WhisperEncoder(transformers.WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536,
        attn_implementation="eager")))


def vit():
    import torchvision

    model = torchvision.models.vit_b_16()
    nn.init.normal_(model.heads.head.weight, std=0.02)  # zero at first
    return model


PEERS = ["onnxruntime", "openvino"]
IDS, FEATURES = "ids", "features"
MODELS = {
    "bert-tiny": (lambda: bert(2, 128), (IDS, TOKENS)),
    "bert-mini": (lambda: bert(4, 256), (IDS, TOKENS)),
    "bert-base": (lambda: bert(12, 768), (IDS, TOKENS)),
    "distilbert": (distilbert, (IDS, TOKENS)),
    "gpt2": (gpt2, (IDS, TOKENS)),
    "vit-b-16": (vit, (FEATURES, 3, 224, 224)),
    "whisper-tiny": (whisper, (FEATURES, 80, 3000)),
    "lstm-tagger": (lambda: Tagger(nn.LSTM), (IDS, TOKENS)),
    "gru-tagger": (lambda: Tagger(nn.GRU), (IDS, TOKENS)),
    "wavernn-gru": (lambda: Recurrent(80, 896, 256), (FEATURES, TOKENS, 80)),
    "gru-step": (lambda: Recurrent(128, 512, 256), (FEATURES, 1, 128)),
    "tcn": (Causal, (FEATURES, 128, TOKENS)),
}


def pruned(module, zeros):
    """The smallest of each matrix but those of embeddings set to zero."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for weights in module.parameters():
            if weights.dim() > 1 and id(weights) not in embeddings and weights.numel() >= 1024:
                count = int(zeros * weights.numel())
                if count:
                    bound = weights.abs().flatten().kthvalue(count).values
                    weights[weights.abs() <= bound] = 0
    return module.eval()


def export(module, x, path):
    torch.onnx.export(module, (x,), path, input_names=["x"], output_names=["y"], dynamo=True,
                      external_data=False, verbose=False)


def measure(name, zeros, folder, core, rounds):
    make, (kind, *shape) = MODELS[name]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = pruned(make(), zeros / 100)
    shape = [1, *shape]
    x = torch.randint(0, 10000, shape) if kind == IDS else torch.randn(shape)
    with torch.no_grad():
        expected = module(x).numpy().ravel()
    path = folder / f"{name}-{zeros}.onnx"
    export(module, x, path)
    del module
    numbers = path.with_suffix(".f32")
    x.numpy().astype(np.float32).tofile(numbers)
    running = {}
    try:
        for engine in (*PEERS, "svdo"):
            started = Engine(engine, path, numbers, ",".join(map(str, shape)), core, 1, {})
            if started.alive:
                running[engine] = started
            elif engine == "svdo":
                return None, "svdo does not run it"
        found = running["svdo"].ask(f"out {len(expected)}")
        error = np.abs(found - expected).max() / np.abs(expected).max()
        calls = {e: int(min(2000, max(1, BURST / min(r.ask("run 2")[:-1])))) for e, r in running.items()}
        for _ in range(rounds):
            for engine, process in running.items():
                process.burst(calls[engine])
        return {e: r.microseconds() for e, r in running.items()}, error
    finally:
        for process in running.values():
            process.close()
        path.unlink(missing_ok=True)
        numbers.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help=", ".join(MODELS))
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--zeros", type=int, nargs="*", default=[0, 80, 90, 95], help="percent")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.models if name not in MODELS]
    if unknown:
        sys.exit(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print("| model | zeros | ONNX Runtime | OpenVINO | svdo | best peer / svdo | error |\n|---|---|---|---|---|---|---|")
    off = []
    for name in arguments.models or MODELS:
        for zeros in arguments.zeros:
            found, error = measure(name, zeros, arguments.folder, arguments.core, arguments.rounds)
            if found is None:
                print(f"| {name} | {zeros} % | | | | | {error} |", flush=True)
                off.append(name)
                continue
            ours = found.pop("svdo")
            theirs = " | ".join(f"{found[peer]:,.0f}" if peer in found else "-" for peer in PEERS)
            ratio = f"{min(found.values()) / ours:.2f}" if found else "-"
            print(f"| {name} | {zeros} % | {theirs} | {ours:,.0f} | {ratio} | {error:.0e} |", flush=True)
            if not error <= TOLERANCE:
                off.append(name)
    if off:
        sys.exit(f"off by more than {TOLERANCE}, or not run: {', '.join(sorted(set(off)))}")


if __name__ == "__main__":
    main()
