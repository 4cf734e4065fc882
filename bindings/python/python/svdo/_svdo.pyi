import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from svdo._prediction import Numbers, Prediction

__all__ = ["Model", "SvdoError", "compress", "export", "load", "save"]

class SvdoError(Exception):
    """A checkpoint or file that cannot be used, in one line: file, tensor, expected, found."""

@final
class Model:
    """A compressed network, ready to run. Immutable, safe to use from many threads at once, and
    picklable. Made by :func:`svdo.load`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: (n,) or (channels, height, width)."""
    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one sample's output: (n,) or (channels, height, width)."""
    @property
    def max_time(self) -> int | None:
        """Steps of the longest sequence, if shorter ones are taken, too; None if inputs have one size."""
    @property
    def threshold(self) -> float | None:
        """The threshold on log alpha that pruned it; None if it was left out of the file."""
    @property
    def network(self) -> dict[str, Any]:
        """The network description (formats/network.md)."""
    @property
    def classes(self) -> list[str]:
        """Names of the outputs, by number; empty if the file has none."""
    @property
    def cpu(self) -> str:
        """The kernels it runs on; the environment variable SVDO_CPU clamps them."""
    @property
    def precision(self) -> str:
        """``"f32"`` or ``"int8"``, as it was loaded."""
    def to_bytes(self) -> bytes:
        """The bytes of the .svdo file."""
    def __call__(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike] | list[Any],
        /,
        *,
        out: npt.NDArray[np.float32] | None = None,
        threads: int | None = None,
    ) -> Any:
        """Run the network on raw values: its own preprocessing is applied.

        Args:
            x: [*batch, *input_shape] with any batch dimensions, or none. A C-contiguous float32
                array is read where it lies; anything else that holds numbers is converted. Of a network
                with several inputs (token ids, a mask) also a dict of arrays by name, each [*batch, *shape].
                If sequences may have any length up to ``max_time``: arrays of any such length, or a list of
                sequences of several, each an array, a list or a dict, without batch dimensions.
            out: a C-contiguous float32 array [*batch, *output_shape] to write into.
            threads: threads to use at most; if None, as many as the work is worth. The outputs
                do not depend on it. The interpreter's lock is released meanwhile.

        Returns:
            float32 [*batch, *output_shape]: ``out`` if it was given. All of it is finite. Of a list of
            sequences a list of arrays.

        Raises:
            SvdoError: a value of ``x`` is NaN or infinite, or an output is, as where sums
                overflow: the message names sample, counted over all batch dimensions, and
                element. Such an output is no class; ``out`` then holds what was computed.
            ValueError: a shape does not fit; the message says which would.
            TypeError: ``x`` holds no numbers.
        """

    def predict(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        /,
        *,
        uncertainty: str = "moments",
        seed: int = 0,
        threads: int | None = None,
    ) -> Prediction:
        """Predict classes under the posterior of the weights, of which the file must hold variances
        (``compress(..., variances=True)``).

        Args:
            x: as for a call.
            uncertainty: ``"moments"`` propagates means and variances in one pass, ``"mc=N"`` samples
                the posterior N times, ``"mean"`` leaves it out.
            seed: of the noise; the result depends on nothing else, neither on threads nor on the
                other samples of a batch.
            threads: threads to use; one for each core if None.

        Raises:
            ValueError: the file holds no variances, or `uncertainty` is none of the above.
            SvdoError: an operation has no rule for moments, or a value is not finite.
        """

    def predict_numbers(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        /,
        *,
        uncertainty: str = "moments",
        seed: int = 0,
        threads: int | None = None,
    ) -> Numbers:
        """Predict the outputs of a network for regression: mean and standard deviation of each over the posterior.

        Arguments and errors are those of :meth:`predict`.
        """

    def stream(self, *, steps: int = 1) -> Stream:
        """The network at the beginning of a sequence that is given part by part: recurrent cells keep their states,
        attention that looks back its keys and values.

        Args:
            steps: of each part, if sequences may have any length up to ``max_time``; else parts have the size of
                the network's input.

        Raises:
            SvdoError: the network looks at several steps in another way; the message names where.
        """

    def generate(
        self, ids: npt.ArrayLike, count: int, /, *, temperature: float = 0.0, seed: int = 0
    ) -> list[int]:
        """The token ids that follow others, by a network that gives numbers for the next token at each step, or after
        the last.

        Args:
            ids: token ids [tokens], at least one.
            count: how many more; all together no more than ``max_time`` are read.
            temperature: 0 takes the most likely token, else one is drawn by probabilities whose logarithms are
                divided by it.
            seed: of what is drawn; with the same ids it gives the same tokens.

        Raises:
            ValueError: an argument that is none of these.
            SvdoError: the network cannot run as a stream or takes no token ids; or the sequence gets too long.
        """

class Stream:
    """A network in the midst of a sequence. Made by :meth:`Model.stream`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a part."""
    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of a part's output: for each of its steps, or for the last one."""
    def __call__(self, x: npt.ArrayLike, /) -> npt.NDArray[np.float32]:
        """Run the next part, or several: [*input_shape] or [parts, *input_shape] of raw values.

        Raises:
            ValueError: the shape does not fit.
            SvdoError: a value is not finite or no token id, or the sequence gets longer than ``max_time``; nothing
                of ``x`` has then been taken in, but where an output is not finite.
        """
    def reset(self) -> None:
        """Begin anew."""

def load(source: str | os.PathLike[str] | bytes, *, precision: str = "f32") -> Model:
    """Load a .svdo file, or its bytes.

    Args:
        precision: ``"int8"`` to multiply in 8 bits in the layers that are faster so, of a file that was made
            with ``compress(..., int8=samples)``.

    Raises:
        ValueError: ``precision`` is neither ``"f32"`` nor ``"int8"``.
        SvdoError: the file cannot be read, is damaged, of a later version or another format.
    """

def compress(
    source: Path | list[tuple[str, npt.NDArray[Any]]],
    thresh: float | None,
    sweep: list[float] | None,
    quantize: str,
    bits: int | None,
    network: str | Path | None,
    classes: list[str] | None,
    read_as: dict[str, str],
    output: Path | None,
    simplify: bool,
    strip: bool,
    variances: bool,
    pruned_variance: bool,
    fast: bool,
    validate: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint32] | None] | None,
    calibrate: npt.NDArray[np.float32] | None,
    distill: int,
    recalibrate: npt.NDArray[np.float32] | None,
    int8: npt.NDArray[np.float32] | None,
    goal: tuple[str, float] | None,
    effort: int,
    search_state: Path | None,
    threads: int | None,
    own: bool,
) -> tuple[str, str, str, bytes]: ...
def save(
    path: Path, named: list[tuple[str, npt.NDArray[Any]]], network: str | Path | None, own: bool
) -> None: ...
def graph(
    path: Path,
    longest: int | None,
) -> tuple[
    str,
    list[
        tuple[
            str,
            list[int],
            npt.NDArray[np.float32],
            npt.NDArray[np.float32] | None,
            tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None,
        ]
    ],
]:
    """The network description of an ONNX model, and of each of its layers name, shape, weights row
    by row, bias, and the factor and offset for each row that follow it. Where it leaves the steps of sequences free,
    they are at most ``longest``."""

def tensors(path: Path) -> list[tuple[str, str, list[int], npt.NDArray[np.uint8]]]:
    """Name, type, shape and bytes of each tensor of a safetensors file."""
def export(
    source: str | os.PathLike[str] | bytes, format: str, sparse: bool, output: Path
) -> None: ...
