"""The arithmetic of a training step: the noise of local reparameterization and the KL divergence.

Each is written plainly in PyTorch, with its gradient in closed form, and can be fused by
``torch.compile`` (which generates Triton where there is a GPU): see :func:`use_fused`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from svdo.torch import sharded

# The constants of the KL approximation (Molchanov et al. 2017, eq. 14).
K1, K2, K3 = 0.63576, 1.87320, 1.48695
# Keeps the logarithm finite at zero.
EPSILON = 1e-16

_wanted: bool | None = None
_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def use_fused(wanted: bool | None = None) -> None:
    """Whether the elementwise parts of a step are fused by ``torch.compile``: True, False, or None
    for where it pays and works without a C++ compiler, that is, on a GPU with Triton."""
    global _wanted
    _wanted = wanted


def _fused(function: Callable[..., Any], like: Tensor) -> Callable[..., Any]:
    """The function, or its compiled form."""
    wanted = _wanted
    if wanted is None:
        wanted = like.is_cuda and importlib.util.find_spec("triton") is not None
    if not wanted or torch.compiler.is_compiling():
        return function
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=True)
    return _compiled[function]


def _run(function: Callable[..., Any], tensors: Sequence[Tensor], *options: Any) -> Any:
    """An elementwise function of tensors of one shape, fused where that is wanted. It is given them flat, as
    they lie in memory, and its results get their shape back: it is compiled once for all shapes."""
    run = _fused(function, tensors[0])
    first = tensors[0]
    like = (first.shape, first.stride())
    formats = [torch.contiguous_format, torch.channels_last][: 1 + (first.dim() == 4)]
    dense = any(first.is_contiguous(memory_format=format) for format in formats)
    if run is function or not dense or any((t.shape, t.stride()) != like for t in tensors):
        return run(*tensors, *options)
    count = (first.numel(),)
    found = run(*(t.detach().as_strided(count, (1,)) for t in tensors), *options)
    if isinstance(found, Tensor):
        return found.as_strided(*like)
    return tuple(part.as_strided(*like) for part in found)


def _kl_and_gradient(theta: Tensor, log_sigma2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL of each weight, and its gradients by theta and log_sigma2."""
    square = theta * theta + EPSILON
    log_alpha = log_sigma2 - square.log()
    rising = torch.sigmoid(K2 + K3 * log_alpha)
    # softplus(-x) = -log sigmoid(x), finite for all x.
    noise = torch.sigmoid(log_alpha)
    value = K1 * (1.0 - rising) - 0.5 * torch.nn.functional.logsigmoid(log_alpha)
    slope = (K1 * K3) * rising * (rising - 1.0) + 0.5 * (noise - 1.0)
    return value, slope * (-2.0 * theta / square), slope


