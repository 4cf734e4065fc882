"""Checkpoints, in files or in memory, and what becomes of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from svdo import _svdo
from svdo._report import Report

PathLike = Union[str, "os.PathLike[str]"]
Network = Union[PathLike, Mapping[str, Any]]
StateDict = Mapping[str, Any]


def compress(
    checkpoint: PathLike | StateDict,
    thresh: float = 3.0,
    *,
    quantize: str = "exact",
    bits: int | None = None,
    network: Network | None = None,
    output: PathLike | None = None,
    simplify: bool = True,
    strip: bool = False,
    validate: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    threads: int | None = None,
) -> Report:
    """Compress a checkpoint trained by sparse variational dropout.

    Weights whose log alpha = log sigma^2 - log theta^2 is above ``thresh`` are pruned; units that
    pruning leaves dead or constant are removed exactly; the rest is quantized and entropy-coded.
    The file is read back and compared before this returns.

    Args:
        checkpoint: a file, or a state dict: names to arrays or tensors. Of each layer, ``theta``
            and ``log_sigma2`` [out, in] or [out, in/groups, kh, kw], and ``bias`` [out]; other
            names are in formats/checkpoints.md. Arrays are read where they lie.
        thresh: prune weights with a log alpha above this.
        quantize: ``"exact"`` keeps every bit of every f32, ``"f16"`` rounds to binary16,
            ``"uniform"`` to multiples of one step for each layer.
        bits: bits of a weight for ``"uniform"``, 2 to 16; 8 if None.
        network: the network description (formats/network.md) as a dict or a file. Needed if the
            checkpoint carries none and is no plain chain of linear layers.
        output: the file to write, whole or not at all. None writes none: the bytes are in
            ``Report.data`` in any case.
        simplify: remove dead and constant units.
        strip: leave names and the threshold out of the file.
        validate: samples [batch, *input_shape] of raw values and labels [batch], on which to
            measure the error of the result. Not the test set if you choose settings by it.
        threads: threads to use; all cores if None. The result does not depend on it.

    Raises:
        SvdoError: the checkpoint or network cannot be used, or a file not be read or written.
        ValueError: an argument has no meaning.
    """
    if not math.isfinite(thresh):
        raise ValueError(f"thresh={thresh}: expected a finite number")
    if bits is not None and not 2 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 2 to 16")
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads}: expected 1 to 1024")
    is_file = isinstance(checkpoint, (str, os.PathLike))
    source = Path(checkpoint) if is_file else _arrays(checkpoint)  # type: ignore[arg-type]
    if output is not None and is_file and Path(output) == source:
        raise ValueError("the output would replace the input")
    answer = _svdo.compress(
        source,
        thresh,
        quantize,
        bits,
        _network(network),
        None if output is None else Path(output),
        simplify,
        strip,
        None if validate is None else _labelled(*validate),
        threads,
    )
    return Report._parse(*answer)


def save(path: PathLike, state_dict: StateDict, network: Network | None = None) -> None:
    """Save a checkpoint as safetensors with its network in the metadata, whole or not at all.

    Args:
        path: the file to write.
        state_dict: names to arrays or tensors of f32, f64, f16 or bf16 (saved as f32); as in
            :func:`compress`. They are checked against the network as :func:`compress` would.
        network: the network description as a dict or a file; None for a plain chain of linear
            layers.

    Raises:
        SvdoError: the tensors do not make up the network, or the file cannot be written.
    """
    _svdo.save(Path(path), _arrays(state_dict), _network(network))


def _network(network: Network | None) -> str | Path | None:
    """JSON as str, a file as Path."""
    if network is None:
        return None
    if isinstance(network, Mapping):
        return json.dumps(network)
    return Path(network)


def _labelled(samples: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Any, Any]:
    classes = np.asarray(labels)
    if classes.dtype.kind not in "iu" or classes.ndim != 1:
        raise ValueError(
            f"labels: expected integers of shape [batch], found {classes.dtype} {classes.shape}"
        )
    if classes.size and not 0 <= int(classes.min()) <= int(classes.max()) < 2**32:
        raise ValueError("labels: expected the numbers of classes, from 0")
    values = np.ascontiguousarray(samples, dtype=np.float32)
    return values.reshape(-1), np.ascontiguousarray(classes, dtype=np.uint32)


def _arrays(state_dict: StateDict) -> list[tuple[str, npt.NDArray[Any]]]:
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"expected a file or a dict of names to arrays, found {type(state_dict).__name__}"
        )
    for name in state_dict:
        if not isinstance(name, str):
            raise TypeError(f"state dict: expected names, found the key {name!r}")
    return [(name, _array(value)) for name, value in state_dict.items()]


def _array(value: Any) -> npt.NDArray[Any]:
    """An array or tensor in C order and native byte order, copied only if it was not."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()  # exact; NumPy has no such type
        value = value.numpy()
    array = np.asarray(value)
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
