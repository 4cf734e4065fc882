"""The layers beside PyTorch's own, and what is done with them in training."""

import copy

import numpy as np
import pytest
import svdo

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn
from torch.nn import functional as F

from svdo.torch import functional, noise

st = svdo.torch


def dense_layers():
    torch.manual_seed(0)
    yield nn.Linear(6, 4), torch.randn(3, 5, 6)
    yield nn.Conv1d(4, 6, 3, 2, 2, 2, groups=2, padding_mode="circular"), torch.randn(3, 4, 11)
    yield nn.Conv2d(4, 6, (3, 2), padding="same", dilation=(1, 2), bias=False), torch.randn(3, 4, 7, 8)
    yield nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, dilation=2), torch.randn(3, 4, 5, 6)
    yield nn.Embedding(9, 4), torch.randint(9, (3, 5))
    yield nn.Embedding(9, 4, padding_idx=2), torch.randint(9, (3, 5))
    yield nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True), torch.randn(3, 7, 4)
    yield nn.GRU(4, 5, bias=False), torch.randn(7, 3, 4)


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize(("dense", "x"), [*dense_layers()], ids=lambda v: type(v).__name__)
def test_a_layer_is_its_dense_one_around_its_means(dense, x):
    layer = st.convert(copy.deepcopy(dense), thresh=None, init_log_sigma2=-40.0)
    assert type(layer).__name__ == type(dense).__name__ + "SVDO"
    with torch.no_grad():
        expected = first(dense.eval()(x))
        assert torch.allclose(first(layer.eval()(x)), expected, atol=1e-6)
        assert torch.allclose(first(layer.train()(x)), expected, atol=1e-4)
    for posterior in st.posteriors(layer):
        nn.init.constant_(posterior.log_sigma2, -4.0)
    torch.manual_seed(3)
    with torch.no_grad():
        draws = torch.stack([first(layer(x)) for _ in range(300)])
        assert draws.std(0).mean() > 1e-2
    first(layer(x)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert torch.allclose(first(layer.eval().dense()(x)), first(layer(x)), atol=1e-6)


def test_padding_of_embeddings_is_neither_sampled_nor_counted():
    layer = st.EmbeddingSVDO(5, 3, padding_idx=1)
    assert not layer(torch.tensor([1, 1])).any()
    other = st.EmbeddingSVDO(4, 3)
    with torch.no_grad():
        other.theta.copy_(layer.theta[[0, 2, 3, 4]])
    assert layer.kl().item() == pytest.approx(other.kl().item())


def test_packed_sequences_are_what_lstm_makes_of_them():
    torch.manual_seed(0)
    dense = nn.LSTM(3, 4, bidirectional=True)
    layer = st.convert(copy.deepcopy(dense), thresh=None).eval()
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    with torch.no_grad():
        (found, states), (expected, expected_states) = layer(packed), dense(packed)
    assert torch.allclose(found.data, expected.data, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(states, expected_states))


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_is_pytorchs(batch_first):
    torch.manual_seed(0)
    dense = nn.MultiheadAttention(8, 2, kdim=6, batch_first=batch_first).eval()
    layer = st.convert(copy.deepcopy(dense), thresh=None)
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 8)
    if not batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    mask = torch.randn(5, 7)
    for needed in (False, True):
        options = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": needed}
        with torch.no_grad():
            found, expected = layer(q, k, v, **options), dense(q, k, v, **options)
        assert torch.allclose(found[0], expected[0], atol=1e-6)
        assert not needed or torch.allclose(found[1], expected[1], atol=1e-6)


def test_a_layer_inside_pytorchs_attention_works():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.out_proj = st.LinearSVDO(8, 8, init_log_sigma2=-2.0)
    x = torch.randn(2, 3, 8)
    assert not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
    attention.eval()
    assert torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])


def test_weights_that_are_tied_stay_tied():
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
    model[1].weight = model[0].weight
    st.convert(model)
    assert model[0].theta is model[1].theta and model[0].log_sigma2 is model[1].log_sigma2
    assert sum(layer.total for layer in st.stats(model)) == 35


