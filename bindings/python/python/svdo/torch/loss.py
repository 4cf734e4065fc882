"""The loss to train with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from svdo.torch import functional
from svdo.torch.posterior import Posterior, posteriors
from svdo.torch.sharded import refuse_flat


def kl(module: nn.Module) -> Tensor:
    """The KL divergence of all SVDO layers of a module in nats, a scalar.

    Raises:
        ValueError: the module has no such layer.
    """
    refuse_flat(module)
    layers = posteriors(module)
    if not layers:
        raise ValueError("no SVDO layer in the module: its KL divergence is not defined")
    # Layers that leave nothing out are summed in one pass, tied ones once.
    whole = [layer for layer in layers if type(layer).kl is Posterior.kl]
    pairs = {id(layer.theta): (layer.theta, layer.log_sigma2) for layer in whole}
    terms = [layer.kl() for layer in layers if type(layer).kl is not Posterior.kl]
    if pairs:
        terms.append(functional.kl(*map(list, zip(*pairs.values()))))
    return functional.total(terms)


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


def distillation(output: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """How far a model's class probabilities are from those of a teacher, both softened, a scalar: the
    mean KL divergence at a temperature, times its square, so that gradients keep their size (Hinton,
    Vinyals and Dean, "Distilling the knowledge in a neural network", 2015).

    Args:
        output, teacher: logits [batch, classes]; no gradient goes into the teacher's.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0")
    wanted = (teacher.detach().float() / temperature).log_softmax(1)
    found = (output.float() / temperature).log_softmax(1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * temperature**2
