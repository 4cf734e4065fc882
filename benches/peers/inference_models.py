"""ONNX models for inference.py: the two LeNets of fixtures/ as they were trained and pruned, and
networks with Gaussian weights of which some are zero, at random places."""

import pathlib
import subprocess

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = ROOT / "target/release"
# Zeros of each layer of a VGG-like network as sparse variational dropout leaves them: few in the
# first, more and more behind.
VGG = [(64, .4), (64, .7), "pool", (128, .75), (128, .85), "pool", (256, .9), (256, .94),
       (256, .96), "pool", (512, .97), (512, .99), (512, .995), "pool", (512, .997), (512, .998),
       (512, .998), "pool"]
RESNET50 = [(64, 3), (128, 4), (256, 6), (512, 3)]


class Builder:
    """A graph that grows at its end."""

    def __init__(self, shape, seed):
        self.shape, self.random = shape, np.random.default_rng(seed)
        self.nodes, self.tensors, self.value, self.size = [], [], "x", list(shape)

    def add(self, op, inputs, **attributes):
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        self.value = output
        return output

    def constant(self, array):
        name = f"t{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, shape, zeros):
        """Variance 2 / (weights that are not zero per output), so that values keep their size."""
        kept = self.random.random(shape) >= zeros
        scale = np.sqrt(2 / max(1, kept.mean() * np.prod(shape[1:])))
        normal = self.random.standard_normal(shape)
        return self.constant(np.where(kept, normal * scale, 0).astype(np.float32))

    def bias(self, count):
        return self.constant((0.1 * self.random.standard_normal(count)).astype(np.float32))

    def conv(self, channels, kernel, zeros, stride=1, relu=True):
        pad = kernel // 2
        inputs = [self.value, self.weights((channels, self.size[0], kernel, kernel), zeros)]
        self.add("Conv", inputs + [self.bias(channels)], pads=[pad] * 4, strides=[stride] * 2)
        self.size = [channels] + [(s + 2 * pad - kernel) // stride + 1 for s in self.size[1:]]
        return self.add("Relu", [self.value]) if relu else self.value

    def pool(self, kernel=2, pad=0):
        self.add("MaxPool", [self.value], kernel_shape=[kernel] * 2, strides=[2, 2], pads=[pad] * 4)
        self.size = self.size[:1] + [(s + 2 * pad - kernel) // 2 + 1 for s in self.size[1:]]

    def linear(self, outputs, zeros, relu=True):
        if len(self.size) > 1:
            self.add("Flatten", [self.value])
            self.size = [int(np.prod(self.size))]
        weights = self.weights((outputs, self.size[0]), zeros)
        self.add("Gemm", [self.value, weights, self.bias(outputs)], transB=1)
        self.size = [outputs]
        if relu:
            self.add("Relu", [self.value])

    def save(self, path, batch):
        self.nodes[-1].output[0] = "y"
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "g", [value("x", [batch, *self.shape])],
                                  [value("y", [batch, *self.size])], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.save(model, path)


def trained(name, path, batch, simplify):
    """A fixture, pruned at log alpha 3, every weight that is left bit for bit."""
    compressed = path.with_suffix(".svdo")
    flags = [] if simplify else ["--no-simplify"]
    run = lambda *command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run(BINARIES / "svdo-compress", ROOT / f"fixtures/{name}_mnist.safetensors", "--quantize",
        "exact", *flags, "-o", compressed)
    run(BINARIES / "svdo", "export", compressed, "-o", path)
    compressed.unlink()
    model = onnx.load(path)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, path)
    return tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]


def vgg(batch, path):
    builder = Builder((3, 32, 32), 1)
    for stage in VGG:
        builder.pool() if stage == "pool" else builder.conv(stage[0], 3, stage[1])
    builder.linear(512, .99)
    builder.linear(10, .8, relu=False)
    builder.save(path, batch)
    return builder.shape


def fully_connected(zeros, batch, path):
    builder = Builder((4096,), 2)
    builder.linear(4096, zeros, relu=False)
    builder.save(path, batch)
    return builder.shape


