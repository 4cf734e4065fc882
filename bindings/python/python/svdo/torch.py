"""Sparse variational dropout in PyTorch: layers, loss, and checkpoints for ``svdo-compress``.

A weight has the posterior N(theta, sigma^2) under a log-uniform prior (Molchanov, Ashukha and
Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017). Training mode samples the
activations (local reparameterization); evaluation mode prunes the weights whose log alpha =
log sigma^2 - log theta^2 is above the threshold, as compression will.

>>> model = nn.Sequential(svdo.torch.LinearSVDO(784, 300), nn.ReLU(), svdo.torch.LinearSVDO(300, 10))
>>> loss = svdo.torch.sgvlb_loss(model(x), target, model, num_samples=60_000, kl_weight=0.5)
>>> svdo.torch.save(model, "model.safetensors", input_shape=(784,))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdo._checkpoint import Network, PathLike
from svdo._checkpoint import save as _save

__all__ = ["Conv2dSVDO", "LinearSVDO", "describe", "kl", "save", "sgvlb_loss"]

# The constants of the KL approximation (Molchanov et al. 2017, eq. 14).
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695
# Keeps the gradients of the logarithm and the square root finite at zero.
_EPSILON = 1e-16


class _Posterior(nn.Module):
    """A layer whose weights have means ``theta`` and log variances ``log_sigma2``."""

    theta: nn.Parameter
    log_sigma2: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        thresh: float | None,
        init_log_sigma2: float,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.thresh = thresh
        self.init_log_sigma2 = init_log_sigma2
        options = {"device": device, "dtype": dtype}
        self.theta = nn.Parameter(torch.empty(shape, **options))
        self.log_sigma2 = nn.Parameter(torch.empty(shape, **options))
        if bias:
            self.bias = nn.Parameter(torch.empty(shape[0], **options))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Means as PyTorch's own layers begin, biases zero, variances as given."""
        nn.init.kaiming_uniform_(self.theta, a=5**0.5)
        nn.init.constant_(self.log_sigma2, self.init_log_sigma2)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._product(x, self.masked_theta(), self.bias)
        # Local reparameterization: a sum of independent normal weights is normal.
        mean = self._product(x, self.theta, self.bias)
        variance = self._product(x * x, self.log_sigma2.exp(), None)
        return mean + (variance + _EPSILON).sqrt() * torch.randn_like(mean)

    def kl(self) -> Tensor:
        """KL(posterior || log-uniform prior) of all weights in nats, a scalar; 0 in the limit of
        large alpha (the constant C = -k1)."""
        log_alpha = self.log_sigma2 - (self.theta * self.theta + _EPSILON).log()
        falling = _K1 * torch.sigmoid(-(_K2 + _K3 * log_alpha))
        return (falling + 0.5 * F.softplus(-log_alpha)).sum()

    @torch.no_grad()
    def log_alpha(self) -> Tensor:
        """log sigma^2 - log theta^2 in f64, shaped like theta: +inf where theta is zero."""
        theta = self.theta.double()
        return self.log_sigma2.double() - (theta * theta).log()

    @torch.no_grad()
    def mask(self) -> Tensor:
        """True, shaped like theta, for the weights that are kept: log alpha <= thresh."""
        if self.thresh is None:
            return torch.ones_like(self.theta, dtype=torch.bool)
        return self.log_alpha() <= self.thresh

    def masked_theta(self) -> Tensor:
        """Theta with pruned weights at zero."""
        return self.theta * self.mask()

    @torch.no_grad()
    def _take(self, weight: Tensor, bias: Tensor | None) -> None:
        self.theta.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)


