"""Sparse variational dropout in PyTorch: layers, loss, training, and checkpoints for ``svdo-compress``.

A weight has the posterior N(theta, sigma^2) under a log-uniform prior (Molchanov, Ashukha and
Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017). Training mode samples the
activations (local reparameterization); evaluation mode prunes the weights whose log alpha =
log sigma^2 - log theta^2 is above the threshold, as compression will.

>>> model = svdo.torch.convert(torchvision.models.resnet18())
>>> loss = svdo.torch.sgvlb_loss(model(x), target, model, num_samples=50_000, kl_weight=0.5)
>>> svdo.torch.save(model, "model.safetensors", x)
"""

from svdo.torch.attention import MultiheadAttentionSVDO
from svdo.torch.callbacks import lightning_callback, transformers_callback, transformers_loss
from svdo.torch.checkpoint import compress, describe, load, save
from svdo.torch.convert import convert
from svdo.torch.functional import use_bf16_variances, use_fused
from svdo.torch.layers import Conv1dSVDO, Conv2dSVDO, ConvTranspose2dSVDO, EmbeddingSVDO, LinearSVDO
from svdo.torch.loop import Steering, Training
from svdo.torch.loss import distillation, kl, sgvlb_loss
from svdo.torch.posterior import Posterior, posteriors
from svdo.torch.recurrent import GRUSVDO, LSTMSVDO
from svdo.torch.statistics import recalibrate
from svdo.torch.training import LayerStats, Schedule, parameter_groups, prune_, stats

__all__ = [
    "Conv1dSVDO",
    "Conv2dSVDO",
    "ConvTranspose2dSVDO",
    "EmbeddingSVDO",
    "GRUSVDO",
    "LSTMSVDO",
    "LayerStats",
    "LinearSVDO",
    "MultiheadAttentionSVDO",
    "Posterior",
    "Schedule",
    "Steering",
    "Training",
    "compress",
    "convert",
    "describe",
    "distillation",
    "kl",
    "lightning_callback",
    "load",
    "parameter_groups",
    "posteriors",
    "prune_",
    "recalibrate",
    "save",
    "sgvlb_loss",
    "stats",
    "transformers_callback",
    "transformers_loss",
    "use_bf16_variances",
    "use_fused",
]
