"""Real networks: converted, trained for two steps, saved, compressed and run, with no description by hand."""

import numpy as np
import pytest
import svdo

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="a model's graph is read from an ONNX export")
from torch import nn
from torch.nn import functional as F

from svdo.torch.checkpoint import FORMS

st = svdo.torch


class PreActivationBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + self.shortcut(y)


def pre_activation_resnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        PreActivationBlock(8, 8, 1),
        PreActivationBlock(8, 16, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class Residual(nn.Module):
    """A basic block of the ResNets for CIFAR (He et al. 2016), projections where shapes differ."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Identity()
        if stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


def cifar_resnet18():
    blocks, inputs = [], 8
    for stage, outputs in enumerate((8, 16, 32, 64)):
        for block in range(2):
            blocks.append(Residual(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    stem = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, *blocks, *head)


def torchvision_model(name):
    def make():
        models = pytest.importorskip("torchvision").models
        return getattr(models, name)(num_classes=10)

    return make


class Encoder(nn.Module):
    """A sequence of vectors to classes, its positions known by embeddings."""

    def __init__(self, norm_first):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 7, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(7))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        y = self.encoder(self.embed(x) + self.positions, mask=self.mask)
        return self.head(y[:, -1])


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 17, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head((x + self.mlp(self.norm2(x)))[:, 0])


def decoder():
    return nn.Sequential(
        nn.Linear(8, 2 * 4 * 4),
        nn.Unflatten(1, (2, 4, 4)),
        nn.ConvTranspose2d(2, 6, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, groups=2, bias=False),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 3, dilation=2),
        nn.Sigmoid(),
    )


def temporal():
    """Dilated convolutions over time, batch normalization of sequences and of vectors."""
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=2, dilation=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, padding="same", padding_mode="zeros", groups=4),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 10, bias=False),
        nn.BatchNorm1d(10, affine=False),
    )


class Scaled(nn.Module):
    """Preprocessing and factors for channels of the model's own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 6).reshape(6, 1, 1))
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        x = (x - 0.3) * 2.0
        return self.head((self.conv(x) * self.scale + 1).clamp(0, 4).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight
        self.head = nn.Linear(5, 10)

    def forward(self, x):
        return self.head(self.b(F.relu(self.a(x))))


class Tagger(nn.Module):
    """Token ids to classes of every token (or of their mean), by embeddings and a recurrent layer."""

    def __init__(self, cells, ids=20, **options):
        super().__init__()
        self.embedding = nn.Embedding(ids, 6, padding_idx=0)
        self.cells = cells(6, 5, batch_first=True, **options)
        self.head = nn.Linear(5 * (1 + self.cells.bidirectional), 4)

    def forward(self, ids):
        return self.head(self.cells(self.embedding(ids))[0])


class LastState(nn.Module):
    """A sequence of vectors to classes, by the state that it ends in."""

    def __init__(self):
        super().__init__()
        self.cells = nn.GRU(4, 6, 2, bias=False)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.cells(x.transpose(0, 1))[1][-1])


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1) * 3.0)


class LanguageModel(nn.Module):
    """The next token, by rows of the table that the tokens were looked up in; positions are embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(20, 8), nn.Embedding(7, 8)
        self.cells = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.cells(x)[0])


class Decoder(nn.Module):
    """The next token, by attention to those before; positions are embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(20, 8), nn.Embedding(12, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 20)

    def forward(self, ids):
        steps = torch.arange(ids.shape[1], device=ids.device)
        later = torch.where(steps[None] > steps[:, None], -torch.inf, 0.0)
        return self.head(self.body(self.embedding(ids) + self.positions(steps), later))


class DistilBert(nn.Module):
    def __init__(self):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        sizes = {"vocab_size": 50, "max_position_embeddings": 12, "dim": 16, "hidden_dim": 32}
        config = transformers.DistilBertConfig(n_layers=2, n_heads=2, num_labels=10, **sizes)
        self.body = transformers.DistilBertForSequenceClassification(config)

    def forward(self, ids):
        return self.body(input_ids=ids).logits


