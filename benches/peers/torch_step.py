"""Milliseconds of a sparse variational dropout step in PyTorch eager: torch_step.py RECIPE THREADS STEPS.

The same step as benches/train_step.rs: batch 100, local reparameterization, the paper's KL, Adam on
theta, log_sigma2 and bias, on the same of MNIST's test images. Prints the median.
"""
import gzip
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F

K1, K2, K3 = 0.63576, 1.87320, 1.48695


class Layer(torch.nn.Module):
    def __init__(self, *shape):
        super().__init__()
        fan_in = torch.Size(shape[1:]).numel()
        self.theta = torch.nn.Parameter(torch.randn(shape) * (2 / fan_in) ** 0.5)
        self.log_sigma2 = torch.nn.Parameter(torch.full(shape, -10.0))
        self.bias = torch.nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x):
        product = F.linear if self.theta.dim() == 2 else F.conv2d
        mean = product(x, self.theta, self.bias)
        variance = product(x * x, self.log_sigma2.exp())
        return mean + (variance + 1e-12).sqrt() * torch.randn_like(mean)

    def kl(self):
        log_alpha = self.log_sigma2 - (self.theta * self.theta + 1e-8).log()
        negative = K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * F.softplus(-log_alpha) - K1
        return -negative.sum()


class Net(torch.nn.Module):
    def __init__(self, recipe):
        super().__init__()
        self.convs = torch.nn.ModuleList()
        sizes = [784, 300, 100, 10]
        if recipe == "lenet-5-caffe":
            self.convs.extend([Layer(20, 1, 5, 5), Layer(50, 20, 5, 5)])
            sizes = [800, 500, 10]
        self.linears = torch.nn.ModuleList(Layer(o, i) for i, o in zip(sizes, sizes[1:]))

    def forward(self, x):
        for conv in self.convs:
            x = F.relu(F.max_pool2d(conv(x), 2))
        x = x.flatten(1)
        for linear in self.linears[:-1]:
            x = F.relu(linear(x))
        return self.linears[-1](x)


def mnist(what, header):
    fixtures = pathlib.Path(__file__).parent.parent.parent / "fixtures"
    [path] = fixtures.glob(f"t10k-{what}-idx*.gz")
    return torch.frombuffer(bytearray(gzip.open(path).read()), dtype=torch.uint8, offset=header)


def main():
    recipe, threads, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    net = Net(recipe)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    images, labels = mnist("images", 16)[-784000:], mnist("labels", 8)[-1000:].long()
    images = images.reshape(1000, 1, 28, 28) / 255
    times = []
    for step in range(steps + 5):
        begun = time.perf_counter()
        batch = slice(step % 10 * 100, step % 10 * 100 + 100)
        optimizer.zero_grad()
        data = 1000 * F.cross_entropy(net(images[batch]), labels[batch])
        loss = data + 0.5 * sum(m.kl() for m in net.modules() if isinstance(m, Layer))
        loss.backward()
        optimizer.step()
        times.append((time.perf_counter() - begun) * 1e3)
    print(f"{statistics.median(times[5:]):.3f}")


main()