def test_conversion_chooses_by_name_and_type():
    make = lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 4), nn.Linear(4, 2))
    kinds = lambda model: [type(layer).__name__ for layer in model]
    model = st.convert(make(), types=[nn.Linear], only=lambda name, layer: name != "2")
    assert kinds(model) == ["Conv2d", "LinearSVDO", "Linear"]
    with pytest.raises(ValueError, match="no layer of the model"):
        st.convert(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="no SVDO form of ReLU"):
        st.convert(make(), types=[nn.ReLU])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_on_raw_pixels_and_zero_rows(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(st.LinearSVDO(784, 50), nn.ReLU(), st.LinearSVDO(50, 10))
    x = torch.randint(0, 256, (8, 784)).float()
    x[3] = 0
    with torch.autocast("cpu", dtype=dtype):
        out = model(x)
    assert out.isfinite().all()
    out.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_evaluation_prunes_once_and_sees_what_changes():
    layer = st.LinearSVDO(4, 3, init_log_sigma2=-2.0).eval()
    with torch.no_grad():
        once = layer.masked_theta()
        assert layer.masked_theta() is once
        layer.theta.fill_(5.0)
        assert (layer.masked_theta() == 5).all()
        layer.log_sigma2.fill_(9.0)
        assert not layer.masked_theta().any()
        layer.thresh = None
        assert layer.masked_theta().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts_are_of_the_pruned_network():
    model = nn.Sequential(st.LinearSVDO(4, 3, init_log_sigma2=-2.0), nn.ReLU())
    with pytest.raises(TypeError, match="script the model in evaluation mode"):
        torch.jit.script(model)
    x = torch.randn(2, 4)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(model.eval())(x), model(x))


def test_recalibrated_statistics_are_those_of_the_pruned_network():
    torch.manual_seed(0)
    model = nn.Sequential(st.LinearSVDO(6, 5, init_log_sigma2=-1.0), nn.BatchNorm1d(5)).train()
    x = torch.randn(64, 6)
    st.recalibrate(model, [(x[:32], None), x[32:]])
    assert model.training and model[1].momentum == 0.1
    with torch.no_grad():
        y = F.linear(x, model[0].theta * model[0].mask(), model[0].bias)
    assert torch.allclose(model[1].running_mean, y.mean(0), atol=1e-5)
    variance = (y[:32].var(0) + y[32:].var(0)) / 2
    assert torch.allclose(model[1].running_var, variance, atol=1e-5)
    state = copy.deepcopy(model[1].state_dict())
    with pytest.raises(ValueError, match="there is none"):
        st.recalibrate(model, [])
    assert all(torch.equal(state[k], v) for k, v in model[1].state_dict().items())
    with pytest.raises(ValueError, match="no batch normalization"):
        st.recalibrate(nn.Linear(2, 2), [x])


def test_the_weight_of_the_kl_rises():
    schedule = st.Schedule(ramp=10, delay=5, scale=2.0)
    assert [schedule.kl_weight(at) for at in (0, 5, 10, 15, 99)] == [0.0, 0.0, 1.0, 2.0, 2.0]
    assert st.Schedule(ramp=0).kl_weight(0) == 1.0
    with pytest.raises(ValueError, match="from 0 on"):
        st.Schedule(ramp=-1)


def test_what_is_pruned_for_good_stays_zero():
    torch.manual_seed(0)
    model = nn.Sequential(st.LinearSVDO(8, 8, init_log_sigma2=-2.0))
    kept = st.stats(model)[0].kept
    assert 0 < kept < 64
    st.prune_(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    assert (model[0].theta != 0).sum() == kept
    with pytest.warns(UserWarning, match="keeps no weight"):
        nn.init.constant_(model[0].log_sigma2, 20.0)
        assert st.stats(model)[0].sparsity == 1.0


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_fused_arithmetic_is_the_plain_one(format, narrow):
    """Gradients of a step, weights and activations of all layouts in one compiled form."""
    dtype, rtol, atol = (torch.float, 1e-2, 1e-4) if narrow else (torch.double, 1e-12, 1e-14)

    def gradients(fused):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(144, 5)]
        model = st.convert(nn.Sequential(*layers), init_log_sigma2=-3.0).to(dtype, memory_format=format)
        x = torch.randn(2, 3, 8, 8, dtype=torch.double).to(dtype).contiguous(memory_format=format)
        st.use_fused(fused)
        st.use_bf16_variances(narrow)
        torch.manual_seed(1)
        loss = st.sgvlb_loss(model(x), torch.tensor([1, 2]), model, 100)
        loss.backward()
        return [loss, *(p.grad for p in model.parameters())]

    expected = gradients(False)
    try:
        fused = gradients(True)
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"torch.compile does not work here: {error}"[:200])
    finally:
        st.use_fused(None)
        st.use_bf16_variances(False)
    for found, wanted in zip(fused, expected):
        assert torch.allclose(found, wanted, rtol=rtol, atol=atol)


