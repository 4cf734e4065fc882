"""What all layers of sparse variational dropout share: a posterior for each weight.

A weight has the posterior N(theta, sigma^2) under a log-uniform prior (Molchanov, Ashukha and
Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svdo.torch import functional
from svdo.torch.noise import add_noise


class Sampling(nn.Module):
    """A module that samples in training mode, and has a plain one of its means, ``dense``, else."""

    def dense(self) -> nn.Module:
        """The layer of PyTorch with the pruned means."""
        raise NotImplementedError

    def __prepare_scriptable__(self) -> nn.Module:
        """For ``torch.jit.script``, which gets the layer without a posterior."""
        if self.training:
            raise TypeError(
                f"{type(self).__name__} samples in training mode, which TorchScript cannot: "
                "script the model in evaluation mode, or use torch.compile or torch.export"
            )
        return self.dense()


class Posterior(Sampling):
    """Weights with means ``theta`` and log variances ``log_sigma2``, of one shape, and a bias.

    Training mode samples; evaluation mode prunes the weights whose log alpha = log sigma^2 -
    log theta^2 is above ``thresh``, as compression will (``None`` prunes none).
    """

    theta: nn.Parameter
    log_sigma2: nn.Parameter
    bias: nn.Parameter | None
    # The type of the layer without a posterior, where there is one.
    _dense: type[nn.Module] | None = None

    def __init__(
        self,
        shape: Sequence[int],
        bias: int | None,
        thresh: float | None,
        init_log_sigma2: float,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.thresh = thresh
        self.init_log_sigma2 = init_log_sigma2
        options = {"device": device, "dtype": dtype}
        self.theta = nn.Parameter(torch.empty(tuple(shape), **options))
        self.log_sigma2 = nn.Parameter(torch.empty(tuple(shape), **options))
        if bias is not None:
            self.bias = nn.Parameter(torch.empty(bias, **options))
        else:
            self.register_parameter("bias", None)
        # What evaluation mode computed from the parameters, and what they were then.
        self._pruned: tuple[Any, Tensor, Tensor] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Means as PyTorch's own layers begin, biases zero, variances as given."""
        nn.init.kaiming_uniform_(self.theta, a=5**0.5)
        nn.init.constant_(self.log_sigma2, self.init_log_sigma2)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer without a posterior does with a weight: linear in it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._apply_weight(x, self.masked_theta(), self.bias)
        # Local reparameterization: a sum of independent normal weights is normal.
        x, square = functional.with_square(x)
        mean = self._apply_weight(x, self.theta, self.bias)
        square, sigma2, unit = functional.squares(x, square, self.log_sigma2, mean.dtype)
        variance = self._apply_weight(square, sigma2, None)
        return add_noise(mean, variance, unit)

    @property
    def weight(self) -> Tensor:
        """What other code that asks for a dense weight gets, shaped like theta: in training mode a
        sample of all weights, in evaluation mode theta with pruned weights at zero."""
        if not self.training:
            return self.masked_theta()
        return self.theta + (0.5 * self.log_sigma2).exp() * torch.randn_like(self.theta)

    def kl(self) -> Tensor:
        """KL(posterior || log-uniform prior) of all weights in nats, a scalar; 0 in the limit of
        large alpha (the constant C = -k1)."""
        return functional.kl([self.theta], [self.log_sigma2])

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
        """Theta with pruned weights at zero. In evaluation mode it is computed once for as long as
        the parameters stay as they are (in-place changes through ``.data`` are not seen before
        the next :meth:`train` or :meth:`eval`)."""
        if self.training or self.theta.is_inference() or torch.compiler.is_compiling():
            return self.theta * self.mask()
        parameters = (self.theta, self.log_sigma2)
        key = (self.thresh, *((id(p), p.data_ptr(), p.dtype, p._version) for p in parameters))
        if self._pruned is None or self._pruned[0] != key:
            mask = self.mask()
            self._pruned = (key, mask, (self.theta * mask).detach())
        if torch.is_grad_enabled() and self.theta.requires_grad:
            return self.theta * self._pruned[1]
        return self._pruned[2]

    def train(self, mode: bool = True) -> Posterior:
        """Sets the mode; what evaluation mode had computed is forgotten."""
        self._pruned = None
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        # Parameters that are whole for a pass alone show no change.
        self._pruned = None
        super()._load_from_state_dict(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pruned": None}

    def dense(self) -> nn.Module:
        """The layer without a posterior, its pruned weights at zero, in evaluation mode."""
        if self._dense is None:
            raise TypeError(f"{type(self).__name__} has no layer without a posterior")
        options = {"device": self.theta.device, "dtype": self.theta.dtype}
        layer = self._dense(**self._arguments(), **options)
        with torch.no_grad():
            weight = layer.weight
            assert isinstance(weight, Tensor)
            weight.copy_(self.theta * self.mask())
            if self.bias is not None:
                layer.bias.copy_(self.bias)  # type: ignore[union-attr, operator]
        return layer.eval()

    def _arguments(self) -> dict[str, Any]:
        """The arguments of the layer without a posterior."""
        raise NotImplementedError

    @classmethod
    def from_dense(cls, layer: nn.Module, **options: Any) -> Any:
        """A layer whose means are the weights of a trained one."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        options = {"device": weight.device, "dtype": weight.dtype, **options}
        new = cls(**cls._arguments_of(layer), **options)
        new._take(weight, layer.bias if isinstance(layer.bias, Tensor) else None)
        return new.train(layer.training)

    @classmethod
    def _arguments_of(cls, layer: Any) -> dict[str, Any]:
        """The arguments that make a layer of the shape of a trained one."""
        raise NotImplementedError

    @torch.no_grad()
    def _take(self, weight: Tensor, bias: Tensor | None) -> None:
        self.theta.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    def _repr(self, **more: Any) -> str:
        shown = {**more, "bias": self.bias is not None, "thresh": self.thresh}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def posteriors(module: nn.Module) -> list[Posterior]:
    """All layers with a posterior of a module, each once, in its order."""
    return [layer for layer in module.modules() if isinstance(layer, Posterior)]
