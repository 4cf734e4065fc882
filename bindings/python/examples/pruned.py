"""A network that is made so many times smaller, trained on, and written down as what is left of it."""

import numpy as np
import svdo.torch as st
import torch


@torch.no_grad()
def prune_to(model, ratio):
    """Keeps the weights of lowest log alpha, 1 / ratio of all, for good; gives the threshold. The layers prune no
    further while they are trained on."""
    layers = st.posteriors(model)
    log_alpha = torch.cat([layer.log_alpha().reshape(-1) for layer in layers])
    threshold = log_alpha.kthvalue(max(1, int(len(log_alpha) / ratio))).values.item()
    for layer in layers:
        layer.thresh = threshold
    return keep_zeros(model, threshold)


def keep_zeros(model, threshold):
    """As :func:`prune_to`, for the zeros that there are."""
    st.prune_(model)
    for layer in st.posteriors(model):
        layer.thresh = None
    return threshold


@torch.no_grad()
def restore(model, threshold):
    """The threshold again, and variances that keep what is kept: fine-tuning moved the means alone."""
    for layer in st.posteriors(model):
        layer.thresh = threshold
        highest = 2 * layer.theta.abs().log() + (threshold - 1e-3)
        # A weight of zero has an infinite log alpha by any variance.
        layer.log_sigma2.copy_(torch.where(layer.theta == 0, 0.0, torch.minimum(layer.log_sigma2, highest)))


def kept(model):
    """Weights that are not zero, and all."""
    layers = st.posteriors(model)
    return sum(int((l.theta != 0).sum()) for l in layers), sum(l.theta.numel() for l in layers)


def write(model, threshold, path):
    """The weights that are left, with their places and variances, and all other tensors: an .npz of few MB."""
    state = {name: tensor.cpu().contiguous().numpy() for name, tensor in model.state_dict().items()}
    left = {"threshold": np.float64(threshold)}
    for name, array in state.items():
        layer, _, last = name.rpartition(".")
        if last in ("theta", "log_sigma2"):
            at = np.flatnonzero(state[f"{layer}.theta"])
            left[f"{name}/at"], left[name] = at.astype(np.uint32), array.ravel()[at]
        else:
            left[name] = array
    np.savez_compressed(path, **left)


@torch.no_grad()
def read(model, path):
    """Fills a model with what :func:`write` wrote; gives the threshold."""
    left = np.load(path)
    for name, tensor in model.state_dict().items():
        array = torch.from_numpy(left[name])
        if f"{name}/at" in left.files:
            tensor.zero_().view(-1)[torch.from_numpy(left[f"{name}/at"].astype(np.int64))] = array
        else:
            tensor.copy_(array)
    restore(model, float(left["threshold"]))
    return float(left["threshold"])
