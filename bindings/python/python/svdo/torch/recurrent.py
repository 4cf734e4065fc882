"""Recurrent layers under sparse variational dropout.

One sample of the weights serves a whole sequence (Chirkova, Lobacheva and Vetrov, "Bayesian
compression for natural language processing", EMNLP 2018): noise that changed from step to step would
not be that of any weights.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from svdo.torch.posterior import Posterior, Sampling


class _Weights(Posterior):
    """The weights of all gates of one layer and direction, from inputs or from states: [gates *
    hidden, in]."""

    def __init__(self, gates: int, hidden: int, cols: int, bias: bool, **options: Any) -> None:
        rows = gates * hidden
        super().__init__((rows, cols), rows if bias else None, **options)
        for parameter in (self.theta, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)


class _Recurrent(Sampling):
    """What LSTM and GRU share. The weights of layer k are ``ih_l{k}`` and ``hh_l{k}``, with
    ``_reverse`` behind for the other direction."""

    _dense: type[nn.RNNBase]
    _gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.thresh = bidirectional, thresh
        options = {"thresh": thresh, "init_log_sigma2": init_log_sigma2}
        options |= {"device": device, "dtype": dtype}
        for layer, suffix in self._parts():
            seen = input_size if layer == 0 else hidden_size * (1 + bidirectional)
            for name, cols in (("ih", seen), ("hh", hidden_size)):
                weights = _Weights(self._gates, hidden_size, cols, bias, **options)
                self.add_module(f"{name}_l{layer}{suffix}", weights)

    def _parts(self) -> list[tuple[int, str]]:
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        return [(layer, suffix) for layer in range(self.num_layers) for suffix in suffixes]

    def _flat_weights(self) -> list[Tensor]:
        flat: list[Tensor] = []
        for layer, suffix in self._parts():
            parts = [getattr(self, f"{name}_l{layer}{suffix}") for name in ("ih", "hh")]
            flat.extend(part.weight for part in parts)
            flat.extend(part.bias for part in parts if part.bias is not None)
        return flat

    def _begin(self, x: Tensor, samples: int) -> Any:
        """The states before the first step."""
        layers = self.num_layers * (1 + self.bidirectional)
        return x.new_zeros(layers, samples, self.hidden_size)

    def _run(self, x: Tensor, sizes: Tensor | None, states: Any) -> tuple[Tensor, Any]:
        settings, flat = self._settings(), self._flat_weights()
        with warnings.catch_warnings():
            # cuDNN would have the weights in one piece, which samples are not.
            warnings.filterwarnings("ignore", message="RNN module weights are not part")
            if sizes is not None:
                out, *last = self._cells(x, sizes, states, flat, *settings)
            else:
                out, *last = self._cells(x, states, flat, *settings, self.batch_first)
        return out, tuple(last) if len(last) > 1 else last[0]

    def _settings(self) -> tuple[Any, ...]:
        return (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)

    def forward(self, x: Any, states: Any = None) -> tuple[Any, Any]:
        """As the layer without a posterior: a sequence [time, batch, in] (or batch first, without a
        batch, or packed) and states, to outputs and states."""
        if isinstance(x, PackedSequence):
            if states is None:
                states = self._begin(x.data, int(x.batch_sizes[0]))
            else:
                states = self._sorted(states, x.sorted_indices)
            data, states = self._run(x.data, x.batch_sizes, states)
            out = PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
            return out, self._sorted(states, x.unsorted_indices)
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: expected [time, batch, {self.input_size}] or "
                f"[time, {self.input_size}], found {list(x.shape)}"
            )
        single, batch = x.dim() == 2, 0 if self.batch_first else 1
        if single:
            x = x.unsqueeze(batch)
            states = self._each(states, lambda state: state.unsqueeze(1))
        if states is None:
            states = self._begin(x, x.shape[batch])
        out, states = self._run(x, None, states)
        if single:
            return out.squeeze(batch), self._each(states, lambda state: state.squeeze(1))
        return out, states

    @staticmethod
    def _each(states: Any, function: Any) -> Any:
        if states is None:
            return None
        return tuple(map(function, states)) if isinstance(states, tuple) else function(states)

    def _sorted(self, states: Any, order: Tensor | None) -> Any:
        return states if order is None else self._each(states, lambda s: s.index_select(1, order))

    @classmethod
    def from_dense(cls, layer: nn.Module, **options: Any) -> Any:
        """A layer whose means are the weights of a trained one."""
        assert isinstance(layer, nn.RNNBase)
        if layer.proj_size:
            raise ValueError("from_dense: proj_size is not supported")
        first = layer.weight_ih_l0
        options = {"device": first.device, "dtype": first.dtype, **options}
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
        arguments = {name: getattr(layer, name) for name in (*names, "bidirectional")}
        new = cls(**arguments, **options)
        for number, suffix in new._parts():
            for name in ("ih", "hh"):
                end = f"{name}_l{number}{suffix}"
                bias = getattr(layer, f"bias_{end}") if layer.bias else None
                getattr(new, end)._take(getattr(layer, f"weight_{end}"), bias)
        return new.train(layer.training)

    def dense(self) -> nn.RNNBase:
        """The layer without a posterior, its pruned weights at zero, in evaluation mode."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
        arguments = {name: getattr(self, name) for name in (*names, "bidirectional")}
        theta = self.ih_l0.theta
        layer = self._dense(**arguments, device=theta.device, dtype=theta.dtype)
        with torch.no_grad():
            for number, suffix in self._parts():
                for name in ("ih", "hh"):
                    end = f"{name}_l{number}{suffix}"
                    part = getattr(self, end)
                    getattr(layer, f"weight_{end}").copy_(part.theta * part.mask())
                    if part.bias is not None:
                        getattr(layer, f"bias_{end}").copy_(part.bias)
        return layer.eval()

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"bidirectional={self.bidirectional}, thresh={self.thresh}"
        )


class LSTMSVDO(_Recurrent):
    """``nn.LSTM`` under sparse variational dropout, without projections.

    Args as those of ``nn.LSTM``; ``thresh`` and ``init_log_sigma2`` as in
    :class:`svdo.torch.LinearSVDO`. theta and log_sigma2 of ``ih_l{k}`` are [4 hidden, in], of
    ``hh_l{k}`` [4 hidden, hidden], gates in PyTorch's order.
    """

    _dense = nn.LSTM
    _cells = staticmethod(torch._VF.lstm)
    _gates = 4

    def _begin(self, x: Tensor, samples: int) -> Any:
        zeros = super()._begin(x, samples)
        return zeros, zeros


class GRUSVDO(_Recurrent):
    """``nn.GRU`` under sparse variational dropout.

    Args as those of ``nn.GRU``; ``thresh`` and ``init_log_sigma2`` as in
    :class:`svdo.torch.LinearSVDO`. theta and log_sigma2 of ``ih_l{k}`` are [3 hidden, in], of
    ``hh_l{k}`` [3 hidden, hidden], gates in PyTorch's order.
    """

    _dense = nn.GRU
    _cells = staticmethod(torch._VF.gru)
    _gates = 3
