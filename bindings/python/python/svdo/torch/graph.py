"""The graph of a model, with its layers recognized in it.

The model is exported to ONNX and read by the reader of ``svdo-compress``. Exporters rename, merge and
fold, so names say little: for the export every layer gets random weights of its own, and is found
again by their values. A batch normalization is a layer of that kind, too (a factor and an offset for each
channel), and thus stays unfolded; each direction of a recurrent layer is two, of inputs and of states.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from svdo import _svdo
from svdo._svdo import SvdoError
from svdo.torch.layers import EmbeddingSVDO
from svdo.torch.posterior import Posterior
from svdo.torch.recurrent import _Recurrent

# What a model that is a layer itself is called.
ROOT = "model"
# The layers whose weights are looked for, where they have no posterior.
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)
_PLAIN_RECURRENT = (nn.RNN, nn.GRU, nn.LSTM)


@dataclass
class Graph:
    """A network description without its tensors, and these."""

    nodes: list[dict[str, Any]]
    input: dict[str, Any]
    """Shape of one sample, and what the model itself does to it first."""
    tensors: dict[str, Any]
    """What the network's layers are stored as, shaped as the description has them."""


class _PerChannel(nn.Module):
    """``factor x + offset`` for each channel, in place of a batch normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels = len(self.bias)
        if x.dim() == 4:
            return F.conv2d(x, self.weight.unsqueeze(-1), self.bias, groups=channels)
        if x.dim() == 3:
            return F.conv1d(x, self.weight, self.bias, groups=channels)
        if x.dim() != 2:
            raise ValueError(f"batch normalization of {x.dim()} dimensions cannot be described")
        return F.conv1d(x.unsqueeze(-1), self.weight, self.bias, groups=channels).squeeze(-1)


@dataclass
class _Cell:
    """What one direction of a recurrent layer without a posterior does with inputs or with states."""

    weight: Tensor
    bias: Tensor | None


# A layer, or a part of one, that has one weight.
_Layer = Union[nn.Module, _Cell]


@dataclass
class _Marked:
    """A layer of the model and the random weights that stood for its own."""

    name: str
    module: _Layer
    weight: np.ndarray
    bias: np.ndarray | None


Example = Union[Tensor, Mapping[str, Tensor]]


class _Named(nn.Module):
    """A model that takes its inputs one after the other."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Any:
        return self.model(**dict(zip(self.names, values)))


@dataclass(frozen=True)
class FreeTime:
    """Sequences may have any length."""

    longest: int
    dim: int
    """The dimension of the example that is time."""

    def of(self, examples: Mapping[str, Tensor]) -> list[str]:
        """The inputs that have as many steps as the first one."""
        steps = next((x.shape[self.dim] for x in examples.values() if x.dim() > self.dim), None)
        return [n for n, x in examples.items() if x.dim() > self.dim and x.shape[self.dim] == steps]


def read(model: nn.Module, example_input: Example, time: FreeTime | None = None) -> Graph:
    """The graph of a model in evaluation mode, and what its layers are stored as.

    Args:
        example_input: [batch, *sample], on the model's device; its values do not matter, but token ids
            have to be ids that there are. Of a model with several inputs a dict of them by the names of
            its arguments.

    Raises:
        SvdoError: an operation of the graph is not understood, or the graph mixes samples.
        ValueError: a layer that has no description.
    """
    constant: set[str] = set()
    while True:
        try:
            return _read(model, example_input, time, constant)
        except _Constant as found:
            # None of them is looked for again, so that this ends.
            constant |= found.layers


class _Constant(Exception):
    """Layers that read no input, so that what they give is a constant of the graph (embeddings of
    positions most often), or that are not used."""

    def __init__(self, layers: set[str]) -> None:
        super().__init__()
        self.layers = layers


