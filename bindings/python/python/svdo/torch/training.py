"""Training that works the first time: a schedule for the weight of the KL, and what becomes of the layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svdo.torch.posterior import Posterior

# The log variance of a weight that is zero for good.
_NO_NOISE = -60.0


@dataclass(frozen=True)
class Schedule:
    """The weight of the KL over the steps (or epochs) of a training: 0 for ``delay``, then rising
    evenly to ``scale`` for ``ramp``.

    Without a ramp weights die before they have learned anything.
    """

    ramp: float
    delay: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (self.ramp >= 0 and self.delay >= 0 and self.scale >= 0):
            raise ValueError(f"{self}: expected numbers from 0 on")

    def kl_weight(self, at: float) -> float:
        """The weight at a step or epoch, in the unit of ``ramp`` and ``delay``."""
        if at < self.delay:
            return 0.0
        if self.ramp == 0:
            return self.scale
        return self.scale * min(1.0, (at - self.delay) / self.ramp)


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
def stats(model: nn.Module) -> list[LayerStats]:
    """Sparsity, mean log alpha and KL of every SVDO layer. Warns of layers that keep no weight.

    Layers of one weight are counted once.
    """
    found: list[LayerStats] = []
    seen: set[int] = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, Posterior) or id(layer.theta) in seen:
            continue
        seen.add(id(layer.theta))
        log_alpha = layer.log_alpha()
        finite = log_alpha[log_alpha.isfinite()]
        kept = int(layer.mask().sum())
        mean = finite.mean().item() if finite.numel() else float("nan")
        found.append(LayerStats(name, kept, layer.theta.numel(), mean, layer.kl().item()))
        if kept == 0:
            warnings.warn(
                f"layer {name!r} keeps no weight: raise the KL's weight later or more slowly",
                stacklevel=2,
            )
    return found


@torch.no_grad()
def prune_(model: nn.Module) -> nn.Module:
    """Prunes for good, in place: weights with a log alpha above the threshold become zero, without
    noise, and stay so, since their gradients are zero from now on.

    For fine-tuning what pruning left: make the optimizer anew, so that no momentum moves a zero.
    """
    for layer in model.modules():
        if not isinstance(layer, Posterior):
            continue
        mask = layer.mask()
        layer.theta.mul_(mask)
        layer.log_sigma2.masked_fill_(~mask, _NO_NOISE)

        def masked(gradient: Tensor, mask: Tensor = mask) -> Tensor:
            return gradient * mask.to(gradient.device, gradient.dtype)

        for parameter in (layer.theta, layer.log_sigma2):
            if parameter.requires_grad:
                parameter.register_hook(masked)
    return model
