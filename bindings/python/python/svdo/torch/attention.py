"""Multi-head attention whose projections are under sparse variational dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdo.torch.layers import LinearSVDO


class MultiheadAttentionSVDO(nn.Module):
    """``nn.MultiheadAttention`` with :class:`LinearSVDO` as its projections ``q_proj``, ``k_proj``,
    ``v_proj`` [embed, embed, kdim or vdim] and ``out_proj``.

    ``nn.MultiheadAttention`` multiplies by its weights itself, so that none of its layers would
    sample; this calls them. Without ``add_bias_kv`` and ``add_zero_attn``.
    """

    # What nn.TransformerEncoder asks before it takes a shortcut past the layers.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        thresh: float | None = 3.0,
        init_log_sigma2: float = -10.0,
    ) -> None:
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.batch_first = dropout, batch_first
        options = {"thresh": thresh, "init_log_sigma2": init_log_sigma2}
        options |= {"device": device, "dtype": dtype}
        self.q_proj = LinearSVDO(embed_dim, embed_dim, bias, **options)
        self.k_proj = LinearSVDO(self.kdim, embed_dim, bias, **options)
        self.v_proj = LinearSVDO(self.vdim, embed_dim, bias, **options)
        self.out_proj = LinearSVDO(embed_dim, embed_dim, bias, **options)

    @classmethod
    def from_dense(cls, layer: nn.Module, **options: Any) -> MultiheadAttentionSVDO:
        """Attention whose means are the weights of a trained one."""
        assert isinstance(layer, nn.MultiheadAttention)
        if layer.bias_k is not None or layer.add_zero_attn:
            raise ValueError("from_dense: add_bias_kv and add_zero_attn are not supported")
        weight = layer.out_proj.weight
        options = {"device": weight.device, "dtype": weight.dtype, **options}
        bias = layer.in_proj_bias
        names = ("embed_dim", "num_heads", "dropout", "kdim", "vdim", "batch_first")
        arguments = {name: getattr(layer, name) for name in names}
        new = cls(bias=bias is not None, **arguments, **options)
        if layer.in_proj_weight is not None:
            weights = layer.in_proj_weight.chunk(3)
        else:
            weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        biases = [None] * 3 if bias is None else bias.chunk(3)
        projections = (new.q_proj, new.k_proj, new.v_proj)
        for projection, weight, bias in zip(projections, weights, biases):
            projection._take(weight, bias)
        new.out_proj._take(layer.out_proj.weight, layer.out_proj.bias)
        return new.train(layer.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: queries [target, batch, embed] (or batch first, or without a
        batch) to outputs of that shape, and the attention's weights if they are needed."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal needs attn_mask, as in nn.MultiheadAttention")
        single = query.dim() == 2
        if single:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        heads = [
            projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        ]
        mask = self._mask(attn_mask, key_padding_mask, heads[0])
        p = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = heads[0] @ heads[1].transpose(-2, -1) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, p) @ heads[2]
            if average_attn_weights:
                weights = weights.mean(1)
        else:
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=p)
        out = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        if single:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _mask(self, attn: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores [batch, heads, target, source]."""
        total: Tensor | None = None
        if attn is not None and attn.dim() == 3:
            attn = attn.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            padding = padding[:, None, None, :]
        for mask in (attn, padding):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                zeros = torch.zeros(mask.shape, dtype=like.dtype, device=like.device)
                mask = zeros.masked_fill(mask, float("-inf"))
            total = mask.to(like.dtype) if total is None else total + mask
        return total
