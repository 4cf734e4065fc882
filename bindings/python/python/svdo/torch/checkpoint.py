"""Checkpoints of models, with the network in them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svdo import _svdo
from svdo._checkpoint import Network, PathLike, StateDict
from svdo._checkpoint import compress as _compress
from svdo._checkpoint import save as _save
from svdo._report import Report
from svdo.torch import graph
from svdo.torch.convert import FORMS, convert
from svdo.torch.sharded import refuse_sharded


# What a checkpoint's reader would look for in the network; and how it is called where it is not there, as
# that of layers whose outputs do not depend on the input.
_OF_THE_NETWORK = ("theta", "log_sigma2", "running_mean", "running_var")
_APART = ".apart"

# Models of transformers with an output for each label.
_CLASSIFIERS = tuple(f"For{kind}Classification" for kind in ("Sequence", "Image", "Audio"))


def describe(
    model: nn.Module,
    example_input: Tensor | Sequence[int] | Mapping[str, Tensor],
    *,
    scale: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_time: int | None = None,
    time_dim: int = 1,
) -> dict[str, Any]:
    """The network description of a model, as formats/network.md says.

    Args:
        example_input: a batch [batch, *sample], or the shape of one sample; of a model that takes
            token ids a batch of them, as integers; of a model with several inputs a dict of batches by
            the names of its arguments. Integers whose name has "mask" in it, and truth values, are a
            mask, of ones and zeros.
        scale, mean, std: what turns raw values into what the model is trained on, for each
            channel: ``(x * scale - mean) / std``. Pixels from 0 to 255 need ``scale=1/255`` if
            the model was trained on 0 to 1.
        max_time: take sequences of any length up to this one, whatever the example's.
        time_dim: the dimension of the example that is time, then: 1 of token ids [batch, time], or of
            features [batch, time, features]; of several inputs, of all that are as long as the first.

    Raises:
        SvdoError: an operation of the model's graph has no description.
        ValueError: a layer of the model has none.
    """
    time = _free_time(example_input, max_time, time_dim)
    return _stored(model, example_input, scale, mean, std, time)[0]


def save(
    model: nn.Module,
    path: PathLike,
    example_input: Tensor | Sequence[int] | Mapping[str, Tensor] | None = None,
    *,
    scale: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_time: int | None = None,
    time_dim: int = 1,
    network: Network | None = None,
) -> None:
    """Save a model as a checkpoint that ``svdo-compress`` and :func:`svdo.compress` take as it is:
    safetensors with the network in its metadata.

    The network is read from the model's graph (an ONNX export): residuals, attention, depthwise and
    transposed convolutions included. Batch normalizations keep tensors of their own, so that their
    statistics can be measured again. Layers without a posterior are saved as they are; their zeros
    are what compression prunes.

    Args:
        example_input, scale, mean, std, max_time, time_dim: as in :func:`describe`.
        network: a description, as a dict or a file, in the place of ``example_input``.
    """
    if (network is None) == (example_input is None):
        raise ValueError("give example_input, or a description as network")
    if network is not None or example_input is None:
        refuse_sharded(model)
        _save(path, unwrap(model).state_dict(), network)
        return
    time = _free_time(example_input, max_time, time_dim)
    description, tensors = _stored(model, example_input, scale, mean, std, time)
    _save(path, tensors, description, own=True)


def load(path: PathLike, model: nn.Module) -> nn.Module:
    """Load a checkpoint that :func:`save` wrote from an example into a model, in place.

    Args:
        model: of the same architecture. Layers that have a posterior in the file and none in the
            model are converted first, as by :func:`svdo.torch.convert`.

    Returns:
        The model.

    Raises:
        SvdoError: the file cannot be read.
        ValueError: it does not fit the model; says which tensor.
    """
    stored = _svdo.tensors(_path(path))
    tensors = {name: _tensor(dtype, shape, data) for name, dtype, shape, data in stored}
    bare = unwrap(model)
    names = (name.removesuffix(_APART) for name in tensors)
    trained = {name.rsplit(".", 1)[0] for name in names if name.endswith(".log_sigma2")}

    def is_trained(name: str, layer: nn.Module) -> bool:
        name = name or graph.ROOT
        inside = (f"{name}.{part}" for part in ("q_proj", "ih_l0"))
        return name in trained or any(part in trained for part in inside)

    if any(type(m) in FORMS and is_trained(n, m) for n, m in bare.named_modules()):
        bare = model = convert(bare, only=is_trained)
    modules = dict(bare.named_modules(remove_duplicate=False))
    state: dict[str, Tensor] = {}
    for name, own in bare.state_dict().items():
        prefix, _, role = name.rpartition(".")
        named = [name if prefix else f"{graph.ROOT}.{name}", name, f"{name}{_APART}"]
        found = next((tensors[name] for name in named if name in tensors), None)
        if found is None:
            if name.endswith("num_batches_tracked"):
                continue
            raise ValueError(f"{path} has no tensor {name}: it is of another model")
        if role in ("theta", "log_sigma2", "weight") and found.shape != own.shape:
            layer = modules.get(prefix)
            if layer is not None and found.dim() == 4 and hasattr(layer, "dilation"):
                found = graph.as_trained(layer, found)
        if found.numel() != own.numel():
            raise ValueError(
                f"{path}: tensor {name} has shape {list(found.shape)}, expected {list(own.shape)}"
            )
        state[name] = found.reshape(own.shape)
    bare.load_state_dict(state, strict=False)
    return model


def compress(
    model: nn.Module,
    example_input: Tensor | Sequence[int] | Mapping[str, Tensor],
    thresh: float | str = 3.0,
    *,
    scale: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_time: int | None = None,
    time_dim: int = 1,
    **options: Any,
) -> Report:
    """Compress a model at once, without a checkpoint in between.

    Args:
        example_input, scale, mean, std, max_time, time_dim: as in :func:`describe`.
        thresh, options: as in :func:`svdo.compress`.
    """
    time = _free_time(example_input, max_time, time_dim)
    description, tensors = _stored(model, example_input, scale, mean, std, time)
    return _compress(tensors, thresh, network=description, _own=True, **options)


def _free_time(
    example_input: Tensor | Sequence[int] | Mapping[str, Tensor], max_time: int | None, time_dim: int
) -> graph.FreeTime | None:
    if max_time is None:
        return None
    if max_time < 1:
        raise ValueError(f"max_time={max_time}: expected the steps of the longest sequence")
    given = example_input.values() if isinstance(example_input, Mapping) else [example_input]
    ranks = [x.dim() if isinstance(x, Tensor) else 1 + len(x) for x in given]
    if not 1 <= time_dim < max(ranks, default=0):
        raise ValueError(
            f"time_dim={time_dim}: expected a dimension of example_input behind the batch, 1 to {max(ranks, default=0) - 1}"
        )
    return graph.FreeTime(max_time, time_dim)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of distributed training and compilation."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _stored(
    model: nn.Module,
    example_input: Tensor | Sequence[int] | Mapping[str, Tensor],
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    time: graph.FreeTime | None,
) -> tuple[dict[str, Any], StateDict]:
    """The description of a model and the tensors of its checkpoint."""
    model = unwrap(model)
    refuse_sharded(model)
    if not isinstance(example_input, (Tensor, Mapping)):
        example_input = torch.zeros(1, *(int(size) for size in example_input))
    read = graph.read(model, example_input, time)
    given = scale != 1.0 or mean is not None or std is not None
    if given and any(node["op"] == "embedding" for node in read.nodes):
        raise ValueError("scale, mean and std: the model takes token ids, which stay as they are")
    given = _preprocessing(read.input, scale, mean, std)
    description: dict[str, Any] = {"version": 1, "input": given, "nodes": read.nodes}
    if names := _labels(model):
        description["classes"] = names
    tensors = dict(read.tensors)
    # What the network does not need, and a model that is loaded does.
    for name, tensor in model.state_dict().items():
        if name not in tensors and f"{graph.ROOT}.{name}" not in tensors:
            apart = name.endswith(_OF_THE_NETWORK)
            tensors[f"{name}{_APART}" if apart else name] = tensor.detach()
    return description, tensors


def _labels(model: nn.Module) -> list[str]:
    """The labels of a Hugging Face classifier, unless they are LABEL_0, LABEL_1 ..."""
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(labels, dict) or not type(model).__name__.endswith(_CLASSIFIERS):
        return []
    names = [labels.get(id, labels.get(str(id))) for id in range(len(labels))]
    chosen = any(name != f"LABEL_{id}" for id, name in enumerate(names))
    return [str(name) for name in names] if chosen and None not in names else []


def _preprocessing(
    own: dict[str, Any], scale: float, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Any]:
    """What is done to raw values: as given, then as the model itself begins."""
    if "parts" in own:
        if scale != 1.0 or mean is not None or std is not None:
            raise ValueError("scale, mean and std: the model takes several inputs, which stay as they are")
        return own
    given: dict[str, Any] = {name: own[name] for name in ("shape", "time") if name in own}
    if set(own) == set(given):
        if scale != 1.0:
            given["scale"] = float(scale)
        if mean is not None:
            given["mean"] = [float(m) for m in mean]
        if std is not None:
            given["std"] = [float(s) for s in std]
        return given

    def affine(scale: float, mean: Any, std: Any) -> tuple[Any, Any]:
        mean = np.zeros(1) if mean is None else np.asarray(mean, float)
        std = np.ones(1) if std is None else np.asarray(std, float)
        return scale / std, -mean / std

    first = affine(scale, mean, std)
    then = affine(own.get("scale", 1.0), own.get("mean"), own.get("std"))
    factor, offset = first[0] * then[0], first[1] * then[0] + then[1]
    factor, offset = np.broadcast_arrays(factor, offset)
    return {**given, "mean": (-offset / factor).tolist(), "std": (1.0 / factor).tolist()}


def _path(path: PathLike) -> Any:
    from pathlib import Path

    return Path(path)


_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _tensor(dtype: str, shape: Sequence[int], data: Any) -> Tensor:
    if dtype not in _TYPES:
        raise ValueError(f"tensors of type {dtype} cannot be loaded")
    if data.size == 0:
        return torch.empty(tuple(shape), dtype=_TYPES[dtype])
    return torch.from_numpy(data).view(_TYPES[dtype]).reshape(tuple(shape))
