"""Real networks: converted, trained for two steps, saved, compressed and run, with no description by hand."""

import numpy as np
import pytest
import svdo

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="a model's graph is read from an ONNX export")
from torch import nn
from torch.nn import functional as F

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
}


def two_steps(model, shape):
    """Trains on noise, with a rate that prunes; batch statistics settle on the way."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(2):
        x = torch.randn(8, *shape)
        out = model(x).flatten(1)
        loss = st.sgvlb_loss(out, torch.randint(out.shape[1], (8,)), model, num_samples=100)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_converted_trained_saved_compressed_and_run(name, tmp_path):
    make, shape = MODELS[name]
    torch.manual_seed(0)
    # Variances that prune a good part of the weights.
    model = st.convert(make(), init_log_sigma2=-4.0)
    assert not [m for m in model.modules() if type(m) in (nn.Linear, nn.Conv1d, nn.Conv2d)]
    two_steps(model, shape)
    model.eval()
    x = torch.randn(5, *shape)
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