class MaskedEncoder(nn.Module):
    """Classes of tokens, behind an encoder that looks at no padding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, input_ids, attention_mask):
        hidden = attention_mask == 0
        return self.head(self.body(self.embedding(input_ids), src_key_padding_mask=hidden))


class MaskedBert(nn.Module):
    """As exported from the library `transformers`."""

    def __init__(self, implementation):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=12, attn_implementation=implementation)
        self.body = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.body(input_ids, attention_mask, token_type_ids)[0]


def ids(count, *shape):
    """Samples of token ids below a number."""
    return lambda batch: torch.randint(count, (batch, *shape))


MODELS = {
    "resnet18 for CIFAR": (cifar_resnet18, (3, 16, 16)),
    "resnet18": (torchvision_model("resnet18"), (3, 32, 32)),
    "mobilenet_v2": (torchvision_model("mobilenet_v2"), (3, 32, 32)),
    "pre-activation resnet": (pre_activation_resnet, (3, 12, 12)),
    "transformer encoder": (lambda: Encoder(False), (7, 6)),
    "transformer encoder, norm first": (lambda: Encoder(True), (7, 6)),
    "vision transformer": (VisionTransformer, (3, 16, 16)),
    "decoder": (decoder, (8,)),
    "temporal": (temporal, (4, 9)),
    "scaled": (Scaled, (3, 8, 8)),
    "tied": (Tied, (5,)),
    "lstm tagger": (lambda: Tagger(nn.LSTM, num_layers=2, bidirectional=True), ids(20, 7)),
    "gru tagger": (lambda: Tagger(nn.GRU), ids(20, 7)),
    "gru's last state": (LastState, (5, 4)),
    "bag of words": (BagOfWords, ids(30, 9)),
    "language model": (LanguageModel, ids(20, 7)),
    "distilbert": (DistilBert, ids(50, 7)),
}


def batch_of(samples, count):
    return samples(count) if callable(samples) else torch.randn(count, *samples)


def two_steps(model, samples):
    """Trains on noise, with a rate that prunes; batch statistics settle on the way."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(2):
        out = model(batch_of(samples, 8)).flatten(1)
        loss = st.sgvlb_loss(out, torch.randint(out.shape[1], (8,)), model, num_samples=100)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_converted_trained_saved_compressed_and_run(name, tmp_path):
    make, samples = MODELS[name]
    torch.manual_seed(0)
    # Variances that prune a good part of the weights.
    model = st.convert(make(), init_log_sigma2=-4.0)
    assert not [m for m in model.modules() if type(m) in FORMS]
    two_steps(model, samples)
    model.eval()
    x = batch_of(samples, 5)
    with torch.no_grad():
        expected = model(x).numpy()

    path = tmp_path / "model.safetensors"
    st.save(model, path, x)
    report = svdo.compress(path, quantize="exact")
    assert 0.02 * report.weights_total < report.weights_kept < 0.98 * report.weights_total
    compressed = svdo.load(report.data)
    found = compressed(x.numpy().reshape(-1, *compressed.input_shape)).reshape(expected.shape)
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())

    # And back, into a model that has not been converted yet.
    torch.manual_seed(5)
    again = st.load(path, make()).eval()
    with torch.no_grad():
        assert np.array_equal(again(x).numpy(), expected)


def compressed_outputs(model, x, path):
    st.save(model, path, x)
    compressed = svdo.load(svdo.compress(path, quantize="exact").data)
    return compressed(x.numpy().reshape(-1, *compressed.input_shape)).reshape(len(x), -1)


@pytest.mark.parametrize("cells", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_that_were_pruned_otherwise(cells, tmp_path):
    torch.manual_seed(2)
    model = Tagger(cells, num_layers=2, bidirectional=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter) < 0.4)
    x = torch.randint(20, (5, 7))
    path = tmp_path / "model.safetensors"
    found = compressed_outputs(model, x, path)
    with torch.no_grad():
        expected = model(x).flatten(1).numpy()
    assert np.abs(found - expected).max() <= 1e-4
    assert svdo.compress(path).weights_kept < 0.5 * svdo.compress(path).weights_total
    again = st.load(path, Tagger(cells, num_layers=2, bidirectional=True)).eval()
    with torch.no_grad():
        assert np.array_equal(again(x).flatten(1).numpy(), expected)