class LinearSVDO(_Posterior):
    """``nn.Linear`` under sparse variational dropout: [*, in] -> [*, out].

    Parameters theta and log_sigma2 [out, in] and bias [out].

    Args:
        thresh: evaluation mode prunes weights with a log alpha above it; None prunes none.
        init_log_sigma2: where the log variances begin.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        super().__init__(shape, bias, thresh, init_log_sigma2, device, dtype)

    @classmethod
    def from_dense(cls, layer: nn.Linear, **options: Any) -> LinearSVDO:
        """A layer whose means are the weights of a trained one."""
        options = {"device": layer.weight.device, "dtype": layer.weight.dtype, **options}
        new = cls(layer.in_features, layer.out_features, layer.bias is not None, **options)
        new._take(layer.weight, layer.bias)
        return new

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, thresh={self.thresh}"
        )


class Conv2dSVDO(_Posterior):
    """``nn.Conv2d`` under sparse variational dropout: [batch, in, h, w] -> [batch, out, h', w'].

    Parameters theta and log_sigma2 [out, in/groups, kh, kw] and bias [out]. Padding is with zeros
    and symmetric. ``thresh`` and ``init_log_sigma2`` as in :class:`LinearSVDO`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} does not divide {in_channels} and {out_channels} channels"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding, self.groups = _pair(padding), groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        super().__init__(shape, bias, thresh, init_log_sigma2, device, dtype)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, **options: Any) -> Conv2dSVDO:
        """A layer whose means are the weights of a trained one."""
        _plain_convolution(layer, "from_dense")
        if isinstance(layer.padding, str):
            raise ValueError(  # noqa: TRY004
                f"from_dense: padding={layer.padding!r}: give it in numbers"
            )
        options = {"device": layer.weight.device, "dtype": layer.weight.dtype, **options}
        new = cls(
            layer.in_channels,
            layer.out_channels,
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            layer.groups,
            layer.bias is not None,
            **options,
        )
        new._take(layer.weight, layer.bias)
        return new

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, groups={self.groups}, "
            f"bias={self.bias is not None}, thresh={self.thresh}"
        )


