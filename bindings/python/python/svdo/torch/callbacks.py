"""A training's epochs as Lightning and the Trainer of Hugging Face count them.

The classes are made when they are asked for, since each derives from a package that need not be there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from svdo.torch.loop import Training


def lightning_callback(training: Training) -> Any:
    """A callback for Lightning's ``Trainer`` that begins and ends the epochs of a training.

    ``training_step`` adds ``training.penalty()`` to its loss.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

    class TrainingCallback(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            training.begin(trainer.current_epoch)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            training.end(trainer.current_epoch)

        def state_dict(self) -> dict[str, Any]:
            return training.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            training.load_state_dict(state_dict)

    return TrainingCallback()


def transformers_callback(training: Training) -> Any:
    """A callback for the ``Trainer`` of transformers that begins and ends the epochs of a training; its
    loss is that of :func:`transformers_loss`."""
    from transformers import TrainerCallback

    class TrainingCallback(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            training.begin(round(state.epoch or 0))

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            training.end(round(state.epoch or 0) - 1)

    return TrainingCallback()


def transformers_loss(
    training: Training, data_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> Callable[..., Tensor]:
    """``compute_loss_func`` of the ``Trainer`` of transformers: ``data_loss`` of logits and labels, and in
    training mode the KL's part."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        value = data_loss(outputs["logits"], labels)
        if training.model.training:
            value = value + training.penalty()
        # Of batches that make one step together, each counts by its share of the items.
        return value if num_items_in_batch is None else value * (labels.numel() / num_items_in_batch)

    return loss
