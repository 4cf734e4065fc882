#!/usr/bin/env python3
"""Transformers with masks of padding, as PyTorch's two exporters write them, against PyTorch's outputs.

    cargo build --release --bin svdo-infer
    pip install torch transformers onnx onnxscript
    masks.py --folder FOLDER [--svdo-infer target/release/svdo-infer]

Small configurations with random weights: BERT (with kinds of tokens), DistilBERT, GPT-2, nn.TransformerEncoder. Two
sequences of which the mask leaves a part; what is hidden is not compared. Exits with 1 if an output is further off
than 1e-4."""

import argparse
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import torch
from torch import nn

TOKENS, IDS, TOLERANCE = 12, 50, 1e-4
warnings.filterwarnings("ignore")


class First(nn.Module):
    """The first output of a model of the library `transformers`."""

    def __init__(self, model, **options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        inputs = dict(input_ids=input_ids, attention_mask=attention_mask, **kinds)
        return self.model(**inputs, return_dict=False, **self.options)[0]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.classes = nn.Embedding(IDS, 16), nn.Linear(16, 5)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask):
        return self.classes(self.body(self.words(input_ids), src_key_padding_mask=attention_mask == 0))


def models():
    """Name, model, and whether it takes kinds of tokens."""
    import transformers

    for way in ("sdpa", "eager"):
        small = dict(vocab_size=IDS, attn_implementation=way)
        bert = transformers.BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **small)
        yield f"bert-{way}", First(transformers.BertModel(bert, add_pooling_layer=False)), True
        distil = transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **small)
        yield f"distilbert-{way}", First(transformers.DistilBertModel(distil)), False
        gpt = transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0, **small)
        yield f"gpt2-{way}", First(transformers.GPT2LMHeadModel(gpt), use_cache=False), False
    yield "encoder", Encoder(), False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--svdo-infer", type=pathlib.Path, default=pathlib.Path("target/release/svdo-infer"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(0)
    failed = False
    print("| model | exporter | largest error |\n|---|---|---|")
    for name, model, kinds in models():
        model.eval()
        inputs = {"input_ids": torch.randint(IDS, (2, TOKENS)), "attention_mask": torch.ones(2, TOKENS).long()}
        inputs["attention_mask"][0, 9:] = 0
        inputs["attention_mask"][1, 5:] = 0
        if kinds:
            inputs["token_type_ids"] = torch.randint(2, (2, TOKENS))
        with torch.no_grad():
            expected = model(*inputs.values()).numpy()
        arrays, outputs = options.folder / f"{name}.npz", options.folder / f"{name}.npy"
        np.savez(arrays, **{n: x.numpy() for n, x in inputs.items()})
        for dynamo in (False, True):
            path = options.folder / f"{name}-{'dynamo' if dynamo else 'torchscript'}.onnx"
            more = dict(external_data=False, verbose=False) if dynamo else {}
            torch.onnx.export(model, tuple(x[:1] for x in inputs.values()), path, dynamo=dynamo,
                              input_names=list(inputs), output_names=["output"], **more)
            command = [options.svdo_infer, path, "--input", arrays, "--output", outputs]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found = np.load(outputs).reshape(expected.shape)
            error = np.abs(found - expected)[inputs["attention_mask"].numpy() == 1].max()
            failed |= not error <= TOLERANCE
            print(f"| {name} | {'newer' if dynamo else 'older'} | {error:.1e} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
