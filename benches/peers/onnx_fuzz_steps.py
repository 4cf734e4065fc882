"""Steps of onnx_fuzz.py's graphs beyond convolutions, linear layers and pools of images. Each takes a
value and its shape, batch included, and returns a value; its shape is asked of ONNX Runtime. A step
may draw what is not allowed: such a graph is thrown away before it is tried.

Numbers are kept apart from where a function is steep (roots and quotients near zero), so that an
answer can be held to a small bound."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FUNCTIONS = [("Abs", 7, {}), ("Neg", 7, {}), ("Erf", 9, {}), ("Selu", 7, {}), ("Selu", 7, {"alpha": 1.2, "gamma": 0.8}),
             ("Celu", 12, {}), ("Celu", 12, {"alpha": 0.6}), ("Mish", 18, {}), ("Softsign", 7, {}),
             ("ThresholdedRelu", 10, {}), ("ThresholdedRelu", 10, {"alpha": 0.2}), ("Sin", 7, {}), ("Cos", 7, {}),
             ("Shrink", 9, {"lambd": 0.3, "bias": 0.1}), ("Swish", 24, {}), ("Swish", 24, {"alpha": 1.7}),
             ("Atan", 7, {}), ("Sinh", 9, {}), ("Asinh", 9, {}), ("Floor", 7, {}), ("Ceil", 7, {}), ("Round", 11, {}),
             ("Sign", 9, {})]
REDUCTIONS = ["Sum", "Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"]


class Steps:
    """What Graph is made of, too."""

    # Constants in the forms that operators want.

    def integers(self, *values):
        return self.constant(np.array(values, np.int64))

    def scalar(self, value, dtype=np.float32):
        return self.constant(np.array(value, dtype))

    def flag(self, p=0.5):
        return bool(self.chance(p))

    def axes(self, op, x, to, since=13, **attributes):
        """A node whose axes are an attribute before opset `since`, and an input from then on."""
        to = [int(v) for v in np.atleast_1d(to)]
        if self.opset >= since:
            return self.node(op, x, self.integers(*to), **attributes)
        return self.node(op, x, axes=to, **attributes)

    def axis_of(self, shape, first=1):
        """An axis that is no batch, sometimes counted from behind."""
        axis = int(self.rng.integers(first, len(shape)))
        return axis - len(shape) if self.chance(0.3) else axis

    def positive(self, x):
        """x, but not near zero."""
        form = self.pick("abs", "sigmoid", "softplus", "square", "exp")
        if form == "sigmoid":
            x = self.node("Sigmoid", x)
        elif form == "softplus":
            x = self.node("Softplus", x)
        elif form == "square":
            x = self.node("Mul", x, x)
        elif form == "exp":
            x = self.node("Exp", self.node("Tanh", x))
        else:
            x = self.node("Abs", x)
        return self.node("Add", x, self.scalar(0.5))

    def other(self, x, shape):
        """Another value that x can meet: of its shape, or of one that stretches to it."""
        form = self.pick("same", "same", "mean", "mean", "slice", "self")
        if form == "mean" and len(shape) > 2:
            axes = self.pick(*([i] for i in range(1, len(shape))), list(range(2, len(shape))))
            return self.reduce(self.pick("Mean", "Max"), x, axes, keep=1)
        if form == "slice":
            return self.cut(x, self.axis_of(shape), 0, 1)
        if form == "same":
            return self.node(self.pick("Tanh", "Sigmoid", "Relu"), x)
        return x

    def cut(self, x, axis, start, end, step=1):
        if self.opset < 10:
            return self.node("Slice", x, starts=[start], ends=[end], axes=[axis])
        given = [self.integers(start), self.integers(end), self.integers(axis)]
        if step != 1 or self.chance(0.3):
            given.append(self.integers(step))
        return self.node("Slice", x, *given)

    def reduce(self, kind, x, axes, keep=None):
        op = "Reduce" + kind
        given = {} if keep is None else {"keepdims": keep}
        if axes is None:
            return self.node(op, x, **given)
        return self.axes(op, x, axes, 13 if kind == "Sum" else 18, **given)

    # Steps.

    def functions(self, x, shape):
        op, since, given = self.pick(*FUNCTIONS)
        form = self.pick("function", "function", "sqrt", "exp", "log", "reciprocal", "pow", "clip")
        if form == "function":
            return (self.node(op, x, **given) if self.opset >= since else x), None
        if form == "sqrt":
            return self.node("Sqrt", self.positive(x)), None
        if form == "log":
            return self.node("Log", self.positive(x)), None
        if form == "reciprocal":
            return self.node("Reciprocal", self.positive(x)), None
        if form == "pow":
            if self.chance(0.5):
                return self.node("Pow", x, self.scalar(self.pick(2.0, 3.0, 1.0))), None
            return self.node("Pow", self.positive(x), self.scalar(self.pick(0.5, -0.5, 1.7, -1.0))), None
        if form == "clip":
            low, high = (self.pick(0.0, -0.5), self.pick(6.0, 0.5))
            if self.opset < 11:
                return self.node("Clip", x, min=low, max=high), None
            return self.node("Clip", x, self.scalar(low), self.scalar(high)), None
        return self.node("Exp", self.node("Min", x, self.scalar(2.0))), None

    def prelu(self, x, shape):
        channels = [shape[1]] + [1] * (len(shape) - 2)
        form = self.pick("channels", "channels", "one", "all", "any")
        if form == "any":
            return self.node("PRelu", x, self.vector(shape)), None
        dims = {"channels": channels, "one": [1], "all": shape[1:]}[form]
        return self.node("PRelu", x, self.constant(self.values(*dims))), None

    def log_softmax(self, x, shape):
        op = self.pick("LogSoftmax", "LogSoftmax", "Softmax")
        return self.node(op, x, **self.pick({}, {"axis": self.axis_of(shape)})), None

    def meet(self, x, shape):
        """An operator of two or more values, or of a value and a constant."""
        op = self.pick("Max", "Min", "Sub", "Add", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min")
        if op in ("Max", "Min", "Sum", "Mean") and (self.opset >= 8 and self.chance(0.3)):
            return self.node(op, x, self.other(x, shape), self.pick(x, self.vector(shape))), None
        second = self.vector(shape) if self.chance(0.4) else self.other(x, shape)
        if op == "Div":
            second = self.positive(second)
        elif op == "Pow":
            x = self.positive(x)
            second = self.node("Tanh", second)
        pair = (second, x) if self.chance(0.3) and op not in ("Div", "Pow") else (x, second)
        return self.node(op, *pair), None

    def pad(self, x, shape):
        mode = self.pick("constant", "constant", "reflect", "edge", *(["wrap"] if self.opset >= 19 else []))
        rank = len(shape)
        pads = np.zeros((2, rank), np.int64)
        for axis in range(2 if rank > 2 and self.chance(0.7) else 1, rank):
            low = -1 if mode == "constant" and self.chance(0.15) else 0
            most = shape[axis] - 1 if mode == "reflect" else shape[axis]
            pads[:, axis] = self.rng.integers(low, max(low, min(3, most)) + 1, 2)
        given = {} if mode == "constant" and self.flag() else {"mode": mode}
        value = self.pick(None, None, 0.0, 0.75, -2.0) if mode == "constant" else None
        if self.opset < 11:
            if value is not None:
                given["value"] = value
            return self.node("Pad", x, pads=[int(v) for v in pads.ravel()], **given), None
        axes = None
        if self.opset >= 18 and self.chance(0.4):
            axes = [int(a) for a in np.flatnonzero(pads.any(0))] or [rank - 1]
            pads = pads[:, axes]
            axes = [a - rank if self.chance(0.3) else a for a in axes]
        inputs = [x, self.integers(*pads.ravel())]
        if value is not None or axes:
            inputs.append("" if value is None else self.scalar(value))
        if axes:
            inputs.append(self.integers(*axes))
        return self.node("Pad", *inputs, **given), None

    def slice(self, x, shape):
        count = self.pick(1, 1, 2)
        axes = sorted(int(a) for a in self.rng.choice(np.arange(1, len(shape)), min(count, len(shape) - 1), False))
        starts, ends, steps = [], [], []
        for axis in axes:
            size = shape[axis]
            step = self.pick(1, 1, 2, 3, *([-1, -2] if self.opset >= 10 else []))
            start = int(self.rng.integers(0, size))
            if step > 0:
                end = self.pick(size, int(self.rng.integers(start + 1, size + 1)), 2**31 - 1, 2**63 - 1)
            else:
                end = self.pick(-2**31 + 1, -size - 1, int(self.rng.integers(-size - 1, start - size)))
            starts.append(start - size if self.chance(0.3) else start)
            ends.append(end - size if 0 < end < size and self.chance(0.3) else end)
            steps.append(step if self.opset >= 10 else 1)
        if self.opset < 10:
            ends = [min(e, 2**31 - 1) for e in ends]
            return self.node("Slice", x, starts=starts, ends=ends, axes=axes), None
        kind = np.int32 if max(ends) < 2**31 and self.chance(0.2) else np.int64
        given = [starts, ends, [a - len(shape) if self.chance(0.2) else a for a in axes], steps]
        if all(s == 1 for s in steps) and self.chance(0.5):
            given.pop()
            if axes == list(range(len(shape))):
                given.pop()
        return self.node("Slice", x, *(self.constant(np.array(g, kind)) for g in given)), None

    def split(self, x, shape):
        """Parts, of which some come together again, or one goes on."""
        axis = self.axis_of(shape)
        size = shape[axis]
        if size < 2:
            return x, None
        count = int(self.rng.integers(2, min(4, size) + 1))
        names = [self.name() for _ in range(count)]
        cuts = np.sort(self.rng.choice(np.arange(1, size), count - 1, False))
        parts = [int(v) for v in np.diff([0, *cuts, size])]
        even = size % count == 0 and self.flag()
        if even:
            parts = [size // count] * count
        inputs, given = [x], {"axis": axis}
        if not even or self.flag():
            if self.opset >= 13:
                inputs.append(self.integers(*parts))
            else:
                given["split"] = parts
        elif self.opset >= 18:
            given["num_outputs"] = count
        self.nodes.append(helper.make_node("Split", inputs, names, name=names[0], **given))
        form = self.pick("one", "order", "meet", "gate")
        if form == "one":
            return self.pick(*names), None
        if form == "meet" and len(set(parts)) == 1:
            return self.node(self.pick("Add", "Mul", "Max"), names[0], names[1]), None
        if form == "gate" and len(set(parts)) == 1:
            return self.node("Mul", names[0], self.node("Sigmoid", names[1])), None
        some = [names[i] for i in self.rng.permutation(count)]
        return self.node("Concat", *some, axis=axis), None

    def resize(self, x, shape):
        """Resize or Upsample in all its forms, over space most often."""
        rank = len(shape)
        first = 1 if self.chance(0.1) else 2
        scales = [1.0] * first + [float(self.pick(1.0, 2.0, 2.0, 3.0, 1.5, 0.5, 1.3, 0.7)) for _ in shape[first:]]
        # ONNX Runtime only copies where no size changes, whatever the scales.
        scales = [1.0 if int(n * s) == n else s for n, s in zip(shape, scales)]
        mode = self.pick("nearest", "nearest", "linear", "linear", "cubic")
        if self.opset < 10:
            mode = self.pick("nearest", "linear")
            scales = [max(1.0, s) for s in scales]
            given = {} if mode == "nearest" and self.flag() else {"mode": mode}
            if self.opset < 9:
                return self.node("Upsample", x, scales=scales, **given), None
            return self.node("Upsample", x, self.constant(np.array(scales, np.float32)), **given), None
        if self.opset < 11:
            mode = self.pick("nearest", "linear")
            return self.node("Resize", x, self.constant(np.array(scales, np.float32)), mode=mode), None
        given = {"mode": mode}
        ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
        ways += ["half_pixel_symmetric"] if self.opset >= 19 else []
        if self.chance(0.8):
            given["coordinate_transformation_mode"] = self.pick(*ways)
        if mode == "nearest" and self.chance(0.7):
            given["nearest_mode"] = self.pick("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        if mode == "cubic":
            given.update(self.pick({}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}))
        if self.opset >= 18 and mode != "nearest" and self.chance(0.2):
            given["antialias"] = 1
        sizes = [max(1, int(np.floor(n * s))) for n, s in zip(shape, scales)]
        by_size = self.flag()
        if self.opset >= 18 and by_size and self.chance(0.2):
            given["keep_aspect_ratio_policy"] = self.pick("stretch", "not_larger", "not_smaller")
        if self.opset >= 18 and self.chance(0.3):
            kept = list(range(first, rank))
            given["axes"] = kept
            scales, sizes = [scales[a] for a in kept], [sizes[a] for a in kept]
        empty = lambda: self.pick("", self.constant(np.zeros(0, np.float32)))
        if by_size and "axes" not in given and self.chance(0.3):
            # As exporters write it: the batch and channels of the value, and the sizes.
            shape_of = self.node("Shape", x)
            head = self.cut(shape_of, 0, 0, 2)
            to = self.node("Concat", head, self.integers(*sizes[2:]), axis=0)
            return self.node("Resize", x, empty(), empty(), to, **given), None
        if by_size:
            return self.node("Resize", x, empty(), empty(), self.integers(*sizes), **given), None
        return self.node("Resize", x, empty(), self.constant(np.array(scales, np.float32)), **given), None

    def transposed_conv(self, x, shape):
        c, space = shape[1], shape[2:]
        n = len(space)
        kernel = [int(self.rng.integers(1, 4)) for _ in space]
        strides = [int(self.rng.integers(1, 4)) for _ in space]
        group = c if c > 1 and self.chance(0.3) else 1
        outputs = int(self.rng.integers(1, 3))
        given = {}
        if self.chance(0.7):
            given["strides"] = strides
        else:
            strides = [1] * n
        dilations = [1] * n
        if self.chance(0.25):
            dilations = given["dilations"] = [int(self.rng.integers(1, 3)) for _ in space]
        way = self.pick("none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID", "shape")
        if way == "pads":
            given["pads"] = [int(self.rng.integers(0, k + 1)) for k in kernel * 2]
        elif way == "shape":
            given["output_shape"] = [s * t + int(self.rng.integers(-1, 2)) for s, t in zip(space, strides)]
        elif way != "none":
            given["auto_pad"] = way
        if way != "shape" and self.chance(0.3):
            given["output_padding"] = [int(self.rng.integers(0, max(s, d))) for s, d in zip(strides, dilations)]
        if group > 1 or self.chance(0.2):
            given["group"] = group
        if self.flag():
            given["kernel_shape"] = kernel
        inputs = [x, self.constant(self.values(c, outputs, *kernel))]
        if self.flag():
            inputs.append(self.constant(self.values(outputs * group)))
        return self.node("ConvTranspose", *inputs, **given), None

    def instance_norm(self, x, shape):
        c = shape[1]
        part = lambda low, high: self.constant(self.values(c, low=low, high=high))
        given = self.pick({}, {"epsilon": 1e-3}, {"epsilon": 0.1})
        if np.prod(shape[2:]) == 1:  # of one position nothing is left, and large ones are not exactly nothing there
            return self.node("Identity", x), None
        return self.node("InstanceNormalization", x, part(0.5, 1.5), part(-1, 1), **given), None

    def group_norm(self, x, shape):
        """GroupNormalization, or as it is written with Reshape and InstanceNormalization."""
        c = shape[1]
        groups = int(self.pick(*(g for g in range(1, c + 1) if c % g == 0)))
        epsilon = self.pick(1e-5, 1e-3, 0.1)
        if self.opset >= 21 or (self.opset >= 18 and self.chance(0.3)):
            n = c if self.opset >= 21 else groups
            scale, bias = self.constant(self.values(n, low=0.5, high=1.5)), self.constant(self.values(n))
            return self.node("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=epsilon), None
        flat = self.node("Reshape", x, self.integers(0, groups, -1))
        ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
        normal = self.node("InstanceNormalization", flat, self.constant(ones), self.constant(zeros), epsilon=epsilon)
        to = self.node("Shape", x) if self.flag() else self.integers(0, *shape[1:])
        back = self.node("Reshape", normal, to)
        part = lambda: self.constant(self.values(c, *[1] * (len(shape) - 2), low=0.5, high=1.5))
        return self.node("Add", self.node("Mul", back, part()), part()), None

    def layer_norm(self, x, shape):
        """Layer normalization as one node or spelled out, and those that are like it."""
        rank = len(shape)
        form = self.pick("one", "one", "spelled", "rms", "mean variance", "lp", "lrn")
        epsilon = self.pick(1e-5, 1e-3, 0.1)
        if form == "one" and self.opset >= 17:
            axis = self.pick(-1, -1, self.axis_of(shape))
            dims = shape[axis % rank:] if axis != -rank else shape
            inputs = [x, self.constant(self.values(*dims, low=0.5, high=1.5))]
            if self.chance(0.7):
                inputs.append(self.constant(self.values(*dims)))
            given = {"epsilon": epsilon, **({"axis": axis} if axis != -1 or self.flag() else {})}
            return self.node("LayerNormalization", *inputs, **given), None
        if form == "rms" and self.opset >= 23:
            axis = self.pick(-1, self.axis_of(shape))
            dims = shape[axis % rank:]
            scale = self.constant(self.values(*dims, low=0.5, high=1.5))
            return self.node("RMSNormalization", x, scale, axis=axis, epsilon=epsilon), None
        if form == "lp":
            return self.node("LpNormalization", self.positive(x), axis=self.axis_of(shape), p=self.pick(1, 2)), None
        if form == "lrn" and rank == 4:
            return self.node("LRN", x, size=self.pick(1, 3, 5), **self.pick({}, {"alpha": 0.3, "beta": 0.5, "bias": 2.0})), None
        if form == "mean variance" and self.opset >= 9 and rank == 4:
            return self.node("MeanVarianceNormalization", x, axes=self.pick([2, 3], [1, 2, 3])), None
        axes = self.pick([-1], [1], list(range(1, rank)))
        root = form == "rms" or self.chance(0.2)
        middle = x if root else self.node("Sub", x, self.reduce("Mean", x, axes, keep=1))
        square = self.node("Mul", middle, middle) if self.flag() else self.node("Pow", middle, self.scalar(2.0))
        variance = self.reduce("Mean", square, axes, keep=1)
        deviation = self.node("Sqrt", self.node("Add", variance, self.scalar(max(epsilon, 1e-3))))
        if self.flag():
            normal = self.node("Div", middle, deviation)
        else:
            normal = self.node("Mul", middle, self.node("Reciprocal", deviation))
        return (self.node("Mul", normal, self.vector(shape, 0.5, 1.5)) if self.flag() else normal), None

    def blocks(self, x, shape):
        """Depth to space and back, as one node or as Reshape, Transpose, Reshape; channels shuffled."""
        n, c, h, w = shape
        form = self.pick("depth", "depth", "space", "spelled", "shuffle")
        if form == "space":
            if h % 2 or w % 2:
                return x, None
            return self.node("SpaceToDepth", x, blocksize=2), None
        if form == "shuffle":
            groups = [g for g in range(2, c) if c % g == 0]
            if not groups:
                return x, None
            g = int(self.pick(*groups))
            batch = self.pick(self.batch, -1, 0)
            split = self.node("Reshape", x, self.integers(batch, g, c // g, h, w))
            moved = self.node("Transpose", split, perm=[0, 2, 1, 3, 4])
            return self.node("Reshape", moved, self.integers(*self.pick((batch, c, h, w), (0, -1, h, w)))), None
        if c % 4:
            to = 4 * int(self.rng.integers(1, 3))
            x = self.node("Conv", x, self.constant(self.values(to, c, 1, 1)))
            c = to
        if form == "depth":
            modes = self.pick({}, {"mode": "CRD"}, {"mode": "DCR"}) if self.opset >= 11 else {}
            return self.node("DepthToSpace", x, blocksize=2, **modes), None
        rest = c // 4
        parts, perm = self.pick(([2, 2, rest], [0, 3, 4, 1, 5, 2]), ([rest, 2, 2], [0, 1, 4, 2, 5, 3]))
        split = self.node("Reshape", x, self.integers(self.batch if self.flag() else 0, *parts, h, w))
        moved = self.node("Transpose", split, perm=perm)
        return self.node("Reshape", moved, self.integers(self.batch, rest, 2 * h, 2 * w)), None

    def sequence(self, x, shape):
        """From a map to a sequence and back, or a sequence's axes in another order."""
        if len(shape) == 4:
            n, c, h, w = shape
            if self.flag():
                flat = self.node("Reshape", x, self.integers(*self.pick((0, c, -1), (self.batch, c, h * w), (0, 0, -1))))
            elif self.opset >= 9 and w > 1:
                flat = self.reduce("Mean", x, [3], keep=0)
            else:
                flat = self.node("Reshape", x, self.integers(0, c * h, w))
            return self.node("Transpose", flat, perm=[0, 2, 1]), None
        if len(shape) == 3:
            n, a, b = shape
            if self.flag():
                return self.node("Transpose", x, perm=[0, 2, 1]), None
            sides = [s for s in range(1, b + 1) if b % s == 0]
            h = int(self.pick(*sides))
            return self.node("Reshape", x, self.integers(0, a, h, b // h)), None
        n, length = shape
        sides = [s for s in range(1, length + 1) if length % s == 0]
        a = int(self.pick(*sides))
        to = self.pick((0, a, length // a), (self.batch, a, -1), (0, 1, length), (0, a, length // a, 1))
        return self.node("Reshape", x, self.integers(*to)), None

    def product(self, x, shape):
        """A product of values, as attention has them."""
        rank = len(shape)
        if rank == 2:
            if self.opset < 13:
                a = self.node("Unsqueeze", x, axes=[2])
                b = self.node("Unsqueeze", x, axes=[1])
            else:
                a, b = (self.node("Unsqueeze", x, self.integers(i)) for i in (2, 1))
            return self.node("MatMul", a, b), None
        order = list(range(rank))
        order[-1], order[-2] = order[-2], order[-1]
        width = shape[-1]
        linear = lambda v: self.node("MatMul", v, self.constant(self.values(width, width, low=-0.5, high=0.5)))
        q, k, v = ((linear(x) if self.flag() else x) for _ in range(3))
        score = self.node("MatMul", q, self.node("Transpose", k, perm=order))
        if self.chance(0.2):
            return score, None
        score = self.node(*self.pick(("Mul", score, self.scalar(0.4)), ("Div", score, self.scalar(1.7))))
        if self.chance(0.3):
            bias = self.pick((), (shape[-2],), (shape[-2], shape[-2]), (1, shape[-2], shape[-2]))
            score = self.node("Add", score, self.constant(self.values(*bias)))
        if self.chance(0.3):
            mask = np.tril(np.ones((shape[-2], shape[-2]), bool))
            score = self.node("Where", self.constant(mask), score, self.scalar(self.pick(-1e4, -1e9, -np.inf)))
        weights = self.node("Softmax", score, axis=rank - 1 if self.opset < 13 else -1)
        return self.node("MatMul", weights, v), None

    def heads(self, x, shape):
        """Attention of several heads over [batch, length, width]."""
        n, length, width = shape
        heads = int(self.pick(*(h for h in range(1, width + 1) if width % h == 0)))
        batch = self.batch if self.fixed and self.flag() else 0
        square = lambda columns: self.constant(self.values(width, columns, low=-0.5, high=0.5))
        if self.flag():
            mixed = self.node("Add", self.node("MatMul", x, square(3 * width)), self.constant(self.values(3 * width)))
            five = self.node("Reshape", mixed, self.integers(batch, length, 3, heads, width // heads))
            moved = self.node("Transpose", five, perm=[2, 0, 3, 1, 4])
            if self.flag():
                q, k, v = (self.node("Gather", moved, self.scalar(i, np.int64), axis=0) for i in range(3))
            else:
                names = [self.name() for _ in range(3)]
                given = [moved]
                if self.opset >= 18:
                    self.nodes.append(helper.make_node("Split", given, names, axis=0, num_outputs=3))
                else:
                    self.nodes.append(helper.make_node("Split", given, names, axis=0))
                q, k, v = (self.axes("Squeeze", name, 0) for name in names)
        else:
            def head():
                part = self.node("MatMul", x, square(width))
                split = self.node("Reshape", part, self.integers(batch, -1, heads, width // heads))
                return self.node("Transpose", split, perm=[0, 2, 1, 3])
            q, k, v = head(), head(), head()
        score = self.node("MatMul", self.node("Mul", q, self.scalar(0.6)), self.node("Transpose", k, perm=[0, 1, 3, 2]))
        if self.chance(0.4):
            score = self.node("Add", score, self.constant(self.values(1, heads, length, length)))
        weights = self.node("Softmax", score, axis=3 if self.opset < 13 else -1)
        together = self.node("Transpose", self.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        flat = self.node("Reshape", together, self.integers(batch, length, width))
        return self.node("MatMul", flat, square(width)), None

    def reduction(self, x, shape):
        kind = self.pick(*REDUCTIONS)
        rank = len(shape)
        if kind in ("Prod", "LogSum"):
            x = self.positive(x)
        axes = self.pick([self.axis_of(shape)], [self.axis_of(shape)], list(range(1, rank)), list(range(2, rank)) or [1],
                         None if self.chance(0.2) else [-1])
        return self.reduce(kind, x, axes, self.pick(None, 0, 1, 1)), None

    def choice(self, x, shape):
        """Where, of comparisons of values and constants."""
        if self.opset < 9:
            return x, None
        low = self.opset < 11
        compare = self.pick("Less", "Greater", *(["LessOrEqual", "GreaterOrEqual"] if self.opset >= 12 else []),
                            *([] if low else ["Equal"]))
        left = self.node("Relu", x) if compare == "Equal" else x
        right = self.pick(self.scalar(0.0), self.scalar(0.1), self.vector(shape), self.other(x, shape))
        condition = self.node(compare, *self.pick((left, right), (right, left)))
        form = self.pick("plain", "plain", "not", "and", "cast", "mask")
        if form == "not":
            condition = self.node("Not", condition)
        elif form == "and":
            second = self.node("Less", x, self.scalar(0.5))
            condition = self.node(self.pick("And", "Or", "Xor"), condition, second)
        elif form == "mask":
            condition = self.constant(self.rng.random(self.pick(shape[1:], shape[-1:])) < 0.6)
        elif form == "cast":
            mask = self.node("Cast", condition, to=TensorProto.FLOAT)
            return self.node("Mul", x, mask), None
        yes, no = self.pick((x, self.scalar(0.0)), (x, self.node("Tanh", x)), (self.scalar(0.3), x),
                            (self.node("Mul", x, self.scalar(0.2)), x), (x, self.vector(shape)))
        return self.node("Where", condition, yes, no), None

    def join(self, x, shape):
        """Concat along any axis, also with constants, as tokens are put in front of a sequence."""
        axis = self.axis_of(shape)
        form = self.pick("twice", "three", "token", "constant")
        if form in ("token", "constant"):
            dims = list(shape)
            dims[axis] = int(self.rng.integers(1, 3))
            if form == "constant" or self.opset < 8:
                part = self.constant(self.values(*dims))
            else:
                token = self.constant(self.values(1, *dims[1:]))
                if self.flag() and self.opset >= 13:
                    size = self.node("Gather", self.node("Shape", x), self.scalar(0, np.int64), axis=0)
                    batch = self.node("Unsqueeze", size, self.integers(0))
                    to = self.node("Concat", batch, self.integers(*self.pick(dims[1:], [-1] * (len(dims) - 1))), axis=0)
                    if self.chance(0.5):
                        # As torch writes it: -1 for what stays.
                        ones = self.node("ConstantOfShape", self.integers(len(dims)),
                                         value=numpy_helper.from_array(np.array([1], np.int64)))
                        stays = self.node("Equal", to, self.node("Mul", ones, self.scalar(-1, np.int64)))
                        to = self.node("Where", stays, ones, to)
                    part = self.node("Expand", token, to)
                else:
                    part = self.node("Expand", token, self.integers(self.batch, *[1] * (len(dims) - 1)))
            return self.node("Concat", *self.pick((part, x), (x, part)), axis=axis), None
        parts = [x, self.node("Relu", x), self.node("Neg", x)][:2 if form == "twice" else 3]
        return self.node("Concat", *parts, axis=axis), None

    def stretch(self, x, shape):
        """Expand and Tile of values and constants."""
        if self.opset < 8:
            return x, None
        small = self.reduce("Mean", x, self.pick([-1], list(range(2, len(shape))) or [1]), keep=1)
        form = self.pick("expand", "expand like", "tile", "constant")
        if form == "tile":
            repeats = [1] + [int(self.rng.integers(1, 3)) for _ in shape[1:]]
            return self.node("Tile", x, self.integers(*repeats)), None
        if form == "expand like":
            return self.node("Add", self.node("Expand", small, self.node("Shape", x)), x), None
        if form == "constant":
            return self.node("Mul", x, self.node("Expand", self.constant(self.values(shape[-1])), self.node("Shape", x))), None
        to = self.pick(shape, [1] * (len(shape) - 1) + [shape[-1]], [1, *shape[1:]], shape[1:])
        return self.node("Expand", small, self.integers(*to)), None

    def gather(self, x, shape):
        axis = self.axis_of(shape)
        size = shape[axis]
        form = self.pick("scalar", "vector", "vector", "matrix")
        low = -size if self.opset >= 11 and self.flag() else 0
        dims = {"scalar": (), "vector": (int(self.rng.integers(1, 4)),), "matrix": (2, 2)}[form]
        indices = self.rng.integers(low, size, dims).astype(self.pick(np.int64, np.int64, np.int32))
        return self.node("Gather", x, self.constant(np.asarray(indices)), axis=axis), None

    def made(self, x, shape):
        """Weights and constants that nodes make of others."""
        form = self.pick("mask", "shape", "range", "parts", "moved", "standard", "of_shape", "sizes", "cast")
        last = shape[-1]
        if form == "mask":
            mask = (self.rng.random((last, 3)) < 0.5).astype(np.float32)
            weights = self.node("Mul", self.constant(self.values(last, 3)), self.constant(mask))
            return self.node("MatMul", x, weights), None
        if form == "moved":
            weights = self.node("Reshape", self.constant(self.values(3 * last)), self.integers(3, last))
            return self.node("MatMul", x, self.node("Transpose", weights, perm=[1, 0])), None
        if form == "parts":
            a, b = (self.constant(self.values(last, n)) for n in (1, 2))
            return self.node("MatMul", x, self.node("Concat", a, b, axis=1)), None
        if form == "standard":
            # A weight that is divided by its norm.
            v = self.constant(self.values(last, 4))
            norm = self.reduce("L2", v, [0], keep=1)
            return self.node("MatMul", x, self.node("Mul", self.node("Div", v, norm), self.constant(self.values(4)))), None
        if form == "range" and self.opset >= 11:
            steps = self.node("Range", *(self.scalar(v, np.float32) for v in (0.0, float(last), 1.0)))
            return self.node("Add", x, self.node("Mul", steps, self.scalar(0.1))), None
        if form == "of_shape" and self.opset >= 9:
            value = numpy_helper.from_array(np.array([0.3], np.float32))
            return self.node("Add", x, self.node("ConstantOfShape", self.integers(*shape[1:]), value=value)), None
        if form == "cast":
            whole = self.constant(self.rng.integers(-3, 4, last).astype(self.pick(np.int64, np.int32, np.int8)))
            return self.node("Mul", x, self.node("Cast", whole, to=TensorProto.FLOAT)), None
        if form == "sizes" and self.opset >= 13 and len(shape) > 2:
            # The product of the last sizes, computed.
            sizes = self.node("Shape", x)
            size = lambda i: self.node("Gather", sizes, self.scalar(i, np.int64), axis=0)
            product = size(2)
            for i in range(3, len(shape)):
                product = self.node("Mul", product, size(i))
            parts = [self.node("Unsqueeze", v, self.integers(0)) for v in (size(0), size(1), product)]
            return self.node("Reshape", x, self.node("Concat", *parts, axis=0)), None
        return self.node("Reshape", x, self.node("Shape", x)), None

    def quantized(self, x, shape):
        """A value that is quantized and brought back at once."""
        if self.opset < 10:
            return x, None
        kind = self.pick(np.int8, np.uint8)
        scale, zero = self.scalar(0.05), self.scalar(self.pick(0, 3) if kind == np.int8 else 128, kind)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, scale, zero), scale, zero), None


def newest():
    """The newest opset that the installed packages know."""
    import onnxruntime
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
    for version in range(onnx.defs.onnx_opset_version(), 20, -1):
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
        model.ir_version = 10
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return version
        except Exception:
            continue
    return 20
