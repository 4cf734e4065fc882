"""The arithmetic of a training step beside its products and :mod:`svdo.torch.noise`: squares, variances and the KL
divergence.

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
# Numbers of a piece of an array: a few arrays of them fit into the caches.
PIECE = 1 << 17

_wanted: bool | None = None
_bf16_variances = False
_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def use_fused(wanted: bool | None = None) -> None:
    """Whether the elementwise parts of a step are fused by ``torch.compile``: True, False, or None
    for where it pays and works without a C++ compiler, that is, on a GPU with Triton."""
    global _wanted
    _wanted = wanted


def use_bf16_variances(wanted: bool = True) -> None:
    """Whether layers in f32 multiply x^2 by sigma^2 in bf16, forward and backward; not so at first. Means, noise,
    parameters and all sums stay in f32.

    With u = 2^-8, deviations of activations are off by at most 1.5 u of themselves, and what a gradient gets through
    variances by 6 u of the sum of its terms' magnitudes; both by 0.2 to 0.4 % in general, far below what one sample
    varies by. It pays where the hardware multiplies bf16 (avx512_bf16, AMX, GPUs). Autocast goes first, and layers in
    other types stay as they are.
    """
    global _bf16_variances
    _bf16_variances = wanted


def is_fused(like: Tensor) -> bool:
    """Whether what is done with tensors such as this one is compiled, here or by whoever compiles the model."""
    if torch.compiler.is_compiling():
        return True
    if _wanted is not None:
        return _wanted
    return like.is_cuda and importlib.util.find_spec("triton") is not None


def _fused(function: Callable[..., Any], like: Tensor) -> Callable[..., Any]:
    """The function, or its compiled form."""
    if torch.compiler.is_compiling() or not is_fused(like):
        return function
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=True)
    return _compiled[function]


def flat(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Tensors as they lie in memory, one number behind the other, without history; None where they lie in different
    ways or with gaps."""
    first = tensors[0]
    like = (first.shape, first.stride())
    formats = [torch.contiguous_format, torch.channels_last][: 1 + (first.dim() == 4)]
    dense = any(first.is_contiguous(memory_format=format) for format in formats)
    if not dense or any((t.shape, t.stride()) != like for t in tensors):
        return None
    return [t.detach().as_strided((first.numel(),), (1,)) for t in tensors]


def run(function: Callable[..., Any], tensors: Sequence[Tensor], *options: Any) -> Any:
    """An elementwise function of tensors of one shape, fused where that is wanted. It is given them flat, and its
    results get their shape back: it is compiled once for all shapes."""
    fused = _fused(function, tensors[0])
    lying = None if fused is function else flat(tensors)
    if lying is None:
        return fused(*tensors, *options)
    found = fused(*lying, *options)
    like = (tensors[0].shape, tensors[0].stride())
    if isinstance(found, Tensor):
        return found.as_strided(*like)
    return tuple(part.as_strided(*like) for part in found)


