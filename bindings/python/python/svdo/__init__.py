"""Compress networks trained by sparse variational dropout, and run them sparse on a CPU.

>>> report = svdo.compress("model.safetensors", thresh=3.0, output="model.svdo")
>>> report.size_ratio
>>> model = svdo.load("model.svdo")
>>> logits = model(images)  # float32 [batch, 1, 28, 28] -> [batch, 10]

``svdo.torch`` holds the layers and the loss to train with; importing it needs PyTorch.
"""

import functools
from typing import Any

from svdo import _checkpoint
from svdo._checkpoint import export, save
from svdo._prediction import Numbers, Prediction
from svdo._report import Record, Report
from svdo._svdo import Model, Stream, SvdoError, load

__all__ = [
    "Model",
    "Numbers",
    "Prediction",
    "Record",
    "Report",
    "Stream",
    "SvdoError",
    "compress",
    "export",
    "load",
    "save",
]


@functools.wraps(_checkpoint.compress)
def compress(checkpoint: Any, *arguments: Any, **options: Any) -> Report:
    # A PyTorch model, of which nothing is known here.
    if hasattr(checkpoint, "named_modules"):
        from svdo.torch import compress as compress_model

        return compress_model(checkpoint, *arguments, **options)
    return _checkpoint.compress(checkpoint, *arguments, **options)


def __getattr__(name: str) -> object:
    if name == "torch":
        import importlib

        return importlib.import_module("svdo.torch")
    if name == "__version__":
        from importlib.metadata import version

        return version("svdo")
    raise AttributeError(f"module 'svdo' has no attribute {name!r}")
