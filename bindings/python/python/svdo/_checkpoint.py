"""Checkpoints, in files or in memory, and what becomes of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
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
    thresh: float | str = 3.0,
    *,
    sweep: Iterable[float] | None = None,
    quantize: str = "rd",
    bits: int | None = None,
    network: Network | None = None,
    classes: Iterable[str] | None = None,
    profile: str | None = None,
    variance: str | None = None,
    layout: str | None = None,
    flatten: str | None = None,
    ignore_masks: bool = False,
    output: PathLike | None = None,
    simplify: bool = True,
    strip: bool = False,
    variances: bool = False,
    pruned_variance: bool = False,
    fast: bool = False,
    validate: tuple[npt.ArrayLike, npt.ArrayLike | None] | None = None,
    calibrate: npt.ArrayLike | None = None,
    distill: int = 0,
    recalibrate: npt.ArrayLike | None = None,
    int8: npt.ArrayLike | None = None,
    max_error_increase: float | None = None,
    max_output_error: float | None = None,
    max_bytes: int | None = None,
    effort: int = 5,
    search_state: PathLike | None = None,
    threads: int | None = None,
    _own: bool = False,
) -> Report:
    """Compress a checkpoint trained by sparse variational dropout.

    Weights whose log alpha = log sigma^2 - log theta^2 is above ``thresh`` are pruned; units that
    pruning leaves dead or constant are removed exactly; the rest is quantized and entropy-coded.
    The file is read back and compared before this returns.

    Args:
        checkpoint: a file, or a state dict: names to arrays or tensors. Of each layer, ``theta``
            and ``log_sigma2`` [out, in] or [out, in/groups, kh, kw], and ``bias`` [out]; other
            names are in formats/checkpoints.md. Arrays are read where they lie. A PyTorch model is
            taken with an example of its input behind it: see :func:`svdo.torch.compress`.
        thresh: prune weights with a log alpha above this; ``"auto"`` for the valley between the
            two modes of their histogram.
        sweep: also compress at each of these thresholds, and report ratios (and errors, given
            ``validate``) in ``Report.sweep``; if None, at a few around the one in use when
            ``validate`` has labels.
        quantize: ``"rd"``, near-lossless, chooses levels by their distortion and their cost in
            bits; ``"exact"`` keeps every bit of every f32, ``"f16"`` rounds to binary16,
            ``"uniform"`` to multiples of one step for each layer, ``"codebook"`` to a few values of
            each layer by k-means.
        bits: bits of a weight for ``"uniform"``, 2 to 16, 8 if None, and ``"codebook"``, 1 to 8, 5
            if None.
        network: the network description (formats/network.md) as a dict or a file. Needed if the
            checkpoint carries none and is no plain chain of linear layers.
        classes: names of the outputs, by number, for :attr:`Model.classes` and ``svdo-infer``; None for
            those that the checkpoint or its network has, if any.
        profile: the code base that wrote the checkpoint, as formats/checkpoints.md names it; found
            if None.
        variance: what the variances hold: ``"log_sigma2"``, ``"log_sigma"``, ``"log_alpha"``, ``"rho"`` or
            ``"sigma"``; what their names say if None.
        layout: of dense layers (``"oi"``, ``"io"``) and of convolutions (``"oihw"``, ``"hwio"``),
            with a comma between: found if None.
        flatten: how a dense layer sees the map of a convolution: ``"channels-first"`` or
            ``"channels-last"``; the latter with hwio if None.
        ignore_masks: leave masks that are stored beside the weights alone.
        output: the file to write, whole or not at all. None writes none: the bytes are in
            ``Report.data`` in any case.
        simplify: remove dead and constant units.
        strip: leave names and the threshold out of the file.
        variances: store the variances of the kept weights, too, in a few bytes: for
            :meth:`Model.predict`. What a search bounds is the file without them.
        pruned_variance: with ``variances``, store a summary of the pruned weights' variances, a factor
            for each row and column; needs ``simplify=False``.
        fast: code for fast decoding rather than for size.
        validate: samples [batch, *input_shape] of raw values and labels [batch] (or None), on
            which to measure the error of the result. Not the test set if you choose settings by
            it, as a search does.
        calibrate: samples [batch, *input_shape] of raw values, without labels, as those of the
            training; a few thousand are enough. Weights are fitted to the pruned network's outputs
            on them as they are quantized: for ``quantize="rd"``.
        distill: in so many steps, 500 to 1000, move the levels of all layers together by gradients on
            the samples of ``calibrate``, towards the pruned network's outputs, a bit at its price; with a
            search, from the best that it finds otherwise on.
        recalibrate: samples as for ``calibrate``, on which the mean and variance of every batch
            normalization are measured again, behind the pruned and quantized layers before it; the
            checkpoint's were gathered under noise and without pruning. ``Report.recalibration`` says
            how far they had moved.
        int8: samples as for ``calibrate``, on which the ranges of activations are measured: for
            ``load(..., precision="int8")``, which multiplies in 8 bits where that is faster. Some hundreds are
            enough.
        max_error_increase: search the smallest file whose error rate on ``validate`` is at most
            that of the pruned network plus this. A search needs ``quantize="rd"``; this goal needs
            ``validate`` with labels, the others make do with ``calibrate`` or random inputs; the
            threshold may move below ``thresh``, never above.
        max_output_error: search the smallest file whose outputs change by at most this share (root
            mean squares); needs no labels.
        max_bytes: search the best file of at most this many bytes, by cross-entropy or, without
            labels, by the change of outputs.
        effort: how long to search, 1 to 9.
        search_state: a file in which a search keeps every configuration that it has tried, as soon as it has: the
            same call goes on from there after it was cut, and returns what it would have at once. The goal and
            ``effort`` may change; other weights, data or coding, or another version, are refused.
        threads: threads to use; one for each core if None. The result does not depend on it.

    Raises:
        SvdoError: the checkpoint or network cannot be used, or a file not be read or written.
        ValueError: an argument has no meaning.
    """
    if isinstance(thresh, str) and thresh != "auto":
        raise ValueError(f'thresh={thresh!r}: expected a number or "auto"')
    thresholds = None if sweep is None else [float(t) for t in sweep]
    for t in [*(thresholds or ()), *([] if isinstance(thresh, str) else [thresh])]:
        if not math.isfinite(t):
            raise ValueError(f"thresh={t}: expected a finite number")
    if bits is not None and not 2 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 2 to 16")
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads}: expected 1 to 1024")
    if calibrate is not None and quantize != "rd":
        raise ValueError(f'calibrate: needs quantize="rd", not {quantize!r}')
    if distill < 0:
        raise ValueError(f"distill={distill}: expected a number of steps")
    if distill and calibrate is None:
        raise ValueError("distill: needs samples for calibrate")
    goals = {
        "max_error_increase": max_error_increase,
        "max_output_error": max_output_error,
        "max_bytes": max_bytes,
    }
    goal = [(name, float(bound)) for name, bound in goals.items() if bound is not None]
    if len(goal) > 1:
        raise ValueError(f"{goal[0][0]} and {goal[1][0]}: one goal at a time")
    if search_state is not None and not goal:
        raise ValueError("search_state: needs a goal, as max_bytes")
    if goal:
        _check_search(quantize, *goal[0], effort)
    is_file = isinstance(checkpoint, (str, os.PathLike))
    source = Path(checkpoint) if is_file else _arrays(checkpoint)  # type: ignore[arg-type]
    words = {"profile": profile, "variance": variance, "layout": layout, "flatten": flatten}
    read_as = {name: word for name, word in words.items() if word is not None}
    if ignore_masks:
        read_as["ignore_masks"] = ""
    answer = _svdo.compress(
        source,
        None if isinstance(thresh, str) else thresh,
        thresholds,
        quantize,
        bits,
        _network(network),
        None if classes is None else [str(name) for name in classes],
        read_as,
        None if output is None else Path(output),
        simplify,
        strip,
        variances,
        pruned_variance,
        fast,
        None if validate is None else _labelled(*validate),
        None if calibrate is None else _labelled(calibrate, None)[0],
        distill,
        None if recalibrate is None else _labelled(recalibrate, None)[0],
        None if int8 is None else _labelled(int8, None)[0],
        goal[0] if goal else None,
        effort,
        None if search_state is None else Path(search_state),
        threads,
        _own,
    )
    return Report._parse(*answer)


def save(
    path: PathLike, state_dict: StateDict, network: Network | None = None, *, own: bool = False
) -> None:
    """Save a checkpoint as safetensors with its network in the metadata, whole or not at all.

    Args:
        path: the file to write.
        state_dict: names to arrays or tensors of f32, f64, f16 or bf16 (saved as f32); as in
            :func:`compress`. They are checked against the network as :func:`compress` would.
        network: the network description as a dict or a file; None for a plain chain of linear
            layers.
        own: whether the tensors are called and shaped exactly as the description says, which is then
            saved as it is, batch normalizations included.

    Raises:
        SvdoError: the tensors do not make up the network, or the file cannot be written.
    """
    _svdo.save(Path(path), _arrays(state_dict), _network(network), own)


def export(
    model: PathLike | bytes | _svdo.Model, output: PathLike, *, sparse: bool = False
) -> None:
    """Write a compressed model as a dense one, with the weights that it runs with, bit for bit.

    Args:
        model: a .svdo file, its bytes, or a loaded model.
        output: the file to write, whole or not at all; its extension says what: ``.safetensors``
            and ``.npz`` hold ``<layer>.weight`` [out, in] or [out, in/groups, kh, kw] and
            ``<layer>.bias`` [out], ``.onnx`` the whole network, preprocessing included.
        sparse: for ``.onnx``: weights as sparse initializers.

    Raises:
        SvdoError: the model cannot be read or exported, or the file not be written.
        ValueError: an argument has no meaning.
    """
    format = Path(output).suffix[1:]
    if format not in ("safetensors", "npz", "onnx"):
        raise ValueError(f"{output}: expected a name that ends in .safetensors, .onnx or .npz")
    if sparse and format != "onnx":
        raise ValueError("sparse is for .onnx")
    source = model.to_bytes() if isinstance(model, _svdo.Model) else model
    _svdo.export(source, format, sparse, Path(output))


def _network(network: Network | None) -> str | Path | None:
    """JSON as str, a file as Path."""
    if network is None:
        return None
    if isinstance(network, Mapping):
        return json.dumps(network)
    return Path(network)


def _check_search(quantize: str, goal: str, bound: float, effort: int) -> None:
    if quantize != "rd":
        raise ValueError(f'{goal}: a search needs quantize="rd"')
    if not (math.isfinite(bound) and bound >= 0):
        raise ValueError(f"{goal}={bound}: expected a number from 0 on")
    if not 1 <= effort <= 9:
        raise ValueError(f"effort={effort}: expected 1 to 9")


def _labelled(samples: npt.ArrayLike, labels: npt.ArrayLike | None) -> tuple[Any, Any]:
    values = np.ascontiguousarray(samples, dtype=np.float32).reshape(-1)
    if labels is None:
        return values, None
    classes = np.asarray(labels)
    if classes.dtype.kind not in "iu" or classes.ndim != 1:
        raise ValueError(
            f"labels: expected integers of shape [batch], found {classes.dtype} {classes.shape}"
        )
    if classes.size and not 0 <= int(classes.min()) <= int(classes.max()) < 2**32:
        raise ValueError("labels: expected the numbers of classes, from 0")
    return values, np.ascontiguousarray(classes, dtype=np.uint32)


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