def convolutions(channels, size, zeros, batch, path):
    """Two layers of 3x3."""
    builder = Builder((channels, size, size), 4)
    builder.conv(channels, 3, zeros)
    builder.conv(channels, 3, zeros)
    builder.save(path, batch)
    return builder.shape


def resnet50(zeros, batch, path):
    """The first convolution is dense, as it is in published sparse ResNets."""
    builder = Builder((3, 224, 224), 3)
    builder.conv(64, 7, 0, stride=2)
    builder.pool(3, 1)
    for stage, (width, blocks) in enumerate(RESNET50):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            value, size = builder.value, builder.size
            builder.conv(width, 1, zeros)
            builder.conv(width, 3, zeros, stride)
            main = builder.conv(4 * width, 1, zeros, relu=False)
            end = builder.size
            if block == 0:
                builder.value, builder.size = value, size
                value = builder.conv(4 * width, 1, zeros, stride, relu=False)
            builder.size = end
            builder.add("Add", [main, value])
            builder.add("Relu", [builder.value])
    builder.add("GlobalAveragePool", [builder.value])
    builder.size = builder.size[:1]
    builder.add("Flatten", [builder.value])
    builder.linear(1000, zeros, relu=False)
    builder.save(path, batch)
    return builder.shape


MODELS = {
    f"{name}{'-simplified' if simplify else ''}-b{batch}": lambda path, n=name, b=batch, s=simplify: trained(n, path, b, s)
    for name in ("lenet300", "lenet5") for simplify in (False, True) for batch in (1, 64)
}
MODELS |= {f"vgg-b{b}": lambda path, b=b: vgg(b, path) for b in (1, 16)}
MODELS |= {f"fc4096-{z}-b{b}": lambda path, z=z, b=b: fully_connected(z / 100, b, path)
           for z in (80, 90, 95, 99) for b in (1, 64)}
MODELS |= {f"resnet50-{z}-b1": lambda path, z=z: resnet50(z / 100, 1, path) for z in (90, 95, 98)}
# Not among those that run if none is named.
SWEEP = {f"conv{c}x{s}-{z}-b{b}": lambda path, c=c, s=s, z=z, b=b: convolutions(c, s, z / 100, b, path)
         for b in (1, 16) for c, s in ((64, 56), (128, 28), (256, 14)) for z in (0, 50, 60, 70, 80, 90, 98)}
INT8 = {name: model for name, model in MODELS.items() if name.startswith(("lenet", "vgg")) and "simplified" not in name}
INT8 |= {f"fc4096-{z}-b{b}": lambda path, z=z, b=b: fully_connected(z / 100, b, path) for z in (0, 50, 80) for b in (1, 64)}
INT8 |= {f"conv128x28-{z}-b{b}": SWEEP[f"conv128x28-{z}-b{b}"] for z in (0, 50, 80) for b in (1, 16)}


def in_int8(engine, path, dims):
    """The model in 8 bits: ours of uniform levels, others with pairs of QuantizeLinear and DequantizeLinear, one step for
    each tensor; ranges of activations from 32 samples."""
    batch, *shape = [int(d) for d in dims.split(",")]
    samples = np.random.default_rng(8).standard_normal((32, *shape)).astype(np.float32)
    quantized = path.with_suffix(".int8.svdo" if engine == "svdo" else ".int8.onnx")
    if quantized.exists():
        return quantized
    if engine == "svdo":
        given = path.with_suffix(".int8.npy")
        np.save(given, samples)
        command = [BINARIES / "svdo-compress", path, "--quantize", "uniform", "--int8", given, "--fast", "-o", quantized]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return quantized
    from onnxruntime import quantization

    class Samples(quantization.CalibrationDataReader):
        def __init__(self):
            name = onnx.load(path).graph.input[0].name
            repeated = np.resize(samples, (-(-32 // batch) * batch, *shape))
            self.left = iter([{name: repeated[at:at + batch]} for at in range(0, len(repeated), batch)])

        def get_next(self):
            return next(self.left, None)

    quantization.quantize_static(path, quantized, Samples(), quant_format=quantization.QuantFormat.QDQ,
                                 activation_type=quantization.QuantType.QUInt8,
                                 weight_type=quantization.QuantType.QInt8, per_channel=False)
    return quantized