def _read(model: nn.Module, example_input: Example, time: FreeTime | None, constant: set[str]) -> Graph:
    """See :func:`read`; the layers of ``constant`` keep their own weights."""
    several = isinstance(example_input, Mapping)
    given = dict(example_input) if isinstance(example_input, Mapping) else {"input": example_input}
    for name, tensor in given.items():
        told = f"example_input[{name!r}]" if several else "example_input"
        if not isinstance(tensor, Tensor) or tensor.dim() < 2:
            raise ValueError(f"{told}: expected one tensor [batch, *sample]")
        if len(tensor) < 1:
            raise ValueError(f"{told}: expected one sample at least")
    replica, marked = _replica(model, constant)
    examples = {name: tensor.detach().cpu()[[0, -1]] for name, tensor in given.items()}
    if several:
        replica = _Named(replica, list(examples)).eval()
    whole = (torch.int32, torch.int64, torch.bool)
    for name, example in examples.items():
        if not ((several or has_ids(model)) and example.dtype in whole):
            examples[name] = example.float()
    _check_samples(type(model).__name__, replica, tuple(examples.values()), has_ids(model))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        one = {name: example[:1] for name, example in examples.items()}
        _export(type(model).__name__, replica, one, time, path)
        try:
            text, layers = _svdo.graph(path, None if time is None else time.longest)
        except SvdoError as error:
            raise SvdoError(str(error).replace(path, type(model).__name__)) from None
    description = json.loads(text)
    join = _Join(marked, layers)
    nodes, tensors = join.run(description["nodes"])
    lost = join.lost()
    for m in lost:
        if isinstance(m.module, Posterior) and not isinstance(m.module, EmbeddingSVDO):
            raise SvdoError(
                f"layer {m.name!r} is not in the graph: the model does not use it, or does more "
                "with its weights than its own forward"
            )
    if lost or join.constants:
        raise _Constant({m.name for m in [*lost, *join.constants]})
    read = {name for node in nodes for name in node.get("inputs", ())}
    nodes = [{k: v for k, v in n.items() if k != "name" or v in read} for n in nodes]
    return Graph(nodes, description["input"], tensors)


def has_ids(model: nn.Module) -> bool:
    """Whether a model may take token ids."""
    return any(isinstance(m, (nn.Embedding, EmbeddingSVDO)) for m in model.modules())


@torch.no_grad()
def _check_samples(
    name: str, model: nn.Module, examples: tuple[Tensor, ...], of_ids: bool
) -> None:
    """Makes sure that one sample says nothing of another's output, as the graph is read for one."""
    example, *others = examples
    if torch.equal(example[0], example[1]):
        other = example[0] * 0.5 + 0.25 if example.is_floating_point() else example[0] * 0
        example = torch.stack([example[0], other])
    shapes = ", ".join(str(list(tensor.shape)) for tensor in examples)
    try:
        both = model(example, *others)
    except Exception as error:
        hint = ""
        if of_ids and example.is_floating_point():
            hint = "; token ids are a tensor of integers"
        raise ValueError(
            f"{name} does not run on example_input {shapes}: {_root(error)}{hint}"
        ) from error
    if not isinstance(both, Tensor):
        raise ValueError(f"{name} gives {type(both).__name__}: expected one tensor [batch, *sample]")
    first, second = (tuple(tensor[[at]] for tensor in (example, *others)) for at in (0, 1))
    one_by_one = [model(*first), model(*second)]
    sizes = [len(x) if x.dim() else 0 for x in (both, *one_by_one)]
    if sizes != [2, 1, 1] or not torch.allclose(both, torch.cat(one_by_one), 1e-3, 1e-4):
        raise SvdoError(
            f"{name}: what it makes of a sample depends on the others of the batch, which is the first "
            f"dimension of [batch, {', '.join(map(str, example.shape[1:]))}]"
        )


def _export(
    name: str, model: nn.Module, examples: dict[str, Tensor], time: FreeTime | None, path: str
) -> None:
    """Writes the ONNX graph by the exporter there is."""
    if importlib.util.find_spec("onnx") is None:
        raise ImportError("saving a model needs the package onnx (and onnxscript): pip install 'svdo[torch]'")
    settings: dict[str, Any] = {"input_names": list(examples), "output_names": ["output"]}
    values = tuple(examples.values())
    newer = "dynamo" in inspect.signature(torch.onnx.export).parameters
    # The newer exporter spells every step of such a layer out.
    spelled_out = any(isinstance(m, nn.RNN) for m in model.modules())
    free: dict[str, Any] = {}
    freer: dict[str, Any] = {}
    if time is not None:
        free["dynamic_axes"] = {n: {time.dim: "time"} for n in time.of(examples)}
        if newer:
            steps = {time.dim: torch.export.Dim("time", max=time.longest)}
            freer["dynamic_shapes"] = _by_argument(model, {n: steps for n in time.of(examples)}, examples)
    failed: Exception | None = None
    with warnings.catch_warnings(), torch.no_grad(), _no_fast_paths():
        warnings.simplefilter("ignore")
        if newer and not spelled_out and importlib.util.find_spec("onnxscript") is not None:
            try:
                torch.onnx.export(model, values, path, dynamo=True, verbose=False, **settings, **freer)
                return
            except Exception as error:  # noqa: BLE001 it is told below, if nothing else works
                failed = error
        try:
            older = {"dynamo": False} if newer else {}
            torch.onnx.export(model, values, path, **settings, **older, **free)
        except Exception as error:
            raise SvdoError(f"{name} cannot be exported to ONNX: {_root(failed or error)}") from error