def test_a_checkpoint_is_tied_to_the_graph_that_pytorch_exports(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
            self.positions = nn.Parameter(torch.randn(1, 5, 6))

        def forward(self, x):
            return self.b(F.relu(self.a(x) + self.positions))

    decoder = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 2, 2)
    )
    for model, shape in [(Tokens(), (5, 4)), (decoder, (4, 3, 3))]:
        graph, weights = tmp_path / "model.onnx", tmp_path / "model.pt"
        torch.onnx.export(model.eval(), (torch.randn(1, *shape),), graph, verbose=False)
        torch.save(model.state_dict(), weights)
        report = svdo.compress(weights, network=graph, quantize="exact")
        compressed = svdo.load(report.data)
        x = torch.randn(3, *shape)
        with torch.no_grad():
            expected = model(x).numpy()
        found = compressed(x.numpy().reshape(3, *compressed.input_shape)).reshape(expected.shape)
        assert np.abs(found - expected).max() < 1e-5


def test_the_kl_in_pieces_is_that_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    theta = torch.randn(7, 30, dtype=torch.double) * 0.1
    theta[::3] = 0
    log_sigma2 = torch.empty(7, 30, dtype=torch.double).uniform_(-60, 20)
    value, *slopes = functional._kl_and_gradient(theta, log_sigma2)
    expected = [value.sum(), *slopes]
    for piece in (1000, 64, 7):
        monkeypatch.setattr(functional, "PIECE", piece)
        before = theta.clone(), log_sigma2.clone()
        for found, wanted in zip(functional._kl_in_cache(theta, log_sigma2), expected):
            assert torch.allclose(found, wanted, rtol=1e-12, atol=0)
        assert torch.equal(before[0], theta) and torch.equal(before[1], log_sigma2)


def test_noise_of_one_type_is_that_of_many():
    torch.manual_seed(0)
    mean, unit = torch.randn(50), torch.randn(50)
    variance = torch.rand(50)
    variance[::5], variance[1], unit[5] = 0, -1e-9, 0
    out, slope = noise._sampled(mean, variance, unit)
    wide = noise._sampled(mean.double(), variance, unit.double())
    assert torch.allclose(out.double(), wide[0]) and torch.allclose(slope.double(), wide[1].double())
    assert slope.isfinite().all() and (slope[::5] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_samples_in_place_are_those_of_the_plain_way(dtype, format, monkeypatch):
    monkeypatch.setattr(functional, "PIECE", 64)
    shape = (3, 4, 5, 8)
    torch.manual_seed(0)
    mean = torch.randn(shape, dtype=dtype).contiguous(memory_format=format)
    variance = torch.rand(shape, dtype=dtype).contiguous(memory_format=format)
    variance[0, 0], variance[1, 1, 1, 1] = 0, -1e-9
    weights = torch.randn(shape, dtype=dtype)

    def results(function):
        leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (mean, variance)]
        torch.manual_seed(1)
        out = function(*(leaf + 0 for leaf in leaves))
        (out * weights).sum().backward()
        return [out, *(leaf.grad for leaf in leaves)]

    found = results(noise.add_noise)
    expected = results(lambda m, v: noise._Sample.apply(m, v, noise._normal_like(m)))
    assert "InPlace" in type(found[0].grad_fn).__name__
    for a, b in zip(found, expected):
        assert a.stride() == b.stride() and torch.allclose(a, b, rtol=1e-6, atol=0)
    assert (found[2][0, 0] == 0).all() and found[2].isfinite().all()


