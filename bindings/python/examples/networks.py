"""Networks for CIFAR-10, dense; svdo.torch.convert puts them under sparse variational dropout."""

from torch import nn
from torch.nn import functional as F


def vgg_like(width=1.0):
    """The VGG-like network of Molchanov, Ashukha and Vetrov (2017), of 15 layers with weights; at width
    1 it has 14,977,728 of them."""

    def scaled(channels):
        return max(1, round(channels * width))

    layers, inputs = [], 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for outputs in map(scaled, block):
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, 2))
    hidden = scaled(512)
    layers += [nn.Flatten(), nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
    return initialized(nn.Sequential(*layers, nn.Linear(hidden, 10)))


class Block(nn.Module):
    """Two convolutions and what passes them by (He et al. 2016)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.skip = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


def resnet18(width=1.0):
    """ResNet-18 with the stem for images of 32 x 32, 11,164,352 weights at width 1."""
    channels = [max(1, round(c * width)) for c in (64, 128, 256, 512)]
    stem = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
    layers, inputs = [stem, nn.BatchNorm2d(channels[0]), nn.ReLU()], channels[0]
    for stage, outputs in enumerate(channels):
        for block in range(2):
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]
    return initialized(nn.Sequential(*layers, *head))


def initialized(network):
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


NETWORKS = {"vgg-like": vgg_like, "resnet18": resnet18}
