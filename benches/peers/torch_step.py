"""Milliseconds of a sparse variational dropout step in PyTorch: torch_step.py RECIPE THREADS STEPS [WIDTH].

The same step as benches/train_step.rs: batch 100, local reparameterization, the paper's KL, Adam on
theta, log_sigma2 and bias, on the same of MNIST's test images or on noise where that is. Prints the median.
COMPILE=1 compiles network and loss, LAST=1 lays maps out with their channels last.
"""
import gzip
import os
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F

K1, K2, K3 = 0.63576, 1.87320, 1.48695
SIZES = {"lenet-300-100": [784, 300, 100, 10], "lenet-5-caffe": [800, 500, 10], "mlp-4096": [784, 4096, 4096, 10]}


class Layer(torch.nn.Module):
    def __init__(self, *shape, padding=0):
        super().__init__()
        fan_in = torch.Size(shape[1:]).numel()
        self.padding = padding
        self.theta = torch.nn.Parameter(torch.randn(shape) * (2 / fan_in) ** 0.5)
        self.log_sigma2 = torch.nn.Parameter(torch.full(shape, -10.0))
        self.bias = torch.nn.Parameter(torch.zeros(shape[0]))

    def product(self, x, weights, bias=None):
        if weights.dim() == 2:
            return F.linear(x, weights, bias)
        return F.conv2d(x, weights, bias, padding=self.padding)

    def forward(self, x):
        mean = self.product(x, self.theta, self.bias)
        variance = self.product(x * x, self.log_sigma2.exp())
        return mean + (variance + 1e-12).sqrt() * torch.randn_like(mean)

    def kl(self):
        log_alpha = self.log_sigma2 - (self.theta * self.theta + 1e-8).log()
        negative = K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * F.softplus(-log_alpha) - K1
        return -negative.sum()


def network(recipe, width):
    """Of the recipe; those of ours with batch normalization have it, too."""
    layers = []
    if recipe == "lenet-5-caffe":
        for outputs, inputs in (20, 1), (50, 20):
            layers += [Layer(outputs, inputs, 5, 5), torch.nn.MaxPool2d(2), torch.nn.ReLU()]
    sizes = SIZES.get(recipe)
    if recipe == "vgg-like":
        before = 3
        for count, channels in (2, 64), (2, 128), (3, 256), (3, 512), (3, 512):
            channels = round(channels * width)
            for _ in range(count):
                layers += [Layer(channels, before, 3, 3, padding=1), torch.nn.BatchNorm2d(channels), torch.nn.ReLU()]
                before = channels
            layers.append(torch.nn.MaxPool2d(2))
        sizes = [before, before, 10]
    layers.append(torch.nn.Flatten())
    for inputs, outputs in zip(sizes, sizes[1:]):
        norm = [torch.nn.BatchNorm1d(outputs)] if recipe == "vgg-like" else []
        layers += [Layer(outputs, inputs), *norm, torch.nn.ReLU()]
    while not isinstance(layers[-1], Layer):
        layers.pop()
    return torch.nn.Sequential(*layers)


def mnist(what, header):
    fixtures = pathlib.Path(__file__).parent.parent.parent / "fixtures"
    [path] = fixtures.glob(f"t10k-{what}-idx*.gz")
    return torch.frombuffer(bytearray(gzip.open(path).read()), dtype=torch.uint8, offset=header)


def samples(recipe):
    labels = torch.arange(1000) % 10
    if recipe == "vgg-like":
        return torch.rand(1000, 3, 32, 32), labels
    if recipe.startswith("lenet") and not os.environ.get("NOISE"):
        images, labels = mnist("images", 16)[-784000:], mnist("labels", 8)[-1000:].long()
        return images.reshape(1000, 1, 28, 28) / 255, labels
    return torch.rand(1000, 1, 28, 28), labels


def main():
    recipe, threads, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    net = network(recipe, float(sys.argv[4]) if len(sys.argv) > 4 else 1.0)
    images, labels = samples(recipe)
    if os.environ.get("LAST"):
        net, images = (it.to(memory_format=torch.channels_last) for it in (net, images))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def objective(x, y):
        data = 1000 * F.cross_entropy(net(x), y)
        return data + 0.5 * sum(m.kl() for m in net.modules() if isinstance(m, Layer))

    if os.environ.get("COMPILE"):
        objective = torch.compile(objective)
    times = []
    for step in range(steps + 5):
        begun = time.perf_counter()
        batch = slice(step % 10 * 100, step % 10 * 100 + 100)
        optimizer.zero_grad()
        objective(images[batch], labels[batch]).backward()
        optimizer.step()
        times.append((time.perf_counter() - begun) * 1e3)
    print(f"{statistics.median(times[5:]):.3f}")


main()
