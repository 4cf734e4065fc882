"""Real checkpoints and images from the repository's fixtures, and small made-up ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[3] / "fixtures"


@pytest.fixture(scope="session")
def fixtures():
    return FIXTURES


@pytest.fixture(scope="session")
def images():
    """The MNIST test images as raw pixels, uint8 [10000, 28, 28]."""
    raw = gzip.decompress((FIXTURES / "t10k-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


@pytest.fixture(scope="session")
def labels():
    """The MNIST test labels, uint8 [10000]."""
    raw = gzip.decompress((FIXTURES / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=8)


def read_safetensors(path):
    """Tensors and metadata of a safetensors file of f32 and bytes, by the format's own words."""
    import json

    raw = Path(path).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    types = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "U8": "u1", "BOOL": "?"}
    tensors = {}
    for name, info in header.items():
        start, end = (8 + length + offset for offset in info["data_offsets"])
        tensors[name] = np.frombuffer(raw[start:end], types[info["dtype"]]).reshape(info["shape"])
    return tensors, metadata


@pytest.fixture(scope="session")
def lenet300():
    """State dict and metadata of the trained LeNet-300-100."""
    return read_safetensors(FIXTURES / "lenet300_mnist.safetensors")


@pytest.fixture(scope="session")
def lenet5():
    """State dict and metadata of the trained LeNet-5."""
    return read_safetensors(FIXTURES / "lenet5_mnist.safetensors")


def random_chain(widths=(6, 5, 3), seed=0, dtype=np.float32):
    """The state dict of a chain of linear layers, about half of whose weights are pruned at 3."""
    random = np.random.default_rng(seed)
    state = {}
    for layer, (ins, outs) in enumerate(zip(widths, widths[1:])):
        state[f"{layer}.theta"] = random.normal(size=(outs, ins)).astype(dtype)
        keep = random.random((outs, ins)) < 0.5
        state[f"{layer}.log_sigma2"] = np.where(keep, -6, 12).astype(dtype)
        state[f"{layer}.bias"] = random.normal(size=outs).astype(dtype)
    return state


def run_chain(state, x, thresh=3.0):
    """What the chain, pruned at ``thresh``, makes of x [batch, in], in f64."""
    layers = len(state) // 3
    x = np.asarray(x, np.float64)
    for layer in range(layers):
        theta = state[f"{layer}.theta"].astype(np.float64)
        log_alpha = state[f"{layer}.log_sigma2"] - np.log(theta**2)
        x = x @ np.where(log_alpha <= thresh, theta, 0).T + state[f"{layer}.bias"]
        if layer + 1 < layers:
            x = np.maximum(x, 0)
    return x