def kl(module: nn.Module) -> Tensor:
    """The KL divergence of all SVDO layers of a module in nats, a scalar.

    Raises:
        ValueError: the module has no such layer.
    """
    terms = [layer.kl() for layer in module.modules() if isinstance(layer, _Posterior)]
    if not terms:
        raise ValueError("no SVDO layer in the module: its KL divergence is not defined")
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def sgvlb_loss(
    output: Tensor,
    target: Tensor,
    module: nn.Module,
    num_samples: int,
    kl_weight: float = 1.0,
    data_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Minus the stochastic gradient variational lower bound, for each training sample: the mean
    ``data_loss`` of the batch + ``kl_weight`` * KL / ``num_samples``.

    Args:
        output: what the module made of a batch: logits [batch, classes] for cross-entropy.
        target: what it should have: classes [batch].
        module: holds the SVDO layers; may be wrapped for distributed training.
        num_samples: training samples in all, not in the batch.
        kl_weight: 1 is the bound. Raise it from 0 over the first epochs, or weights die before
            they have learned anything.
        data_loss: mean negative log likelihood of a batch.
    """
    if num_samples <= 0:
        raise ValueError(f"num_samples={num_samples}: expected the number of training samples")
    return data_loss(output, target) + kl(module) * (kl_weight / num_samples)


def describe(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    scale: float = 1.0,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> dict[str, Any]:
    """The network description of a sequential model (nested ones too), as formats/network.md says.

    Args:
        input_shape: of one sample: (n,) or (channels, height, width).
        scale, mean, std: what turns raw values into what the model is trained on, for each
            channel: ``(x * scale - mean) / std``. Pixels from 0 to 255 need ``scale=1/255`` if
            the model was trained on 0 to 1.

    Raises:
        ValueError: names the module that a description cannot say.
    """
    given: dict[str, Any] = {"shape": [int(n) for n in input_shape]}
    if scale != 1.0:
        given["scale"] = scale
    if mean is not None:
        given["mean"] = [float(m) for m in mean]
    if std is not None:
        given["std"] = [float(s) for s in std]
    nodes = [node for name, module in _leaves(_unwrap(model), "") for node in _nodes(name, module)]
    return {"version": 1, "input": given, "nodes": nodes}


def save(
    model: nn.Module,
    path: PathLike,
    input_shape: tuple[int, ...] | None = None,
    *,
    scale: float = 1.0,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    network: Network | None = None,
) -> None:
    """Save a model as a checkpoint that ``svdo-compress`` and :func:`svdo.compress` take as it is:
    safetensors with the network in its metadata.

    Args:
        input_shape, scale, mean, std: as in :func:`describe`, which describes sequential models.
        network: the description, as a dict or a file, of any other model.
    """
    if (network is None) == (input_shape is None):
        raise ValueError("give input_shape for a sequential model, or network for any other")
    model = _unwrap(model)
    if network is None and input_shape is not None:
        network = describe(model, input_shape, scale=scale, mean=mean, std=std)
    _save(path, model.state_dict(), network)


def _unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of distributed training and compilation."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        # Not named_children, which leaves out a module's second use.
        for child_name, child in module._modules.items():
            assert child is not None
            yield from _leaves(child, f"{name}.{child_name}" if name else child_name)
    else:
        yield name, module


def _nodes(name: str, module: nn.Module) -> list[dict[str, Any]]:
    """The nodes that one module becomes: one, or none if it does nothing in evaluation mode."""
    here = f"module {name!r} ({type(module).__name__})"
    plain = {
        nn.ReLU: "relu",
        nn.ReLU6: "relu6",
        nn.Sigmoid: "sigmoid",
        nn.Tanh: "tanh",
        nn.Hardsigmoid: "hard_sigmoid",
        nn.Hardswish: "hard_swish",
        nn.SiLU: "silu",
    }
    if type(module) in plain:
        return [{"op": plain[type(module)]}]
    if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)):
        return []
    if isinstance(module, (LinearSVDO, nn.Linear)):
        return [{"op": "linear", "layer": name}]
    if isinstance(module, (Conv2dSVDO, nn.Conv2d)):
        if isinstance(module, nn.Conv2d):
            _plain_convolution(module, here)
        node: dict[str, Any] = {"op": "conv2d", "layer": name, "stride": list(_pair(module.stride))}
        node["padding"] = _padding(module)
        node["groups"] = module.groups
        return [node]
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        return [_pool(here, module)]
    if isinstance(module, nn.AdaptiveAvgPool2d):
        if module.output_size not in (1, (1, 1)):
            raise ValueError(f"{here}: output_size {module.output_size}, only 1 can be described")
        return [{"op": "global_avg_pool2d"}]
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError(f"{here}: only start_dim=1, end_dim=-1 can be described")
        return [{"op": "flatten"}]
    if isinstance(module, nn.LeakyReLU):
        return [{"op": "leaky_relu", "slope": module.negative_slope}]
    if isinstance(module, nn.ELU):
        return [{"op": "elu", "alpha": module.alpha}]
    if isinstance(module, nn.GELU) and module.approximate == "none":
        return [{"op": "gelu"}]
    if isinstance(module, nn.Softplus) and module.beta == 1:
        return [{"op": "softplus"}]
    if isinstance(module, nn.Softmax) and module.dim in (1, -3):
        return [{"op": "softmax"}]
    raise ValueError(
        f"{here} cannot be described automatically: give the description with network="
    )


def _pool(here: str, module: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Any]:
    if module.ceil_mode:
        raise ValueError(f"{here}: ceil_mode cannot be described")
    top, left = _pair(module.padding)
    node: dict[str, Any] = {
        "kernel": list(_pair(module.kernel_size)),
        "stride": list(_pair(module.stride)),
        "padding": [top, left, top, left],
    }
    if isinstance(module, nn.MaxPool2d):
        if _pair(module.dilation) != (1, 1) or module.return_indices:
            raise ValueError(f"{here}: dilation and return_indices cannot be described")
        return {"op": "max_pool2d", **node}
    if module.divisor_override is not None:
        raise ValueError(f"{here}: divisor_override cannot be described")
    return {"op": "avg_pool2d", **node, "count_include_pad": module.count_include_pad}


def _plain_convolution(layer: nn.Conv2d, here: str) -> None:
    if _pair(layer.dilation) != (1, 1) or layer.padding_mode != "zeros":
        raise ValueError(f"{here}: only dilation 1 and padding with zeros can be described")


def _padding(layer: Conv2dSVDO | nn.Conv2d) -> list[int]:
    """Top, left, bottom, right."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        # Where the sum is odd, the larger part comes after.
        total = [size - 1 for size in layer.kernel_size]
        before = [t // 2 for t in total]
        return [*before, *(t - b for t, b in zip(total, before))]
    top, left = _pair(layer.padding)  # type: ignore[arg-type]
    return [top, left, top, left]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second
