"""Any network with its layers under sparse variational dropout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from svdo.torch.attention import MultiheadAttentionSVDO
from svdo.torch.layers import Conv1dSVDO, Conv2dSVDO, ConvTranspose2dSVDO, EmbeddingSVDO, LinearSVDO
from svdo.torch.posterior import Posterior
from svdo.torch.recurrent import GRUSVDO, LSTMSVDO

# What becomes what.
FORMS: dict[type[nn.Module], Any] = {
    nn.Linear: LinearSVDO,
    nn.Conv1d: Conv1dSVDO,
    nn.Conv2d: Conv2dSVDO,
    nn.ConvTranspose2d: ConvTranspose2dSVDO,
    nn.Embedding: EmbeddingSVDO,
    nn.LSTM: LSTMSVDO,
    nn.GRU: GRUSVDO,
    nn.MultiheadAttention: MultiheadAttentionSVDO,
}


def convert(
    model: nn.Module,
    *,
    types: Iterable[type[nn.Module]] | None = None,
    only: Callable[[str, nn.Module], bool] | None = None,
    fresh: bool = False,
    thresh: float | None = 3.0,
    init_log_sigma2: float = -10.0,
) -> nn.Module:
    """Puts layers of a model under sparse variational dropout, in place.

    Linear, Conv1d, Conv2d, ConvTranspose2d, Embedding, LSTM, GRU and MultiheadAttention become
    their SVDO forms, with their names. Parameters are new ones: make the optimizer afterwards.
    Weights that layers share stay shared; hooks and spectral norms, weight norms and prunings of
    ``torch.nn.utils`` are not carried over: layers that have any are left as they are.

    Args:
        types: the types of layers to convert; all of the above if None.
        only: says of a layer's name and the layer whether it is converted.
        fresh: begin anew, rather than with the layers' weights as means.
        thresh, init_log_sigma2: as in :class:`svdo.torch.LinearSVDO`.

    Returns:
        The model; another module only where the model itself is one of those layers.

    Raises:
        ValueError: no layer was converted, or one has a setting that its SVDO form has not.
    """
    wanted = set(FORMS if types is None else types)
    if unknown := wanted - set(FORMS):
        names = ", ".join(sorted(kind.__name__ for kind in unknown))
        known = ", ".join(kind.__name__ for kind in FORMS)
        raise ValueError(f"types: no SVDO form of {names}; there is one of {known}")
    options = {"thresh": thresh, "init_log_sigma2": init_log_sigma2}
    state = _Conversion(wanted, only, fresh, options)
    model = state.visit("", model)
    if not state.made:
        raise ValueError("no layer of the model was converted")
    return model


class _Conversion:
    def __init__(self, wanted: set[type[nn.Module]], only: Any, fresh: bool, options: Any) -> None:
        self.wanted, self.only, self.fresh, self.options = wanted, only, fresh, options
        # What modules have become, and which parameters stand for a weight: by identity. The old
        # ones are kept, so that no other takes their place.
        self.made: dict[int, tuple[nn.Module, nn.Module]] = {}
        self.seen: set[int] = set()
        self.tied: dict[int, tuple[nn.Parameter, nn.Parameter, nn.Parameter]] = {}
        self.biases: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def visit(self, name: str, module: nn.Module) -> nn.Module:
        if id(module) in self.made:
            return self.made[id(module)][1]
        form = FORMS.get(type(module))
        asked = type(module) in self.wanted and (self.only is None or self.only(name, module))
        if form is not None and asked:
            if _is_plain(name, module):
                made = self.convert(name, module, form)
                self.made[id(module)] = (module, made)
                return made
            return module
        if isinstance(module, Posterior) or id(module) in self.seen:
            return module
        self.seen.add(id(module))
        # Attention that stays as it is multiplies by the weights of its layers itself.
        if isinstance(module, nn.MultiheadAttention):
            return module
        for child_name, child in list(module._modules.items()):
            if child is not None:
                whole = f"{name}.{child_name}" if name else child_name
                module._modules[child_name] = self.visit(whole, child)
        return module

    def convert(self, name: str, module: nn.Module, form: Any) -> nn.Module:
        try:
            new = form.from_dense(module, **self.options)
        except ValueError as error:
            raise ValueError(
                f"layer {name!r}: {error}; leave it out with only=lambda name, layer: ..."
            ) from None
        if self.fresh:
            for layer in new.modules():
                if isinstance(layer, Posterior):
                    layer.reset_parameters()
        if isinstance(new, Posterior):
            self.tie(module, new)
        for parameter in new.parameters():
            parameter.requires_grad_(any(old.requires_grad for old in module.parameters()))
        return new

    def tie(self, old: nn.Module, new: Posterior) -> None:
        """Layers of one weight get one mean and one variance."""
        weight = old.weight
        assert isinstance(weight, nn.Parameter)
        _, theta, log_sigma2 = self.tied.setdefault(
            id(weight), (weight, new.theta, new.log_sigma2)
        )
        new.theta, new.log_sigma2 = theta, log_sigma2
        bias = getattr(old, "bias", None)
        if isinstance(bias, nn.Parameter) and new.bias is not None:
            new.bias = self.biases.setdefault(id(bias), (bias, new.bias))[1]


def _is_plain(name: str, module: nn.Module) -> bool:
    """Whether nothing but the layer's own parameters makes its weights."""
    own = {**module._parameters}
    lazy = any(torch.nn.parameter.is_lazy(p) for p in own.values() if p is not None)
    if lazy:
        raise ValueError(f"layer {name!r} has no shape yet: run the model once before it is converted")
    pruned = any(key.endswith(("_orig", "_v", "_g")) for key in own)
    if module._forward_pre_hooks or module._forward_hooks or pruned:
        warnings.warn(f"layer {name!r} has hooks: it is left as it is", stacklevel=5)
        return False
    return True