def layers_that_sample():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 5, 4)
    conv = st.Conv2dSVDO(3, 4, 3, padding=1, init_log_sigma2=-1.0)
    yield "conv2d", conv, x
    last = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    yield "channels last", last, x.contiguous(memory_format=torch.channels_last)
    yield "mixed layouts", last, x
    yield "padded", st.Conv2dSVDO(3, 2, 3, padding=1, padding_mode="circular", init_log_sigma2=-1.0), x
    yield "transposed", st.ConvTranspose2dSVDO(3, 2, 2, 2, init_log_sigma2=-1.0), x
    yield "no batch", st.Conv1dSVDO(3, 2, 2, init_log_sigma2=-1.0), x[0, :, :, 0]
    yield "tokens", st.LinearSVDO(4, 3, init_log_sigma2=-1.0), x
    yield "transposed tokens", st.LinearSVDO(3, 2, init_log_sigma2=-1.0), x.transpose(1, -1)
    yield "one", st.LinearSVDO(4, 3, bias=False, init_log_sigma2=-1.0), x[0, 0, 0]


@pytest.mark.parametrize(
    ("name", "layer", "x"), [*layers_that_sample()], ids=lambda v: v if isinstance(v, str) else ""
)
def test_gradients_of_a_sample_are_those_of_its_formula(name, layer, x):
    """Of x, theta, log_sigma2 and bias, against autograd of the formula in f64 and finite differences."""
    layer, x = copy.deepcopy(layer).double(), x.double()
    names = [key for key, _ in layer.named_parameters()]

    def sample(x, *parameters):
        torch.manual_seed(7)
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    def formula(x, theta, log_sigma2, *bias):
        mean = layer._apply_weight(x, theta, bias[0] if bias else None)
        variance = layer._apply_weight(x * x, log_sigma2.exp(), None)
        torch.manual_seed(7)
        return mean + noise._normal_like(mean) * variance.sqrt()

    inputs = [t.detach().clone().requires_grad_() for t in (x, *layer.parameters())]
    found, expected = sample(*inputs), formula(*inputs)
    assert torch.allclose(found, expected, rtol=1e-12)
    weights = torch.rand_like(expected)
    both = [torch.autograd.grad(out, inputs, weights) for out in (found, expected)]
    for a, b in zip(*both):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(sample, inputs)
    assert torch.equal(sample(*inputs), found), "a seed gives one sample"


@pytest.mark.parametrize("padding", [None, 2])
def test_gradients_of_embeddings_are_those_of_their_formula(padding):
    torch.manual_seed(0)
    layer = st.EmbeddingSVDO(5, 3, padding, dtype=torch.float64, init_log_sigma2=-1.0)
    tokens = torch.tensor([[0, 2, 1], [4, 4, 2]])
    counted = torch.ones(5, 1, dtype=torch.double)
    if padding is not None:
        counted[padding] = 0
    torch.manual_seed(7)
    found = layer(tokens)
    torch.manual_seed(7)
    rows = [(counted * p)[tokens] for p in (layer.theta, layer.log_sigma2)]
    deviation = (0.5 * rows[1]).exp() * counted[tokens]
    expected = rows[0] + noise._normal_like(rows[0]) * deviation
    assert torch.allclose(found, expected, rtol=1e-12)
    parameters = list(layer.parameters())
    both = [torch.autograd.grad(out.pow(3).sum(), parameters) for out in (found, expected)]
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(*both))


@pytest.fixture
def bf16_variances():
    st.use_bf16_variances()
    yield
    st.use_bf16_variances(False)