def _kl_in_cache(theta: Tensor, log_sigma2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_kl_and_gradient`, the KL summed, on a CPU: in pieces that stay in the cache from one operation to the
    next, in the memory of few of them."""
    by_theta, slope = torch.empty_like(theta), torch.empty_like(theta)
    flat = [part.reshape(-1).split(_PIECE) for part in (theta, log_sigma2)]
    out = [part.view(-1).split(_PIECE) for part in (by_theta, slope)]
    total = theta.new_zeros(())
    for mean, variance, to_mean, to_variance in zip(*flat, *out):
        square = torch.mul(mean, mean, out=to_mean).add_(EPSILON)
        log_alpha = torch.log(square, out=to_variance).neg_().add_(variance)
        rising = (log_alpha * K3).add_(K2).sigmoid_()
        total -= torch.nn.functional.logsigmoid(log_alpha).sum().mul_(0.5).add_(rising.sum(), alpha=K1)
        total += K1 * mean.numel()
        noise = log_alpha.sigmoid_().sub_(1.0)
        # slope = K1 K3 rising (rising - 1) + (noise - 1) / 2
        noise.mul_(0.5).addcmul_(rising, rising - 1.0, value=K1 * K3)
        torch.div(mean, square, out=to_mean).mul_(noise).mul_(-2.0)
    return total, by_theta, slope


# Weights of a piece: a few arrays of them fit into the cache of a core.
_PIECE = 1 << 17


class _Kl(torch.autograd.Function):
    """The sum of the KL of some tensors of weights; one pass computes value and gradient."""

    @staticmethod
    def forward(ctx: Any, count: int, *parameters: Tensor) -> Tensor:
        total: Tensor | None = None
        gradients: list[Tensor] = []
        for theta, log_sigma2 in zip(parameters[:count], parameters[count:]):
            # Half precision holds neither the squares of small weights nor the sum.
            wide = torch.promote_types(theta.dtype, torch.float32)
            pair = (theta.to(wide), log_sigma2.to(wide))
            plain = _fused(_kl_and_gradient, theta) is _kl_and_gradient
            if plain and theta.is_cpu and theta.is_contiguous() and not torch.compiler.is_compiling():
                value, *slopes = _kl_in_cache(*pair)
            else:
                # A sum would be compiled for the first size that comes along, and be slow for others.
                value, *slopes = _run(_kl_and_gradient, pair)
                value = value.sum()
            total = value if total is None else total + value.to(total.device)
            gradients.extend(slope.to(theta.dtype) for slope in slopes)
        assert total is not None
        ctx.save_for_backward(*gradients[::2], *gradients[1::2])
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        scaled = [saved * grad.to(saved.device, saved.dtype) for saved in ctx.saved_tensors]
        return (None, *scaled)


def kl(thetas: Sequence[Tensor], log_sigma2s: Sequence[Tensor]) -> Tensor:
    """KL(posterior || log-uniform prior) of the weights of all tensors together in nats, a scalar;
    0 in the limit of large alpha (the constant C = -k1 of Molchanov et al. 2017, eq. 14).

    Of tensors that are sharded each process computes its part, with the value of all."""
    parts: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for theta, log_sigma2 in zip(thetas, log_sigma2s):
        place = (theta.device_mesh, theta.placements) if sharded.is_sharded(theta) else None  # type: ignore[attr-defined]
        parts.setdefault(place, []).append((theta, log_sigma2))
    terms = []
    for place, pairs in parts.items():
        if place is None:
            terms.append(_Kl.apply(len(pairs), *(t for t, _ in pairs), *(s for _, s in pairs)))
            continue
        local = [[tensor.to_local() for tensor in pair] for pair in pairs]  # type: ignore[attr-defined]
        value = _Kl.apply(len(pairs), *(t for t, _ in local), *(s for _, s in local))
        terms.append(sharded.sum_over_processes(value, pairs[0][0]))
    return total(terms)


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, on the device of the first."""
    if len(terms) == 1:
        return terms[0]
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def squares(x: Tensor, log_sigma2: Tensor, computed: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """x^2 and sigma^2, and by what the root of their product is to be multiplied (None for 1).

    Where products are ``computed`` in f16 both are brought to at most 1 first: squares of pixels from
    0 to 255 are not finite there, and a sigma^2 of e^-10 is hardly a number.
    """
    if computed != torch.float16:
        return _Square.apply(x), _Exponential.apply(log_sigma2, computed), None
    with torch.no_grad():
        largest = x.abs().amax().float().clamp_min(1e-6)
        top = log_sigma2.amax().float()
    scaled = x / largest.to(x.dtype)
    return scaled * scaled, (log_sigma2 - top.to(log_sigma2.dtype)).exp(), largest * (0.5 * top).exp()


def _twice_product(x: Tensor, grad: Tensor) -> Tensor:
    return 2.0 * x * grad


class _Square(torch.autograd.Function):
    """x^2; one pass computes its gradient, where that of a product takes three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return _run(_twice_product, (x, grad))


def _exponential(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.exp().to(dtype)


def _wide_product(exponential: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    return exponential.to(dtype) * grad.to(dtype)


class _Exponential(torch.autograd.Function):
    """e^x in the type in which products are computed; the gradient in that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        exponential = _run(_exponential, (x,), dtype)
        ctx.save_for_backward(exponential)
        ctx.dtype = x.dtype
        return exponential

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (exponential,) = ctx.saved_tensors
        return _run(_wide_product, (exponential, grad), ctx.dtype), None


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


class _Noise(torch.autograd.Function):
    """mean + noise sqrt(variance) for given noise, with a gradient that is finite everywhere."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        out, slope = _run(_sampled, (mean, variance, noise))
        ctx.save_for_backward(slope)
        ctx.dtype = variance.dtype
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return grad, _run(_product, (grad, slope), ctx.dtype), None


def add_noise(mean: Tensor, variance: Tensor, unit: Tensor | None = None) -> Tensor:
    """A sample of N(mean, unit^2 variance), elementwise."""
    noise = torch.randn_like(mean)
    if unit is not None:
        noise = noise.float() * unit
    return _Noise.apply(mean, variance, noise)
