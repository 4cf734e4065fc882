"""The noise of local reparameterization: a sample of each activation from its mean and variance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from svdo.torch import functional


def add_noise(mean: Tensor, variance: Tensor, unit: Tensor | None = None) -> Tensor:
    """A sample of N(mean, unit^2 variance), elementwise. Neither tensor may be used afterwards: on a CPU their memory
    becomes that of the sample and of its gradient."""
    if unit is None and _in_place(mean, variance):
        return _SampleInPlace.apply(mean, variance)
    noise = _normal_like(mean)
    if unit is not None:
        noise = noise.float() * unit
    return _Sample.apply(mean, variance, noise)


def _normal_like(x: Tensor) -> Tensor:
    """N(0, 1), drawn in the order of memory: PyTorch takes six times as long for numbers that are channels last."""
    noise = torch.empty_like(x)
    lying = None if torch.compiler.is_compiling() else functional.flat((noise,))
    (noise if lying is None else lying[0]).normal_()
    return noise


def _in_place(mean: Tensor, variance: Tensor) -> bool:
    """Whether both are plain tensors on a CPU that nobody else looks at, and nobody watches or compiles what is done."""
    if torch.jit.is_tracing() or _get_current_dispatch_mode() is not None or functional.is_fused(mean):
        return False
    plain = all(type(t) is Tensor and t.is_cpu and not t._is_view() for t in (mean, variance))
    wide = mean.dtype in (torch.float32, torch.float64)
    typed = wide and (variance.dtype == mean.dtype or variance.dtype == torch.bfloat16)
    leaf = mean.is_leaf and mean.requires_grad
    return plain and typed and not leaf and functional.flat((mean, variance)) is not None


class _SampleInPlace(torch.autograd.Function):
    """As :class:`_Sample`, with noise of its own: the sample takes the place of the mean, its gradient by the variance
    that of the variance, and nothing else leaves the cache."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor) -> Tensor:
        ctx.mark_dirty(mean)
        lying = functional.flat((mean, variance))
        assert lying is not None
        _sample_(*lying)
        # Not the variance that the graph knows.
        ctx.save_for_backward(variance.detach())
        return mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return grad, functional.changed(_product, (grad, slope), slope.dtype)


def _sample_(mean: Tensor, variance: Tensor) -> None:
    """Makes of flat means a sample, and of variances its gradient by them."""
    noise = torch.empty_like(mean[: functional.PIECE])
    wide = None if variance.dtype == mean.dtype else torch.empty_like(noise)
    for sample, slope in zip(mean.split(functional.PIECE), variance.split(functional.PIECE)):
        half = noise[: len(sample)].normal_(std=0.5)
        deviation = slope if wide is None else wide[: len(sample)].copy_(slope)
        deviation.clamp_min_(0.0).sqrt_()
        sample.addcmul_(half, deviation, value=2.0)
        # By a deviation of 0 it is not finite, by any other it is.
        torch.div(half, deviation, out=deviation).nan_to_num_(0.0, 0.0, 0.0)
        if wide is not None:
            slope.copy_(deviation)


def _sampled(mean: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """mean + noise sqrt(variance), and its gradient by variance: 0 where that is 0."""
    if mean.dtype == variance.dtype == noise.dtype and not torch.compiler.is_compiling():
        if mean.dtype in (torch.float32, torch.float64):
            deviation = variance.clamp_min(0.0).sqrt_()
            slope = (noise * 0.5).div_(deviation).masked_fill_(deviation == 0, 0.0)
            return torch.addcmul(mean, noise, deviation), slope
    wide = variance if variance.dtype == torch.float64 else variance.float()
    deviation = wide.clamp_min(0.0).sqrt()
    slope = torch.where(deviation > 0, 0.5 * noise / deviation, 0.0)
    # f16 does not hold it.
    slope = slope if variance.dtype == torch.float16 else slope.to(variance.dtype)
    return (mean + deviation * noise).to(mean.dtype), slope


def _product(grad: Tensor, slope: Tensor, dtype: torch.dtype) -> Tensor:
    return (grad * slope).to(dtype)


class _Sample(torch.autograd.Function):
    """mean + noise sqrt(variance) for given noise, with a gradient that is finite everywhere."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        out, slope = functional.run(_sampled, (mean, variance, noise))
        ctx.save_for_backward(slope)
        ctx.dtype = variance.dtype
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return grad, functional.changed(_product, (grad, slope), ctx.dtype), None