@pytest.mark.parametrize(
    ("name", "layer", "x"), [*layers_that_sample()], ids=lambda v: v if isinstance(v, str) else ""
)
def test_variances_in_bf16_are_near_those_in_f32(name, layer, x, bf16_variances):
    """A sample and its gradients, against bounds from the errors of single roundings: 2^-8 of a number each."""
    layer, x = copy.deepcopy(layer), x.clone()
    unit = 2.0**-8
    inputs = [t.detach().clone().requires_grad_() for t in (x, *layer.parameters())]
    names = [key for key, _ in layer.named_parameters()]

    def sample():
        torch.manual_seed(7)
        return torch.func.functional_call(layer, dict(zip(names, inputs[1:])), (inputs[0],))

    st.use_bf16_variances(False)
    expected = sample()
    weights = torch.rand_like(expected) - 0.5
    wanted = torch.autograd.grad(expected, inputs, weights)
    st.use_bf16_variances()
    found = sample()
    gradients = torch.autograd.grad(found, inputs, weights)

    # The parts in f64: means, and what goes through variances, with magnitudes of its gradients.
    wide = [t.detach().double().requires_grad_() for t in inputs]
    x64, theta, log_sigma2, *bias = wide
    mean = layer._apply_weight(x64, theta, bias[0] if bias else None)
    variance = layer._apply_weight(x64 * x64, log_sigma2.exp(), None)
    noise_part = (expected.double() - mean).detach()
    # x^2, sigma^2 and their sum are rounded: 3 units, of its root half as much.
    assert ((found - expected).abs() <= 1.6 * unit * noise_part.abs() + 1e-5).all()
    assert not torch.equal(found, expected), "the option does something"
    slope = noise_part / (2 * variance.detach())
    magnitudes = torch.autograd.grad(variance, [x64, log_sigma2], (weights * slope).abs(), retain_graph=True)
    by_means = torch.autograd.grad(mean, wide[:2], weights.double())
    # The slope (1.5 units by the variance, 1 of its own), times a gradient, times x^2 or sigma^2, in a sum.
    for at, magnitude, other in ((0, magnitudes[0], by_means[0]), (2, magnitudes[1], None)):
        rest = 0.0 if other is None else other.abs()
        error = (gradients[at].double() - wanted[at].double()).abs()
        assert (error <= 6 * unit * magnitude.abs() + 1e-5 * (1 + rest)).all()
    assert all(torch.equal(gradients[k], wanted[k]) for k in (1, *range(3, len(inputs)))), "means are as they were"
    assert all(g.dtype == torch.float32 and g.stride() == w.stride() for g, w in zip(gradients, wanted))


def test_only_f32_without_autocast_gets_variances_in_bf16(bf16_variances):
    torch.manual_seed(0)
    layer, x = st.Conv2dSVDO(3, 4, 3, init_log_sigma2=-1.0), torch.rand(2, 3, 6, 6)

    def sample(layer, x):
        torch.manual_seed(1)
        return layer(x)

    wide, wide_x = copy.deepcopy(layer).double(), x.double()
    found = sample(wide, wide_x)
    with torch.autocast("cpu", torch.bfloat16):
        half = sample(layer, x)
    st.use_bf16_variances(False)
    assert torch.equal(found, sample(wide, wide_x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half, sample(layer, x)) and half.dtype == torch.bfloat16


def test_arrays_of_two_types_go_in_pieces(monkeypatch):
    torch.manual_seed(0)
    a, b = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6).bfloat16()
    last = [t.contiguous(memory_format=torch.channels_last) for t in (a, b)]
    expected = functional._wide_product(a, b, torch.float32)
    for piece in (1000, 64, 7):
        monkeypatch.setattr(functional, "PIECE", piece)
        for pair in ((a, b), last, (last[0], b), (a[:, :, ::2], b[:, :, ::2])):
            found = functional.changed(functional._wide_product, pair, torch.float32)
            assert torch.equal(found, expected[:, :, ::2] if len(found[0, 0]) == 3 else expected)
            assert found.dtype == torch.float32
        narrow = functional.changed(functional._square, (last[0],), torch.bfloat16)
        assert torch.equal(narrow, (a * a).bfloat16()) and narrow.stride() == last[0].stride()


def test_a_sample_survives_checkpointing_and_hooks():
    torch.manual_seed(0)
    layers = [st.LinearSVDO(6, 6, init_log_sigma2=-1.0), nn.ReLU(), st.LinearSVDO(6, 2, init_log_sigma2=-1.0)]
    block = nn.Sequential(*layers)
    x = torch.randn(5, 6, requires_grad=True)
    parameters = [x, *block.parameters()]

    def gradients(run):
        torch.manual_seed(1)
        return torch.autograd.grad(run(x).square().sum(), parameters)

    expected = gradients(block)
    again = gradients(lambda x: torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False))
    with torch.autograd.graph.save_on_cpu():
        saved = gradients(block)
    for a, b, c in zip(expected, again, saved):
        assert torch.equal(a, b) and torch.equal(a, c)
    with torch.no_grad():
        torch.manual_seed(1)
        first = block(x)
    with torch.inference_mode():
        torch.manual_seed(1)
        assert torch.equal(block(x), first)
    # Two backward passes through one graph.
    loss = block(x).square().sum()
    twice = [torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*twice))