class Constants(nn.Module):
    """Layers without a posterior that read nothing of the input, one that is not used, and attention
    behind a mask of truth values."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(4, 6))
        self.of_token, self.unused = nn.Linear(6, 6), nn.Linear(3, 3)
        self.positions = nn.Embedding(4, 6)
        self.head = nn.Linear(6, 5)
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool).tril())

    def forward(self, x):
        x = x + self.of_token(self.token) + self.positions(torch.arange(4))
        x = F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)
        return self.head(x)


def test_layers_that_read_no_input_keep_their_weights(tmp_path):
    torch.manual_seed(4)
    model = Constants().eval()
    x = torch.randn(5, 4, 6)
    found = compressed_outputs(model, x, tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = model(x).flatten(1).numpy()
    assert np.abs(found - expected).max() <= 1e-4
    again = st.load(tmp_path / "model.safetensors", Constants()).eval()
    with torch.no_grad():
        assert np.array_equal(again(x).flatten(1).numpy(), expected)


def test_token_ids_have_no_scale():
    with pytest.raises(ValueError, match="takes token ids"):
        st.describe(BagOfWords(), torch.zeros(1, 9, dtype=torch.long), scale=0.5)


def test_statistics_are_measured_again_while_compressing(tmp_path):
    torch.manual_seed(0)
    model = st.convert(cifar_resnet18(), init_log_sigma2=-4.0)
    two_steps(model, (3, 16, 16))
    x = torch.randn(64, 3, 16, 16)
    st.save(model, tmp_path / "model.safetensors", x)
    report = svdo.compress(tmp_path / "model.safetensors", quantize="exact", recalibrate=x.numpy())
    assert report.recalibration.normalizations == 20
    assert report.recalibration.mean_shift > 0.01

    def measure(norm, inputs):
        values = inputs[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(values.mean(1))
        norm.running_var.copy_(values.var(1))

    norms = [m for m in model.eval().modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        expected = model(x).numpy()
    for hook in hooks:
        hook.remove()
    found = svdo.load(report.data)(x.numpy())
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    # What the model measures itself, by batches, is near.
    st.recalibrate(model, [x])
    with torch.no_grad():
        assert np.abs(model(x).numpy() - expected).max() <= 1e-2 * np.abs(expected).max()


MASKED = {
    "encoder": (MaskedEncoder, ()),
    "bert, sdpa": (lambda: MaskedBert("sdpa"), ("token_type_ids",)),
    "bert, eager": (lambda: MaskedBert("eager"), ("token_type_ids",)),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_inputs(name, tmp_path):
    make, more = MASKED[name]
    torch.manual_seed(3)
    model = st.convert(make(), init_log_sigma2=-4.0).eval()
    example = {"input_ids": torch.randint(20, (4, 9)), "attention_mask": torch.randint(2, (4, 9))}
    example["attention_mask"][:, 2] = 1
    example |= {kind: torch.randint(2, (4, 9)) for kind in more}
    path = tmp_path / "model.safetensors"
    st.save(model, path, example)
    compressed = svdo.load(svdo.compress(path, quantize="exact").data)
    assert [part["name"] for part in compressed.network["input"]["parts"]] == list(example)
    with torch.no_grad():
        expected = model(**example).numpy()
    found = compressed(example).reshape(expected.shape)
    seen = example["attention_mask"].numpy() == 1
    assert np.abs(found - expected)[seen].max() <= 1e-4
    # And what is no mask is told.
    with pytest.raises(svdo.SvdoError, match="a mask has 1 for what counts and 0 for padding"):
        compressed({**example, "attention_mask": example["attention_mask"] * 2})
    with pytest.raises(svdo.SvdoError, match="nothing is left to look at"):
        compressed({**example, "attention_mask": example["attention_mask"] * 0})
    with pytest.raises(ValueError, match="there is no attention_mask"):
        compressed({"input_ids": example["input_ids"]})
    with pytest.raises(ValueError, match=r"attention_mask: shape \(4, 8\), expected \(9,\)"):
        compressed({**example, "attention_mask": example["attention_mask"][:, :8]})


@pytest.mark.parametrize("name", ["decoder", "gru tagger"])
def test_sequences_of_any_length_as_a_whole_part_by_part_and_token_by_token(name, tmp_path):
    torch.manual_seed(3)
    make = Decoder if name == "decoder" else lambda: Tagger(nn.GRU)
    model = st.convert(make(), init_log_sigma2=-16.0).eval()
    example = torch.randint(20, (2, 7))
    path = tmp_path / "model.safetensors"
    st.save(model, path, example, max_time=12)
    report = svdo.compress(path, 3.0, quantize="exact")
    compressed = svdo.load(report.data)
    assert compressed.max_time == 12
    at_once = svdo.load(st.compress(model, example, 3.0, quantize="exact", max_time=12).data)
    ids = torch.randint(20, (12,))
    with torch.no_grad():
        whole = model(ids[None])[0].numpy()

    def at(steps):
        return tuple(steps if size == 12 else size for size in compressed.input_shape)

    for steps in (1, 4, 12):
        x = ids[:steps].numpy().reshape(1, *at(steps))
        found = compressed(x)
        assert np.allclose(found.reshape(steps, -1), whole[:steps], atol=1e-4)
        assert np.array_equal(found, at_once(x))
        stream = compressed.stream(steps=steps)
        assert stream.input_shape == at(steps)
        parts = stream(ids.numpy().reshape(-1, *at(steps)))
        assert np.allclose(parts.reshape(12, -1), whole, atol=1e-4)
    if name == "decoder":
        with pytest.raises(svdo.SvdoError, match="the network takes 12 at most"):
            stream(ids.numpy().reshape(-1, *stream.input_shape))
    stream.reset()
    assert np.array_equal(stream(ids.numpy().reshape(at(12))), parts[0])
    with pytest.raises(ValueError, match="input shape"):
        stream(ids.numpy()[:5])

    if name == "decoder":
        tokens = ids[:3].tolist()
        with torch.no_grad():
            while len(tokens) < 12:
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        assert compressed.generate(ids[:3].numpy(), 9) == tokens[3:]
        drawn = [compressed.generate([1, 2], 8, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        with pytest.raises(ValueError, match="temperature"):
            compressed.generate([1], 2, temperature=-1.0)
        with pytest.raises(svdo.SvdoError, match="12 at most"):
            compressed.generate([1], 13)
    else:
        # It gives classes, which are no tokens to go on with, but few enough to be taken for some.
        assert len(compressed.generate([1], 2)) == 2
    with pytest.raises(ValueError, match="time_dim"):
        st.save(model, path, example, max_time=12, time_dim=2)
