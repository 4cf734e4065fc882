"""What changes over a training, the state of the layers, and pruning for good."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svdo.torch.posterior import Posterior, posteriors
from svdo.torch.sharded import reshard, whole

# The log variance of a weight that is zero for good.
_NO_NOISE = -60.0


@dataclass(frozen=True)
class Schedule:
    """What changes over the steps (or epochs) of a training.

    The weight of the KL is 0 for ``delay``, then rises evenly to ``scale`` for ``ramp``: without a ramp
    weights die before they have learned anything. The learning rate of log sigma^2 is that of the other
    parameters times ``rates``: pairs of a time and a factor, straight lines between them.
    """

    ramp: float
    delay: float = 0.0
    scale: float = 1.0
    rates: Sequence[tuple[float, float]] = ((0.0, 1.0),)

    def __post_init__(self) -> None:
        if not (self.ramp >= 0 and self.delay >= 0 and self.scale >= 0):
            raise ValueError(f"{self}: expected numbers from 0 on")
        times = [time for time, _ in self.rates]
        if not times or sorted(times) != times or not all(rate >= 0 for _, rate in self.rates):
            raise ValueError(f"rates={self.rates}: expected pairs of a time, rising, and a factor from 0 on")

    def kl_weight(self, at: float) -> float:
        """The weight at a step or epoch, in the unit of ``ramp`` and ``delay``."""
        if at < self.delay:
            return 0.0
        if self.ramp == 0:
            return self.scale
        return self.scale * min(1.0, (at - self.delay) / self.ramp)

    def log_sigma2_rate(self, at: float) -> float:
        """By what the learning rate of log sigma^2 is multiplied at a step or epoch."""
        before, rate = self.rates[0]
        at = max(at, before)
        for time, factor in self.rates:
            if at < time:
                return rate + (factor - rate) * (at - before) / (time - before)
            before, rate = time, factor
        return rate

    def set_rates(self, optimizer: torch.optim.Optimizer, at: float) -> None:
        """Sets the learning rate of the groups of log sigma^2 that :func:`parameter_groups` made, from
        that of the first other group; to be called after any other scheduler. A rate that is a tensor, as
        CUDA graphs need it, is changed in place."""
        groups = optimizer.param_groups
        others = [group for group in groups if not group.get("log_sigma2")]
        for group in groups:
            if group.get("log_sigma2") and others:
                rate = others[0]["lr"] * self.log_sigma2_rate(at)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate


def parameter_groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """The parameters of a model in two groups for an optimizer: all others, and log sigma^2 of the layers
    with a posterior, which never decays and whose learning rate a :class:`Schedule` may set.

    Args:
        options: of the first group, ``lr`` and ``weight_decay`` for instance.
    """
    variances = {id(layer.log_sigma2): layer.log_sigma2 for layer in posteriors(model)}
    others = [p for p in model.parameters() if id(p) not in variances]
    first = {**options, "params": others, "log_sigma2": False}
    decay = {"weight_decay": 0.0} if "weight_decay" in options else {}
    second = {**options, **decay, "params": list(variances.values()), "log_sigma2": True}
    return [group for group in (first, second) if group["params"]]


@dataclass(frozen=True)
class LayerStats:
    """What evaluation mode makes of a layer."""

    name: str
    kept: int
    """Weights that are kept."""
    total: int
    """All weights."""
    log_alpha: float
    """Mean log alpha of the weights that are not zero; nan if there are none."""
    kl: float
    """KL divergence in nats."""

    @property
    def sparsity(self) -> float:
        """The share of weights that are pruned."""
        return 1.0 - self.kept / self.total


@torch.no_grad()
def measure(model: nn.Module) -> list[LayerStats]:
    """As :func:`stats`, without warnings."""
    found: list[LayerStats] = []
    seen: set[int] = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, Posterior) or id(layer.theta) in seen:
            continue
        seen.add(id(layer.theta))
        log_alpha = whole(layer.log_alpha())
        finite = log_alpha[log_alpha.isfinite()]
        kept = int(whole(layer.mask()).sum())
        mean = finite.mean().item() if finite.numel() else float("nan")
        found.append(LayerStats(name, kept, layer.theta.numel(), mean, layer.kl().item()))
    return found


def stats(model: nn.Module) -> list[LayerStats]:
    """Sparsity, mean log alpha and KL of every SVDO layer. Warns of layers that keep no weight.

    Layers of one weight are counted once.
    """
    found = measure(model)
    for layer in found:
        if layer.kept == 0:
            warn_of(layer.name, stacklevel=3)
    return found


def warn_of(name: str, stacklevel: int) -> None:
    """Says that a layer has died, and what to do."""
    warnings.warn(
        f"layer {name!r} keeps no weight: raise the KL's weight later or more slowly",
        stacklevel=stacklevel,
    )


@torch.no_grad()
def prune_(model: nn.Module) -> nn.Module:
    """Prunes for good, in place: weights with a log alpha above the threshold become zero, without
    noise, and stay so, since their gradients are zero from now on.

    For fine-tuning what pruning left: make the optimizer anew, so that no momentum moves a zero.
    """
    reshard(model)
    for layer in model.modules():
        if not isinstance(layer, Posterior):
            continue
        mask = layer.mask()
        layer.theta.mul_(mask)
        layer.log_sigma2.masked_fill_(~mask, _NO_NOISE)

        def masked(parameter: Tensor, mask: Tensor = mask) -> None:
            assert parameter.grad is not None
            parameter.grad.mul_(mask.to(parameter.grad.device))

        # When all of a gradient is there, that of other processes' samples, too, where the layer is sharded.
        for parameter in (layer.theta, layer.log_sigma2):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(masked)
    return model