def changed(function: Callable[..., Tensor], tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """An elementwise function of tensors of one shape whose last argument is the type of its result. On a CPU, tensors
    of several types go in pieces, so that what is computed in the wider one stays in the cache."""
    alike = all(tensor.dtype == dtype for tensor in tensors)
    pieces = not alike and tensors[0].is_cpu and not is_fused(tensors[0])
    lying = flat(tensors) if pieces else None
    if lying is None:
        return run(function, tensors, dtype)
    out = torch.empty_like(lying[0], dtype=dtype)
    for to, *parts in zip(*(array.split(PIECE) for array in (out, *lying))):
        to.copy_(function(*parts, dtype))
    return out.as_strided(tensors[0].shape, tensors[0].stride())


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
    total = theta.new_zeros(())
    arrays = (theta, log_sigma2, by_theta, slope)
    for mean, variance, to_mean, to_variance in zip(*(array.split(PIECE) for array in arrays)):
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
            lying = flat(pair) if theta.is_cpu and not is_fused(theta) else None
            if lying is not None:
                value, *slopes = _kl_in_cache(*lying)
                slopes = [slope.as_strided(theta.shape, theta.stride()) for slope in slopes]
            else:
                # A sum would be compiled for the first size that comes along, and be slow for others.
                value, *slopes = run(_kl_and_gradient, pair)
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


def kl(thetas: Sequence[Tensor], log_sigma2s: Sequence[Tensor], without: int | None = None) -> Tensor:
    """KL(posterior || log-uniform prior) of the weights of all tensors together in nats, a scalar;
    0 in the limit of large alpha (the constant C = -k1 of Molchanov et al. 2017, eq. 14).

    Of tensors that are sharded each process computes its part, with the value of all.

    Args:
        without: a row of each tensor that does not count.
    """
    parts: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for theta, log_sigma2 in zip(thetas, log_sigma2s):
        place = (theta.device_mesh, theta.placements) if sharded.is_sharded(theta) else None  # type: ignore[attr-defined]
        parts.setdefault(place, []).append((theta, log_sigma2))
    terms = []
    for place, pairs in parts.items():
        local = [_rows(tensor, without) for of_pairs in zip(*pairs) for tensor in of_pairs]
        value = _Kl.apply(len(pairs), *local)
        terms.append(value if place is None else sharded.sum_over_processes(value, pairs[0][0]))
    return total(terms)


def _rows(tensor: Tensor, without: int | None) -> Tensor:
    """What a process holds of a tensor, without a row of the whole."""
    if without is None:
        return tensor.to_local() if sharded.is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    local, at = sharded.local_row(tensor, without)
    return local if at is None else torch.cat([local[:at], local[at + 1 :]])


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, on the device of the first."""
    if len(terms) == 1:
        return terms[0]
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def squares(
    x: Tensor, square: Tensor, log_sigma2: Tensor, computed: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x^2 and sigma^2, and by what the root of their product is to be multiplied (None for 1).

    Where products are ``computed`` in f16 both are brought to at most 1 first: squares of pixels from
    0 to 255 are not finite there, and a sigma^2 of e^-10 is hardly a number.
    """
    if computed != torch.float16:
        # Autocast brings squares of f32 to what it computes in, and nothing else does.
        kind = square.dtype if computed == torch.float32 else computed
        return square, _Exponential.apply(log_sigma2, kind), None
    with torch.no_grad():
        largest = x.abs().amax().float().clamp_min(1e-6)
        top = log_sigma2.amax().float()
    scaled = x / largest.to(x.dtype)
    return scaled * scaled, (log_sigma2 - top.to(log_sigma2.dtype)).exp(), largest * (0.5 * top).exp()


def with_square(x: Tensor) -> tuple[Tensor, Tensor]:
    """x, to be used in its place, and x^2 in the type in which it is multiplied: one pass takes the gradients of both
    back to x."""
    narrow = _bf16_variances and x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    dtype = torch.bfloat16 if narrow else x.dtype
    if torch.compiler.is_compiling():
        return x, _square(x, dtype)
    return _WithSquare.apply(x, dtype)


def _square(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x * x).to(dtype)


def _joined(by_x: Tensor, x: Tensor, by_square: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.addcmul(by_x, x, by_square.to(dtype), value=2.0)


class _WithSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        return x, changed(_square, (x,), dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_x: Tensor | None, by_square: Tensor | None) -> Any:
        (x,) = ctx.saved_tensors
        if by_square is None:
            return by_x, None
        if by_x is None:
            by_x = torch.zeros_like(x)
        return changed(_joined, (by_x, x, by_square), x.dtype), None


def _exponential(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.exp().to(dtype)


def _wide_product(exponential: Tensor, grad: Tensor, dtype: torch.dtype) -> Tensor:
    return exponential.to(dtype) * grad.to(dtype)


class _Exponential(torch.autograd.Function):
    """e^x in the type in which products are computed; the gradient in that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        exponential = changed(_exponential, (x,), dtype)
        ctx.save_for_backward(exponential)
        ctx.dtype = x.dtype
        return exponential

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (exponential,) = ctx.saved_tensors
        return changed(_wide_product, (exponential, grad), ctx.dtype), None
