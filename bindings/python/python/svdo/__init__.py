"""Compress networks trained by sparse variational dropout, and run them sparse on a CPU.

>>> report = svdo.compress("model.safetensors", thresh=3.0, output="model.svdo")
>>> report.size_ratio
>>> model = svdo.load("model.svdo")
>>> logits = model(images)  # float32 [batch, 1, 28, 28] -> [batch, 10]

``svdo.torch`` holds the layers and the loss to train with; importing it needs PyTorch.
"""

from svdo._checkpoint import compress, export, save
from svdo._report import Record, Report
from svdo._svdo import Model, SvdoError, load

__all__ = ["Model", "Record", "Report", "SvdoError", "compress", "export", "load", "save"]


def __getattr__(name: str) -> object:
    if name == "torch":
        import importlib

        return importlib.import_module("svdo.torch")
    raise AttributeError(f"module 'svdo' has no attribute {name!r}")
