"""What a model predicts under its posterior."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Prediction(NamedTuple):
    """Predictive distributions of classes, for each sample of a batch."""

    probabilities: npt.NDArray[np.float64]
    """[*batch, classes]: means over the posterior."""
    std: npt.NDArray[np.float64]
    """[*batch, classes]: their standard deviations over the posterior."""
    entropy: npt.NDArray[np.float64]
    """[*batch]: the entropy of the probabilities, in nats: all that is uncertain."""
    mutual_information: npt.NDArray[np.float64]
    """[*batch]: of class and weights, in nats: what networks of the posterior disagree about."""


class Numbers(NamedTuple):
    """Predictive distributions of outputs that are numbers, for each sample of a batch."""

    mean: npt.NDArray[np.float64]
    """[*batch, *output_shape]: means over the posterior."""
    std: npt.NDArray[np.float64]
    """[*batch, *output_shape]: standard deviations over the posterior, what more data would lessen. That of true
    numbers around the outputs is not in it: its square adds to theirs."""
