"""The PyTorch layers, and the whole way from training to a compressed model."""

import math

import numpy as np
import pytest
import svdo
from conftest import read_safetensors

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn
from torch.nn import functional as F

st = svdo.torch


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        st.Conv2dSVDO(1, 6, 3, padding=1, init_log_sigma2=-6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        st.Conv2dSVDO(6, 8, 3, stride=2, groups=2, bias=False, init_log_sigma2=-6),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Dropout(0.1),
        st.LinearSVDO(8 * 6 * 6, 10, init_log_sigma2=-6),
    )


def train(model, images, labels, steps, wrapped=None, seed=0):
    """A few steps on raw pixels / 255 with the whole KL, so that some weights die."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        logits = (wrapped or model)(images[rows])
        loss = st.sgvlb_loss(logits, labels[rows], wrapped or model, num_samples=2000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def data(images, labels):
    pixels = torch.tensor(images[:2000].reshape(-1, 1, 28, 28)) / 255
    return pixels, torch.tensor(labels[:2000].astype(np.int64))


def test_trained_saved_compressed_and_run(data, images, tmp_path):
    model = small_net()
    losses = train(model, *data, steps=60)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    path = tmp_path / "net.safetensors"
    st.save(model, path, example_input=(1, 28, 28), scale=1 / 255)
    report = svdo.compress(path, quantize="exact", output=tmp_path / "net.svdo")

    layers = [m for m in model if isinstance(m, (st.LinearSVDO, st.Conv2dSVDO))]
    masks = [int(layer.mask().sum()) for layer in layers]
    assert [layer.kept for layer in report.layers] == masks
    assert 0 < report.weights_kept < report.weights_total

    model.eval()
    raw = images[:500].reshape(-1, 1, 28, 28)
    with torch.no_grad():
        expected = model(torch.tensor(raw) / 255).numpy()
    found = svdo.load(tmp_path / "net.svdo")(raw)
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    assert np.abs(expected).max() > 0.5

    network = st.describe(model, (1, 28, 28), scale=1 / 255)
    direct = svdo.compress(model.state_dict(), network=network, quantize="exact")
    assert direct.data == report.data
    at_once = svdo.compress(model, torch.zeros(1, 1, 28, 28), scale=1 / 255, quantize="exact")
    assert at_once.data == report.data


def test_training_with_variances_in_bf16_ends_where_it_does_in_f32(data):
    """Losses and what is pruned, in the mean over seeds, against what seeds make of them."""

    def trained(narrow, seed):
        st.use_bf16_variances(narrow)
        try:
            model = small_net()
            torch.manual_seed(seed)
            losses = train(model, *data, steps=80, seed=seed)
        finally:
            st.use_bf16_variances(False)
        kept = sum(layer.kept for layer in st.stats(model))
        log_alpha = np.mean([layer.log_alpha for layer in st.stats(model)])
        return np.mean(losses[-20:]), kept, log_alpha

    seeds = range(1, 6)
    wide, narrow = (np.array([trained(kind, seed) for seed in seeds]) for kind in (False, True))
    assert (wide != narrow).any(1).all(), "the option does something"
    difference = (narrow - wide).mean(0)
    spread = wide.std(0, ddof=1) / len(seeds) ** 0.5
    assert (np.abs(difference) < 0.5 * spread).all(), (difference, spread)


def test_a_compressed_model_takes_tensors():
    torch.manual_seed(0)
    model = nn.Sequential(st.LinearSVDO(5, 4), nn.GELU(), st.LinearSVDO(4, 3), nn.Softmax(1)).eval()
    compressed = svdo.load(svdo.compress(model, (5,), quantize="exact").data)
    x = torch.randn(9, 5)
    with torch.no_grad():
        assert np.allclose(compressed(x), model(x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_type_saves(dtype, tmp_path):
    model = nn.Sequential(st.LinearSVDO(5, 4, dtype=torch.float32)).to(dtype)
    st.save(model, tmp_path / "net.safetensors", example_input=(5,))
    tensors, _ = read_safetensors(tmp_path / "net.safetensors")
    assert np.array_equal(tensors["0.theta"], model[0].theta.detach().double().numpy())
    report = svdo.compress(tmp_path / "net.safetensors")
    assert report.data == svdo.compress(model.state_dict()).data


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_activations_have_the_moments_of_sampled_weights(kind):
    torch.manual_seed(1)
    if kind == "linear":
        layer, x = st.LinearSVDO(7, 3, init_log_sigma2=-2).double(), torch.randn(7).double()
        apply = F.linear
        x = x.expand(1, 7)
    else:
        layer = st.Conv2dSVDO(2, 4, (2, 3), 2, 1, groups=2, init_log_sigma2=-2).double()
        x = torch.randn(1, 2, 5, 5).double()

        def apply(x, weight, bias):
            return F.conv2d(x, weight, bias, 2, 1, groups=2)

    nn.init.normal_(layer.bias)
    draws = 20_000
    with torch.no_grad():
        found = layer(x.expand(draws, *x.shape[1:]))
        mean = apply(x, layer.theta, layer.bias)[0]
        # Var(sum w x) by unit impulses, one weight at a time: independent of the layer's formula.
        variance = torch.zeros_like(mean)
        for index in range(layer.theta.numel()):
            one = torch.zeros_like(layer.theta)
            one.view(-1)[index] = math.exp(-1)  # sigma
            variance += apply(x, one, None)[0] ** 2
    deviation = variance.sqrt()
    assert ((found.mean(0) - mean).abs() < 5 * deviation / draws**0.5 + 1e-12).all()
    assert ((found.var(0) - variance).abs() < 0.06 * variance + 1e-12).all()


def test_kl_matches_known_values_and_its_gradient():
    # log alpha and -KL of Molchanov et al. (2017), eq. 14, computed independently.
    golden = {-8: -4.635899, -3: -2.115590, 0: -0.431239, 1: -0.177970, 3: -0.025420, 8: -0.000168}
    for log_alpha, negative_kl in golden.items():
        layer = st.LinearSVDO(1, 1).double()
        nn.init.constant_(layer.theta, 0.3)
        nn.init.constant_(layer.log_sigma2, log_alpha + math.log(0.09))
        assert layer.kl().item() == pytest.approx(-negative_kl, abs=1e-6)
    layer = st.LinearSVDO(4, 3, init_log_sigma2=-3).double()

    def value(theta, log_sigma2):
        layer.theta, layer.log_sigma2 = theta, log_sigma2
        return layer.kl()

    inputs = layer.theta.detach().requires_grad_(), layer.log_sigma2.detach().requires_grad_()
    del layer.theta, layer.log_sigma2
    assert torch.autograd.gradcheck(value, inputs)


def test_zeros_have_finite_gradients():
    model = nn.Sequential(st.LinearSVDO(3, 2))
    nn.init.zeros_(model[0].theta)
    st.sgvlb_loss(model(torch.zeros(4, 3)), torch.tensor([0, 1, 0, 1]), model, 4).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model[0].log_alpha().isposinf().all() and not model[0].mask().any()


def test_the_loss_is_the_bound_for_each_sample():
    model = nn.Sequential(st.LinearSVDO(3, 2))
    logits, target = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    loss = st.sgvlb_loss(logits, target, model, num_samples=50, kl_weight=0.5)
    expected = F.cross_entropy(logits, target) + 0.5 * model[0].kl() / 50
    assert loss.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="no SVDO layer"):
        st.sgvlb_loss(logits, target, nn.Linear(3, 2), 50)
    with pytest.raises(ValueError, match="num_samples=0"):
        st.sgvlb_loss(logits, target, model, 0)


def test_trained_dense_layers_become_means():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    conv, linear = nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2), nn.Linear(8, 5, bias=False)
    for dense in [conv, linear]:
        kind = st.Conv2dSVDO if dense is conv else st.LinearSVDO
        layer = kind.from_dense(dense, thresh=None).eval()
        assert torch.equal(layer(x), dense(x)) and (layer.bias is None) == (dense.bias is None)


def every_describable():
    shared = nn.ReLU()
    yield (
        (3, 9, 8),
        nn.Sequential(
            nn.Sequential(st.Conv2dSVDO(3, 4, 3, padding=(1, 2)), shared),
            nn.Conv2d(4, 4, (4, 3), padding="same"),
            shared,
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.ELU(0.7),
            nn.Conv2d(4, 6, 2, padding="valid", groups=2, bias=False),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Identity(),
            st.LinearSVDO(6, 5),
            nn.SiLU(),
        ),
    )
    yield (
        (6,),
        nn.Sequential(
            *[st.LinearSVDO(6, 6), nn.Sigmoid(), st.LinearSVDO(6, 6), nn.Tanh()],
            *[st.LinearSVDO(6, 6), nn.Hardsigmoid(), st.LinearSVDO(6, 6), nn.Hardswish()],
            *[st.LinearSVDO(6, 6), nn.Softplus(), st.LinearSVDO(6, 6), nn.Softmax(dim=1)],
        ),
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("shape", "model"), [*every_describable()])
def test_described_models_compute_the_same(shape, model, tmp_path):
    torch.manual_seed(3)
    model.eval()
    for layer in model.modules():
        if isinstance(layer, (st.LinearSVDO, st.Conv2dSVDO)):
            nn.init.normal_(layer.theta)
    mean, std = [0.1] * shape[0], [0.5] * shape[0]
    st.save(model, tmp_path / "m.safetensors", shape, scale=2.0, mean=mean, std=std)
    compressed = svdo.load(svdo.compress(tmp_path / "m.safetensors", quantize="exact").data)
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = model((x * 2.0 - 0.1) / 0.5).numpy()
    assert np.allclose(compressed(x), expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_described_is_named(tmp_path):
    class Mixing(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = st.LinearSVDO(8, 8), st.LinearSVDO(8, 8)

        def forward(self, x):
            return self.a(x)

    for module, shape, message in [
        (nn.BatchNorm2d(3, track_running_stats=False), (3, 8, 8), "no running statistics"),
        (nn.LSTM(8, 8), (8, 8), "gives tuple"),
        (st.LSTMSVDO(8, 8), (8, 8), "gives tuple"),
        (nn.Sequential(nn.LSTM(8, 8, proj_size=2)), (8, 8), "proj_size has no description"),
        (st.EmbeddingSVDO(8, 8), (8,), "token ids are a tensor of integers"),
        (Mixing(), (8,), "depends on the others of the batch"),
        (Unused(), (8,), "layer 'b' is not in the graph"),
    ]:
        with pytest.raises((ValueError, svdo.SvdoError), match=message):
            st.describe(module, shape)
    with pytest.raises(ValueError, match="give example_input"):
        st.save(nn.Sequential(st.LinearSVDO(2, 2)), tmp_path / "x.safetensors")


def test_other_models_save_with_a_given_network(tmp_path):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = st.LinearSVDO(4, 4), st.LinearSVDO(4, 4)

        def forward(self, x):
            y = F.relu(self.a(x))
            return y + self.b(y)

    torch.manual_seed(0)
    model = Residual().eval()
    nodes = [
        {"op": "linear", "layer": "a"},
        {"op": "relu", "name": "y"},
        {"op": "linear", "layer": "b", "name": "by"},
        {"op": "add", "inputs": ["y", "by"]},
    ]
    path = tmp_path / "residual.safetensors"
    st.save(model, path, network={"version": 1, "input": {"shape": [4]}, "nodes": nodes})
    x = torch.randn(6, 4)
    with torch.no_grad():
        assert np.allclose(svdo.load(svdo.compress(path, quantize="exact").data)(x), model(x), atol=1e-5)