def _by_argument(model: nn.Module, shapes: dict[str, Any], examples: Mapping[str, Tensor]) -> Any:
    """Free dimensions in the order of a model's arguments: one that takes what there is takes a tuple of all."""
    listed = tuple(shapes.get(name) for name in examples)
    return (listed,) if isinstance(model, _Named) else listed


@contextmanager
def _no_fast_paths() -> Iterator[None]:
    """Attention spelled out: what replaces it at inference is in no graph."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _root(error: BaseException) -> str:
    """The first line of what an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[0])


def _replica(model: nn.Module, constant: set[str]) -> tuple[nn.Module, list[_Marked]]:
    """The model in evaluation mode on the CPU, its layers but ``constant`` ones with random weights, and
    these."""
    replica = copy.deepcopy(model).cpu().float().eval()
    generator = torch.Generator().manual_seed(0x5D0)
    marked: list[_Marked] = []
    made: dict[int, nn.Module] = {}
    ours = dict(model.named_modules(remove_duplicate=False))
    drawn: dict[int, Tensor] = {}

    def draw(shape: Any, of: Tensor | None) -> Tensor:
        """Random numbers, the same for parameters that are one."""
        if of is not None and id(of) in drawn:
            return drawn[id(of)]
        numbers = torch.randn(tuple(shape), generator=generator) * 0.1
        if of is not None:
            drawn[id(of)] = numbers
        return numbers

    def mark(name: str, original: _Layer, weight: Tensor, bias: Tensor | None) -> Any:
        """Random numbers in the place of a weight and a bias, which are noted."""
        own = getattr(original, "theta", None)
        weight = draw(weight.shape, getattr(original, "weight", None) if own is None else own)
        if bias is not None:
            bias = draw(bias.shape, getattr(original, "bias", None))
        stored = as_described(original, weight).numpy()
        numbers = None if bias is None else bias.numpy()
        marked.append(_Marked(name or ROOT, original, stored, numbers))
        return nn.Parameter(weight, False), None if bias is None else nn.Parameter(bias, False)

    def stand_in(name: str, module: nn.Module) -> nn.Module | None:
        here = f"module {name!r} ({type(module).__name__})"
        original = ours[name]
        if isinstance(module, (_Recurrent, *_PLAIN_RECURRENT)):
            if not _is_bare(module):
                return None
            if getattr(module, "proj_size", 0):
                raise ValueError(f"{here}: proj_size has no description")
            layer: Any = module.dense() if isinstance(module, _Recurrent) else module
            if any(f"{name}.{part}" in constant for part in _parts(original)):
                return layer
            for part in _parts(original):
                cell = _part(layer, part)
                weight, bias = mark(f"{name}.{part}", _part(original, part), cell.weight, cell.bias)
                setattr(layer, f"weight_{part}", weight)
                if bias is not None:
                    setattr(layer, f"bias_{part}", bias)
            return layer
        if isinstance(module, Posterior):
            layer = module.dense()
            if (name or ROOT) in constant:
                return layer
        elif (name or ROOT) in constant:
            return None
        elif isinstance(module, _BatchNorm):
            if module.running_mean is None or module.running_var is None:
                raise ValueError(f"{here} has no running statistics: track_running_stats=True")
            layer = _PerChannel(module.num_features)
        elif type(module) in _PLAIN and _is_bare(module):
            layer = copy.copy(module)
            layer._parameters = dict(module._parameters)
        else:
            return None
        layer.weight, bias = mark(name, original, layer.weight, getattr(layer, "bias", None))
        if bias is not None:
            layer.bias = bias
        return layer

    def visit(name: str, module: nn.Module) -> nn.Module:
        if id(module) not in made:
            found = stand_in(name, module)
            made[id(module)] = module if found is None else found
            # Attention multiplies by the weights of its layers itself.
            if found is None and not isinstance(module, nn.MultiheadAttention):
                for child_name, child in module._modules.items():
                    if child is not None:
                        whole = f"{name}.{child_name}" if name else child_name
                        module._modules[child_name] = visit(whole, child)
        return made[id(module)]

    return visit("", replica).eval(), marked


