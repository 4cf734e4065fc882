"""One object for what a training loop does beside its steps: the weight of the KL and learning rates, steered
where a sparsity is wanted; what is logged; and warnings."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdo.torch.checkpoint import unwrap
from svdo.torch.loss import kl
from svdo.torch.training import LayerStats, Schedule, measure, warn_of


class Steering:
    """A factor for the weight of the KL that brings a model to a sparsity.

    Weights do not come back easily, so what counts is where sparsity is heading: the log odds of sparsity,
    continued for ``lead`` more observations as they last changed, are held against those wanted.

    Args:
        target: the share of weights that is to be pruned, above 0 and below 1.
        lead: observations by which to look ahead.
        gain: how fast the factor follows.
    """

    def __init__(self, target: float, *, lead: float = 3.0, gain: float = 0.25) -> None:
        if not 0 < target < 1:
            raise ValueError(f"target_sparsity={target}: expected a share above 0 and below 1")
        self.target, self.lead, self.gain = target, lead, gain
        self.factor = 1.0
        self._last: float | None = None

    def observe(self, sparsity: float) -> float:
        """Takes in the sparsity now, at even intervals; gives the factor."""
        odds = _log_odds(sparsity)
        ahead = odds if self._last is None else odds + self.lead * (odds - self._last)
        self._last = odds
        turn = self.gain * (_log_odds(self.target) - ahead)
        # From none to a few is far in log odds: one observation turns by no more than a factor of 2.
        factor = self.factor * math.exp(min(max(turn, -math.log(2)), math.log(2)))
        self.factor = min(max(factor, 1e-3), 1e3)
        return self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self._last = state["factor"], state["last"]


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-5)
    return math.log(share / (1 - share))


class Training:
    """What a training under sparse variational dropout needs beside its steps.

    >>> training = svdo.torch.Training(model, 50_000, svdo.torch.Schedule(ramp=20), optimizer=optimizer)
    >>> for epoch in range(100):
    ...     training.begin(epoch)
    ...     for x, target in batches:
    ...         loss = training.loss(model(x), target)
    ...         ...
    ...     training.end(epoch)

    Time is counted in epochs or in steps, as in the schedule; :meth:`begin` may be called for every step
    and :meth:`end` now and then.

    Args:
        model: holds the SVDO layers; may be wrapped for distributed training.
        num_samples: training samples in all.
        schedule: of the KL's weight and of the learning rate of log sigma^2.
        optimizer: whose groups of log sigma^2, by :func:`parameter_groups`, get their rate.
        target_sparsity: the share of weights to prune: the KL's weight is steered to reach it.
        capturable: the KL's weight is a tensor beside the weights, which :meth:`begin` changes in place, so
            that a CUDA graph of a step follows the schedule.
        csv: a file to which :meth:`end` adds one line.
        tensorboard: a folder for TensorBoard, or a writer with ``add_scalar``.
    """

    def __init__(
        self,
        model: nn.Module,
        num_samples: int,
        schedule: Schedule,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        target_sparsity: float | None = None,
        capturable: bool = False,
        csv: str | os.PathLike[str] | None = None,
        tensorboard: Any = None,
    ) -> None:
        if num_samples <= 0:
            raise ValueError(f"num_samples={num_samples}: expected the number of training samples")
        self.model, self.num_samples, self.schedule = model, num_samples, schedule
        self.optimizer = optimizer
        self.steering = None if target_sparsity is None else Steering(target_sparsity)
        self.kl_weight = schedule.kl_weight(0.0)
        # The KL's part of the loss for each sample, by nat.
        self._factor: Tensor | None = None
        if capturable:
            like = next(model.parameters())
            self._factor = like.new_tensor(self.kl_weight / num_samples, dtype=torch.float32)
        self._csv, self._columns = csv, None
        self._writer = _writer(tensorboard)
        self._dead: set[str] = set()

    def begin(self, at: float) -> float:
        """Sets the KL's weight and the learning rate of log sigma^2 for a step or epoch; gives the
        weight."""
        factor = 1.0 if self.steering is None else self.steering.factor
        self.kl_weight = self.schedule.kl_weight(at) * factor
        if self._factor is not None:
            self._factor.fill_(self.kl_weight / self.num_samples)
        if self.optimizer is not None:
            self.schedule.set_rates(self.optimizer, at)
        return self.kl_weight

    def penalty(self) -> Tensor:
        """The KL's part of the loss for each sample, a scalar."""
        factor = self.kl_weight / self.num_samples if self._factor is None else self._factor
        return kl(self.model) * factor

    def loss(
        self,
        output: Tensor,
        target: Tensor,
        data_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> Tensor:
        """As :func:`svdo.torch.sgvlb_loss` with the weight of the KL that is set."""
        return data_loss(output, target) + self.penalty()

    def end(self, at: float, **numbers: float) -> list[LayerStats]:
        """Looks at the layers after an epoch (or some steps): steers, logs them and other ``numbers``,
        and warns, once, of each layer that keeps nothing."""
        layers = measure(unwrap(self.model))
        total = sum(layer.total for layer in layers)
        kept = sum(layer.kept for layer in layers)
        sparsity = 1.0 - kept / max(total, 1)
        # Before the ramp nothing is pruned whatever the weight is.
        if self.steering is not None and self.schedule.kl_weight(at) > 0:
            self.steering.observe(sparsity)
        row = {"at": float(at), "kl_weight": self.kl_weight, "sparsity": sparsity}
        row |= {"kl": sum(layer.kl for layer in layers), **numbers}
        row |= {f"sparsity/{layer.name}": layer.sparsity for layer in layers}
        self._log(at, row)
        for layer in layers:
            if layer.kept == 0 and layer.name not in self._dead:
                self._dead.add(layer.name)
                warn_of(layer.name, stacklevel=3)
        return layers

    def _log(self, at: float, row: dict[str, float]) -> None:
        if self._csv is not None:
            if self._columns is None:
                self._columns = list(row)
            is_new = not os.path.exists(self._csv) or os.path.getsize(self._csv) == 0
            with open(self._csv, "a", newline="") as file:
                writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
        if self._writer is not None:
            for name, value in row.items():
                if name != "at":
                    self._writer.add_scalar(f"svdo/{name}", value, int(at))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs of this."""
        return {"steering": None if self.steering is None else self.steering.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        if self.steering is not None and state["steering"] is not None:
            self.steering.load_state_dict(state["steering"])


def _writer(tensorboard: Any) -> Any:
    if tensorboard is None or hasattr(tensorboard, "add_scalar"):
        return tensorboard
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("tensorboard=: the package tensorboard is not installed") from None
    return SummaryWriter(tensorboard)
