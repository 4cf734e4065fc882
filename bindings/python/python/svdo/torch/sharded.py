"""Parameters of which every process holds a part (``torch.distributed.fsdp.fully_shard``): outside of a model's
forward pass they are DTensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

if torch.distributed.is_available():
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor
else:  # pragma: no cover
    DTensor = FSDPModule = FullyShardedDataParallel = ()  # type: ignore[assignment, misc]


def is_sharded(tensor: Tensor) -> bool:
    """Whether a process holds a part of it alone."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_row(tensor: Tensor, row: int) -> tuple[Tensor, int | None]:
    """What a process holds of a tensor, and where in that a row of the whole is; None where another has it."""
    if not isinstance(tensor, DTensor):
        return tensor, row
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local = tensor.to_local()
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    at = row - offset[0]
    return local, at if 0 <= at < len(local) else None


def sum_over_processes(local: Tensor, like: Tensor) -> Tensor:
    """The sum of what each process made of its part of a tensor, a scalar, whose gradient goes into the process's own
    part: gradients of shards are not averaged, so that every process has the whole one of its part."""
    assert isinstance(like, DTensor)
    from torch.distributed.tensor import Partial, Replicate

    placements: list[Any] = [Partial() if place.is_shard() else Replicate() for place in like.placements]
    total = DTensor.from_local(local.detach(), like.device_mesh, placements).full_tensor()
    return local + (total - local.detach())


def refuse_flat(module: nn.Module) -> None:
    """Refuses the older wrapper, which cuts parameters where no weight ends.

    Raises:
        ValueError: it is in the module.
    """
    if any(isinstance(m, FullyShardedDataParallel) for m in module.modules()):
        raise ValueError(
            "FullyShardedDataParallel cuts the means and the variances of a layer at different weights: "
            "use torch.distributed.fsdp.fully_shard"
        )


def reshard(module: nn.Module) -> None:
    """Frees the whole parameters that a forward pass without a backward one leaves behind: what is changed then are
    the parts, which the optimizer has, too."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def refuse_sharded(module: nn.Module) -> None:
    """Refuses what needs all weights of a model in one process.

    Raises:
        ValueError: processes hold parts of them.
    """
    if any(isinstance(part, FSDPModule) for part in module.modules()):
        raise ValueError(
            "the model is sharded: in all processes call get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True, cpu_offload=True)) of "
            "torch.distributed.checkpoint.state_dict, and in one load_state_dict it into a model made anew"
        )
