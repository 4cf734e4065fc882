"""Layers under sparse variational dropout with the arguments of PyTorch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdo.torch import functional
from svdo.torch.noise import add_noise
from svdo.torch.posterior import Posterior
from svdo.torch.sharded import local_row


class LinearSVDO(Posterior):
    """``nn.Linear`` under sparse variational dropout: [*, in] -> [*, out].

    Parameters theta and log_sigma2 [out, in] and bias [out].

    Args:
        thresh: evaluation mode prunes weights with a log alpha above it; None prunes none.
        init_log_sigma2: where the log variances begin.
    """

    _dense = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
    ) -> None:
        shape = (out_features, in_features)
        size = out_features if bias else None
        super().__init__(shape, size, thresh, init_log_sigma2, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        names = ("in_features", "out_features")
        return {**{n: getattr(layer, n) for n in names}, "bias": layer.bias is not None}

    def _arguments(self) -> dict[str, Any]:
        return self._arguments_of(self)

    def extra_repr(self) -> str:
        return self._repr(in_features=self.in_features, out_features=self.out_features)


class _Convolution(Posterior):
    """What convolutions of one and two dimensions share."""

    _dimensions: int
    _names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
    ) -> None:
        _check_groups(groups, in_channels, out_channels)
        modes = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(f"padding_mode={padding_mode!r}: expected one of {', '.join(modes)}")
        kernel_size = _sizes(kernel_size, self._dimensions)
        shape = (out_channels, in_channels // groups, *kernel_size)
        size = out_channels if bias else None
        super().__init__(shape, size, thresh, init_log_sigma2, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = kernel_size, _sizes(stride, self._dimensions)
        self.dilation, self.padding_mode = _sizes(dilation, self._dimensions), padding_mode
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f'padding={padding!r}: expected numbers, "valid" or "same"')
            if padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError(f'padding="same" needs stride 1, not {self.stride}')
            self.padding: str | tuple[int, ...] = padding
        else:
            self.padding = _sizes(padding, self._dimensions)

    def _borders(self) -> list[tuple[int, int]]:
        """Before and after along each dimension; where the sum is odd, the larger part is after."""
        if self.padding == "valid":
            return [(0, 0)] * self._dimensions
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
            return [(t // 2, t - t // 2) for t in total]
        return [(p, p) for p in self.padding]  # type: ignore[misc]

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = F.conv1d if self._dimensions == 1 else F.conv2d
        padding = self.padding
        if self.padding_mode != "zeros":
            borders = [border for sides in reversed(self._borders()) for border in sides]
            x, padding = F.pad(x, borders, mode=self.padding_mode), 0  # type: ignore[assignment]
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        names = (*cls._names, "padding_mode")
        return {**{n: getattr(layer, n) for n in names}, "bias": layer.bias is not None}

    def _arguments(self) -> dict[str, Any]:
        return self._arguments_of(self)

    def extra_repr(self) -> str:
        return self._repr(**{name: getattr(self, name) for name in self._names})


class Conv1dSVDO(_Convolution):
    """``nn.Conv1d`` under sparse variational dropout: [batch, in, w] -> [batch, out, w'].

    Parameters theta and log_sigma2 [out, in/groups, kw] and bias [out]. ``thresh`` and
    ``init_log_sigma2`` as in :class:`LinearSVDO`, the others as in ``nn.Conv1d``.
    """

    _dense = nn.Conv1d
    _dimensions = 1


class Conv2dSVDO(_Convolution):
    """``nn.Conv2d`` under sparse variational dropout: [batch, in, h, w] -> [batch, out, h', w'].

    Parameters theta and log_sigma2 [out, in/groups, kh, kw] and bias [out]. ``thresh`` and
    ``init_log_sigma2`` as in :class:`LinearSVDO`, the others as in ``nn.Conv2d``.
    """

    _dense = nn.Conv2d
    _dimensions = 2


class ConvTranspose2dSVDO(Posterior):
    """``nn.ConvTranspose2d`` under sparse variational dropout: [batch, in, h, w] ->
    [batch, out, h', w'].

    Parameters theta and log_sigma2 [in, out/groups, kh, kw] and bias [out]. ``thresh`` and
    ``init_log_sigma2`` as in :class:`LinearSVDO`, the others as in ``nn.ConvTranspose2d``.
    """

    _dense = nn.ConvTranspose2d
    _names = (*_Convolution._names, "output_padding")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
    ) -> None:
        _check_groups(groups, in_channels, out_channels)
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode={padding_mode!r}: only zeros, as in nn.ConvTranspose2d")
        self_kernel = _sizes(kernel_size, 2)
        shape = (in_channels, out_channels // groups, *self_kernel)
        size = out_channels if bias else None
        super().__init__(shape, size, thresh, init_log_sigma2, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = self_kernel, _sizes(stride, 2)
        self.padding, self.output_padding = _sizes(padding, 2), _sizes(output_padding, 2)
        self.dilation = _sizes(dilation, 2)

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(x, weight, bias, *settings)  # type: ignore[arg-type]

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        return {**{n: getattr(layer, n) for n in cls._names}, "bias": layer.bias is not None}

    def _arguments(self) -> dict[str, Any]:
        return self._arguments_of(self)

    def extra_repr(self) -> str:
        return self._repr(**{name: getattr(self, name) for name in self._names})


class EmbeddingSVDO(Posterior):
    """``nn.Embedding`` under sparse variational dropout: integers [*] -> [*, dim].

    Parameters theta and log_sigma2 [num, dim]. The row of ``padding_idx`` is zero, without noise
    and without a part in the KL. ``thresh`` and ``init_log_sigma2`` as in :class:`LinearSVDO`.
    """

    _dense = nn.Embedding

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
    ) -> None:
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx={padding_idx} for {num_embeddings} embeddings")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        shape = (num_embeddings, embedding_dim)
        super().__init__(shape, None, thresh, init_log_sigma2, device, dtype)

    def reset_parameters(self) -> None:
        """Means as those of ``nn.Embedding``, variances as given."""
        nn.init.normal_(self.theta)
        nn.init.constant_(self.log_sigma2, self.init_log_sigma2)
        self._clear_padding()

    @torch.no_grad()
    def _clear_padding(self) -> None:
        if self.padding_idx is not None:
            local, at = local_row(self.theta, self.padding_idx)
            if at is not None:
                local[at] = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.embedding(x, self.masked_theta(), self.padding_idx)
        mean = F.embedding(x, self.theta, self.padding_idx)
        exponential = F.embedding(x, self.log_sigma2, self.padding_idx).exp()
        # The exponential is its own gradient, and has to stay as it is.
        if self.padding_idx is None:
            variance = exponential.clone()
        else:
            variance = exponential * (x != self.padding_idx).unsqueeze(-1)
        return add_noise(mean, variance)

    def kl(self) -> Tensor:
        """As :meth:`Posterior.kl`, without the row of padding."""
        return functional.kl([self.theta], [self.log_sigma2], without=self.padding_idx)

    @classmethod
    def from_dense(cls, layer: nn.Module, **options: Any) -> EmbeddingSVDO:
        """A layer whose means are the embeddings of a trained one."""
        assert isinstance(layer, nn.Embedding)
        if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
            raise ValueError("from_dense: max_norm, scale_grad_by_freq and sparse have no meaning here")
        options = {"device": layer.weight.device, "dtype": layer.weight.dtype, **options}
        new = cls(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, **options)
        new._take(layer.weight, None)
        return new.train(layer.training)

    def _arguments(self) -> dict[str, Any]:
        names = ("num_embeddings", "embedding_dim", "padding_idx")
        return {name: getattr(self, name) for name in names}

    def dense(self) -> nn.Module:
        """The layer without a posterior, its pruned weights at zero, in evaluation mode."""
        options = {"device": self.theta.device, "dtype": self.theta.dtype}
        layer = nn.Embedding(**self._arguments(), **options)
        with torch.no_grad():
            layer.weight.copy_(self.theta * self.mask())
        return layer.eval()

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, thresh={self.thresh}"


def _check_groups(groups: int, in_channels: int, out_channels: int) -> None:
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} does not divide {in_channels} and {out_channels} channels"
        )


def _sizes(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * dimensions
    sizes = tuple(value)
    if len(sizes) != dimensions:
        raise ValueError(f"{value}: expected one number or {dimensions}")
    return sizes
