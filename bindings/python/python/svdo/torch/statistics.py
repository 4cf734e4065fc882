"""Batch statistics of a pruned network, measured again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from svdo.torch.checkpoint import unwrap


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any], *, device: Any = None) -> nn.Module:
    """Measures the mean and variance of every batch normalization again, in the pruned network.

    Running statistics were gathered while weights were sampled and not yet pruned; what pruning
    changes before a normalization, that normalization should know. Layers are pruned as in
    evaluation mode; all normalizations measure in one pass, each behind those before it that
    normalize by the batch at hand. Statistics are averages over all batches. Call it before
    :func:`svdo.torch.save`.

    Args:
        batches: inputs [batch, *sample] of the training data, no labels: tensors, or tuples whose
            first member is one. Some thousands of samples are enough; larger batches are better.
        device: where the inputs go; where the model's parameters are if None.

    Returns:
        The model, in the mode in which it was.

    Raises:
        ValueError: there is no batch normalization with running statistics, or no batch.
    """
    bare = unwrap(model)
    norms = [m for m in bare.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise ValueError("the model has no batch normalization with running statistics")
    if device is None:
        device = next(bare.parameters()).device
    modes = [(module, module.training) for module in bare.modules()]
    before = [(norm.momentum, norm.state_dict()) for norm in norms]
    before = [(momentum, {k: v.clone() for k, v in state.items()}) for momentum, state in before]
    seen = 0
    try:
        bare.eval()
        for norm in norms:
            norm.reset_running_stats()
            # The average of all batches.
            norm.momentum = None
            norm.train()
        for batch in batches:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            bare(x.to(device) if isinstance(x, Tensor) else x)
            seen += 1
    except BaseException:
        seen = 0
        raise
    finally:
        for norm, (momentum, state) in zip(norms, before):
            norm.momentum = momentum
            if not seen:
                norm.load_state_dict(state)
        for module, mode in modes:
            module.training = mode
    if not seen:
        raise ValueError("batches: there is none")
    return model