def _parts(module: nn.Module) -> list[str]:
    """The parts of a recurrent layer that have one weight: ``ih_l0``, ``hh_l0``, ``ih_l0_reverse``, ..."""
    if isinstance(module, _Recurrent):
        return [name for name, part in module.named_children() if isinstance(part, Posterior)]
    weights = (name.partition("weight_") for name in module._parameters)
    return [part for _, found, part in weights if found]


def _part(module: nn.Module, part: str) -> _Layer:
    if isinstance(module, _Recurrent):
        return getattr(module, part)
    return _Cell(getattr(module, f"weight_{part}"), getattr(module, f"bias_{part}", None))


def _is_bare(module: nn.Module) -> bool:
    """Whether its weights are parameters, not what a hook makes of others."""
    if isinstance(module, _Recurrent):
        return True
    if module._forward_pre_hooks or getattr(module, "max_norm", None) is not None:
        return False
    if isinstance(module, nn.RNNBase):
        return set(module._parameters) == set(module._flat_weights_names)
    return set(module._parameters) <= {"weight", "bias"}


def as_described(module: _Layer, weight: Tensor) -> Tensor:
    """A layer's weight as descriptions have it: [out, in] or [out, in/groups, kh, kw]."""
    if isinstance(module, _BatchNorm):
        return weight.reshape(-1, 1, 1, 1)
    if weight.dim() == 2:
        return weight
    if "Transpose" in type(module).__name__:
        groups, (inputs, outputs) = module.groups, weight.shape[:2]
        split = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:])
        weight = split.transpose(1, 2).reshape(outputs * groups, inputs // groups, *weight.shape[2:])
    if weight.dim() == 3:
        weight = weight.unsqueeze(2)
    down, right = ([1, *module.dilation] if len(module.dilation) == 1 else module.dilation)  # type: ignore[misc, arg-type]
    if (down, right) == (1, 1):
        return weight.contiguous()
    outputs, inputs, rows, cols = weight.shape
    spread = weight.new_zeros(outputs, inputs, (rows - 1) * down + 1, (cols - 1) * right + 1)
    spread[:, :, ::down, ::right] = weight
    return spread


def as_trained(module: nn.Module, stored: Tensor) -> Tensor:
    """The inverse of :func:`as_described`, for whatever shape the description has."""
    shape = getattr(module, "theta", getattr(module, "weight", None)).shape  # type: ignore[union-attr]
    if len(shape) == 2:
        return stored.reshape(shape)
    down, right = ([1, *module.dilation] if len(module.dilation) == 1 else module.dilation)  # type: ignore[misc, arg-type]
    stored = stored[:, :, ::down, ::right]
    if "Transpose" in type(module).__name__:
        groups = module.groups
        split = stored.reshape(groups, -1, *stored.shape[1:])
        stored = split.transpose(1, 2).flatten(0, 1)
    return stored.reshape(shape)


class _Join:
    """Ties the layers of a graph to those of the model."""

    def __init__(self, marked: list[_Marked], layers: list[Any]) -> None:
        self.marked: dict[bytes, list[_Marked]] = {}
        for m in marked:
            self.marked.setdefault(m.weight.tobytes(), []).append(m)
        self.layers = {layer[0]: layer for layer in layers}
        # Shapes in the description of those that are in it.
        self.used: dict[str, list[int]] = {}
        self.tensors: dict[str, Any] = {}
        # Those whose weights stand in the graph as values.
        self.constants: list[_Marked] = []

    def run(self, nodes: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        joined: list[dict[str, Any]] = []
        for node in nodes:
            joined.extend(self.node(node) if "layer" in node else [node])
        return joined, self.tensors

    def lost(self) -> list[_Marked]:
        """Layers that are not in the graph. Of layers of one weight, one stands for all."""
        there = {*self.used, *(m.name for m in self.constants)}
        groups = self.marked.values()
        return [m for tied in groups if not any(m.name in there for m in tied) for m in tied]

    def node(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        of_graph, shape, values, bias, fold = self.layers[node["layer"]]
        values = np.asarray(values, np.float32)
        tied = self.marked.get(values.tobytes())
        if tied is not None and node["op"] == "constant":
            self.constants.extend(tied)
        if tied is None or node["op"] == "constant":
            return [{**node, "layer": self.constant(of_graph, shape, values, bias, fold)}]
        marked = next((m for m in tied if self.fits(m, bias, shape)), tied[0])
        after = _composed(marked, bias, fold)
        module, name = marked.module, marked.name
        if self.used.setdefault(name, shape) != shape:
            # A table of embeddings that is a layer of vectors, too.
            name = f"graph.{of_graph}"
        if isinstance(module, _BatchNorm):
            first = {"op": "batch_norm", "layer": name, "eps": module.eps}
            self.tensors.update(_norm(name, module))
        else:
            first = {**node, "layer": name}
            first.pop("name", None)
            first.pop("inputs", None)
            self.tensors.update(_weights(name, module, shape))
        if "inputs" in node:
            first["inputs"] = node["inputs"]
        made = [first]
        if after is not None:
            # What the graph multiplies and adds, as a normalization that does nothing else.
            factor, offset = after
            numbers = {"weight": factor, "bias": offset}
            numbers |= {"running_mean": np.zeros_like(factor), "running_var": np.ones_like(factor)}
            folded = f"graph.{of_graph}.after"
            self.tensors.update({f"{folded}.{role}": v for role, v in numbers.items()})
            made.append({"op": "batch_norm", "layer": folded, "eps": 0.0})
        if "name" in node:
            made[-1]["name"] = node["name"]
        return made

    def fits(self, marked: _Marked, bias: Any, shape: list[int]) -> bool:
        return _same(marked.bias, bias) and self.used.get(marked.name, shape) == shape

    def constant(self, name: str, shape: list[int], values: Any, bias: Any, fold: Any) -> str:
        """Stores numbers that stand in the graph alone; gives the name that they get."""
        stored = f"graph.{name}"
        weight = values.reshape(shape).astype(np.float64)
        if fold is not None:
            factor, offset = (np.asarray(part) for part in fold)
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            bias = offset if bias is None else np.asarray(bias, np.float64) * factor + offset
        self.tensors[f"{stored}.weight"] = weight.astype(np.float32)
        if bias is not None:
            self.tensors[f"{stored}.bias"] = np.asarray(bias, np.float32)
        return stored


def _same(own: Any, found: Any) -> bool:
    if own is None or found is None:
        return own is None and found is None
    return bool(np.array_equal(own, np.asarray(found, np.float32)))


def _composed(marked: _Marked, bias: Any, fold: Any) -> tuple[Any, Any] | None:
    """What the graph does to the outputs of a layer after its own bias: factors and offsets."""
    factor, offset = (None, None) if fold is None else (np.asarray(part) for part in fold)
    if marked.bias is None and bias is not None:
        # What is added to a layer without bias.
        added = np.asarray(bias, np.float64)
        offset = added if factor is None else factor * added + offset
        factor = np.ones_like(added) if factor is None else factor
    elif marked.bias is not None:
        if not _same(marked.bias, bias):
            raise SvdoError(f"layer {marked.name!r}: the export changed its bias")
    return None if factor is None else (factor, offset)


def _weights(name: str, module: _Layer, shape: list[int]) -> Iterator[tuple[str, Any]]:
    """The tensors of a layer, shaped as the description has them."""
    if isinstance(module, _Cell):
        # As the recurrent layer calls its own: lstm.weight_ih_l0.
        of, _, part = name.rpartition(".")
        yield f"{of}.weight_{part}", module.weight.detach()
        if module.bias is not None:
            yield f"{of}.bias_{part}", module.bias.detach()
        return
    roles = ("theta", "log_sigma2") if isinstance(module, Posterior) else ("weight",)
    for role in roles:
        tensor = as_described(module, getattr(module, role).detach())
        yield f"{name}.{role}", tensor.reshape(shape)
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        yield f"{name}.bias", bias.detach()


def _norm(name: str, module: _BatchNorm) -> Iterator[tuple[str, Any]]:
    for role in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, role)
        if tensor is not None:
            yield f"{name}.{role}", tensor.detach()
