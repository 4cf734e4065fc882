#!/usr/bin/env python3
"""Random small ONNX graphs over every operator of formats/network.md, of opset 7 to the newest, through
svdo-infer and ONNX Runtime. A graph is right, refused (with the reason) or wrong; the exit code is 1 if
any is wrong.

    pip install onnx onnxruntime numpy
    python benches/peers/onnx_fuzz.py --infer target/release/svdo-infer [--seed 1] [--graphs 10000]

What is wrong is kept as FOLDER/SEED.onnx with SEED.npy; --graphs 1 --seed SEED makes it again.
Attributes and shapes are drawn a little beyond what is claimed, so that some graphs must be refused:
a refusal is counted, an answer has to be right within 1e-5 of the largest output (or of 1), plus ten times
what tiny changes of the input change there, where a graph is steep. An answer that is not ONNX Runtime's but,
within 1e-5, that of ONNX's own evaluator in double precision is disputed, which is no error. --operators prints the counts by
operator; --with Pad,Resize tries only graphs that have these."""

import argparse
import collections
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnx_fuzz_steps import Steps, newest

NEWEST = newest()
UNARY = ["Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "LeakyRelu", "Elu", "Clip", "HardSigmoid",
         "Gelu", "Identity", "Dropout", "Cast"]


class Graph(Steps):
    """Grows a graph; `shape` is that of the value so far, the batch included."""

    def __init__(self, seed, wide=True):
        self.rng, self.wide = np.random.default_rng(seed), wide
        self.opset = int(self.rng.choice([7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 21, 23, NEWEST]))
        self.opset = min(self.opset, NEWEST)
        self.nodes, self.constants, self.count = [], [], 0
        self.batch = int(self.rng.choice([1, 1, 2]))
        self.fixed = self.batch > 1 or self.rng.random() < 0.5

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, *of):
        return of[int(self.rng.integers(len(of)))]

    def name(self, stem="v"):
        self.count += 1
        return f"{stem}{self.count}"

    def constant(self, array, kind=None):
        name = self.name("c")
        array = np.asarray(array)
        if kind in (TensorProto.FLOAT16, TensorProto.DOUBLE):
            cast = self.name("k")
            dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float64
            self.constants.append(numpy_helper.from_array(array.astype(dtype), cast))
            self.nodes.append(helper.make_node("Cast", [cast], [name], to=TensorProto.FLOAT))
        elif self.chance(0.1):
            tensor = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        elif array.dtype == np.float32 and self.chance(0.1):
            self.constants.append(helper.make_tensor(name, TensorProto.FLOAT, array.shape,
                                                     array.ravel().tolist()))
        else:
            self.constants.append(numpy_helper.from_array(array, name))
        return name

    def values(self, *shape, low=-1.0, high=1.0):
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def node(self, op, *inputs, outputs=1, **attributes):
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names[0]

    def vector(self, shape, low=-1.0, high=1.0):
        """A constant that may or may not be one number for each channel."""
        rank, channels = len(shape), shape[1]
        form = self.pick("channel", "channel", "channel", "scalar", "one", "last", "all", "batch")
        if form == "channel":
            dims = [channels] + [1] * (rank - 2)
            if self.chance(0.4):
                dims = [1] + dims
        elif form == "scalar":
            dims = []
        elif form == "one":
            dims = [1] * int(self.rng.integers(1, rank + 1))
        elif form == "last":
            dims = [shape[-1]]
        elif form == "batch":
            dims = [shape[0]] + [1] * (rank - 1)
        else:
            dims = list(shape[1:])
        return self.constant(self.values(*dims, low=low, high=high))

    def unary(self, x, shape):
        op = self.pick(*UNARY)
        if op == "LeakyRelu":
            return self.node(op, x, **({"alpha": 0.3} if self.chance(0.7) else {})), shape
        if op == "Elu":
            return self.node(op, x, **({"alpha": 0.7} if self.chance(0.7) else {})), shape
        if op == "HardSigmoid":
            given = self.pick({}, {"alpha": 1 / 6, "beta": 0.5}, {"alpha": 0.3, "beta": 0.4})
            return self.node(op, x, **given), shape
        if op == "Clip":
            low, high = self.pick((0.0, 6.0), (-0.4, 0.3), (0.0, None), (None, 0.2), (None, None))
            if self.opset < 11:
                bounds = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
                return self.node(op, x, **bounds), shape
            bound = lambda v: "" if v is None else self.constant(np.float32(v))
            return self.node(op, x, bound(low), bound(high)), shape
        if op == "Gelu":
            if self.opset < 20:
                return self.spelled_out(x), shape
            return self.node(op, x, **self.pick({}, {"approximate": "tanh"})), shape
        if op == "HardSwish" and self.opset < 14:
            return self.spelled_out(x), shape
        if op == "Dropout":
            return self.node(op, x, **({"ratio": 0.4} if self.opset < 12 else {})), shape
        if op == "Cast":
            wide = self.node(op, x, to=self.pick(TensorProto.DOUBLE, TensorProto.FLOAT16))
            return self.node(op, wide, to=TensorProto.FLOAT), shape
        return self.node(op, x), shape

    def spelled_out(self, x):
        scalar = lambda v: self.constant(np.float32(v))
        form = self.pick("gelu", "hard_swish", "hard_sigmoid", "silu")
        if form == "silu":
            return self.node("Mul", *self.pick((x, self.node("Sigmoid", x)), (self.node("Sigmoid", x), x)))
        if form == "gelu" and self.opset >= 9:
            inner = self.node("Div", x, scalar(np.sqrt(2.0)))
            gate = self.node("Add", self.node("Erf", inner), scalar(1.0))
            if self.chance(0.5):
                return self.node("Mul", self.node("Mul", x, gate), scalar(0.5))
            return self.node("Mul", self.node("Mul", x, scalar(0.5)), gate)
        plus = self.node("Add", x, scalar(self.pick(3.0, 3.0, 2.0)))
        if self.opset < 11:
            six = self.node("Clip", plus, min=0.0, max=6.0)
        else:
            six = self.node("Clip", plus, scalar(0.0), scalar(6.0))
        if form == "hard_sigmoid":
            return self.node("Div", six, scalar(6.0))
        return self.node("Div", self.node("Mul", x, six), scalar(6.0))

    def arithmetic(self, x, shape):
        op = self.pick("Add", "Sub", "Mul", "Div")
        low, high = (0.5, 2.0) if op == "Div" else (-1.0, 1.0)
        c = self.vector(shape, low, high)
        return self.node(op, *((c, x) if self.chance(0.3) else (x, c))), shape

    def batch_norm(self, x, shape):
        n = shape[1]
        part = lambda low, high: self.constant(self.values(n, low=low, high=high))
        return self.node("BatchNormalization", x, part(0.5, 2), part(-1, 1), part(-1, 1), part(0.3, 2),
                         **self.pick({}, {"epsilon": 1e-3})), shape

    def softmax(self, x, shape):
        given = self.pick({}, {"axis": 1}, {"axis": -1}, {"axis": len(shape) - 1})
        return self.node("Softmax", x, **given), shape

    def branches(self, x, shape):
        """Two ways of x and their sum, product or concatenation."""
        if len(shape) == 4:
            step = lambda x: self.conv(x, shape, same=True)
        else:
            step = lambda x: self.linear(x, shape, outputs=shape[1])
        (a, _), (b, _) = step(x), self.pick(step, lambda x: (x, shape))(x)
        op = self.pick("Add", "Sum", "Mul", "Concat", "Sub", "squeeze")
        if op == "squeeze" and len(shape) == 4:
            gate = self.node("Sigmoid", self.node("GlobalAveragePool", b))
            return self.node("Mul", *self.pick((a, gate), (gate, a))), shape
        if op == "Concat":
            axis = self.pick(1, 1, 1, 1 - len(shape), -1)
            shape = list(shape)
            shape[axis] *= 2
            return self.node(op, a, b, axis=axis), shape
        return self.node(op if op != "squeeze" else "Add", a, b), shape

    def window(self, size, kernel):
        """Attributes of a window, or None where it would not fit."""
        given = {}
        way = self.pick("none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID")
        if way == "pads":
            given["pads"] = [int(self.rng.integers(0, min(2, k - 1) + 1)) for k in kernel * 2]
        elif way != "none":
            given["auto_pad"] = way
        if self.chance(0.5):
            given["strides"] = [int(v) for v in self.rng.integers(1, 4, len(kernel))]
        return given

    def conv(self, x, shape, same=False):
        c, space = shape[1], shape[2:]
        kernel = [int(min(s, self.pick(1, 2, 3))) for s in space]
        if same:
            kernel, given, outputs = [1] * len(space), {}, c
        else:
            given, outputs = self.window(space, kernel), int(self.rng.integers(1, 5))
            if self.chance(0.25):
                dilations = [2 if 2 * (k - 1) + 1 <= s else 1 for k, s in zip(kernel, space)]
                if not given.get("auto_pad", "").startswith("SAME") or set(dilations) == {1}:
                    given["dilations"] = dilations
        group = c if c > 1 and self.chance(0.3) else 1
        if group > 1:
            outputs = outputs if same else group * int(self.rng.integers(1, 3))
        if group > 1 or self.chance(0.2):
            given["group"] = group
        if self.chance(0.5):
            given["kernel_shape"] = kernel
        weights = self.constant(self.values(outputs, c // group, *kernel),
                                self.pick(None, None, None, TensorProto.FLOAT16, TensorProto.DOUBLE))
        inputs = [x, weights] + ([self.constant(self.values(outputs))] if self.chance(0.6) else [])
        return self.node("Conv", *inputs, **given), None

    def pool(self, x, shape):
        op = self.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
        if op == "ReduceMean":
            axes = self.pick([2, 3], [-1, -2], [3, 2], [1], [2], None) if len(shape) == 4 else [self.axis_of(shape)]
            given = self.pick({}, {"keepdims": 0}, {"keepdims": 1})
            if axes is None:
                given = {**given, **(self.pick({}, {"noop_with_empty_axes": 1}) if self.opset >= 18 else {})}
                return self.node(op, x, **given), None
            if self.opset >= 18:
                return self.node(op, x, self.constant(np.array(axes, np.int64)), **given), None
            return self.node(op, x, axes=axes, **given), None
        if op.startswith("Global"):
            return self.node(op, x), None
        kernel = [int(min(s, self.pick(1, 2, 3))) for s in shape[2:]]
        given = {"kernel_shape": kernel, **self.window(shape[2:], kernel)}
        if self.opset >= 10 and "auto_pad" not in given and self.chance(0.4):
            given["ceil_mode"] = 1
        if op == "AveragePool" and self.chance(0.5):
            given["count_include_pad"] = int(self.pick(0, 1))
        if self.opset >= (10 if op == "MaxPool" else 19) and "auto_pad" not in given and self.chance(0.3):
            given["dilations"] = [2 if 2 * (k - 1) + 1 <= s else 1 for k, s in zip(kernel, shape[2:])]
        return self.node(op, x, **given), None

    def linear(self, x, shape, outputs=None):
        inputs, outputs = shape[-1], outputs or int(self.rng.integers(1, 6))
        kind = self.pick(None, None, None, TensorProto.FLOAT16)
        if len(shape) != 2 or self.chance(0.4):
            weights = self.values(inputs, outputs)
            if self.chance(0.2):
                moved = self.node("Transpose", self.constant(weights.T.copy(), kind), perm=[1, 0])
                return self.node("MatMul", x, moved), None
            return self.node("MatMul", x, self.constant(weights, kind)), None
        given = {}
        weights = self.values(inputs, outputs)
        if self.chance(0.6):
            given["transB"], weights = 1, weights.T.copy()
        if self.chance(0.3):
            given["alpha"] = 0.5
        if self.chance(0.3):
            given["beta"] = 2.0
        names = [x, self.constant(weights, kind)]
        if self.opset < 11 or self.chance(0.8):
            dims = self.pick((outputs,), (outputs,), (1, outputs), (1,), (), (1, 1), (self.batch, 1),
                             (self.batch, outputs))
            names.append(self.constant(self.values(*dims)))
        return self.node("Gemm", *names, **given), None

    def flatten(self, x, shape):
        count = int(np.prod(shape[1:]))
        form = self.pick("Flatten", "Flatten", "Reshape", "Reshape", "shape", "fixed", "last")
        if form == "Flatten":
            return self.node("Flatten", x, **self.pick({}, {"axis": 1})), None
        if form == "last" and len(shape) == 4:
            moved = self.node("Transpose", x, perm=[0, 2, 3, 1])
            return self.node("Flatten", moved), None
        if form == "shape":
            sizes = self.node("Shape", x)
            if self.opset >= 10 and self.chance(0.5):
                one = lambda v: self.constant(np.array([v], np.int64))
                batch = self.node("Slice", sizes, one(0), one(1))
            else:
                axes = np.array(0, np.int64)
                picked = self.node("Gather", sizes, self.constant(axes), axis=0)
                if self.opset >= 13:
                    batch = self.node("Unsqueeze", picked, self.constant(np.array([0], np.int64)))
                else:
                    batch = self.node("Unsqueeze", picked, axes=[0])
            to = self.node("Concat", batch, self.constant(np.array([-1], np.int64)), axis=0)
            return self.node("Reshape", x, to), None
        to = self.pick([0, -1], [-1, count], [self.batch, -1], [self.batch, count], [0, count],
                       [0, -1, 1], [0, count, 1, 1], [1, -1], [2, -1], [-1, 2])
        return self.node("Reshape", x, self.constant(np.array(to, np.int64))), None

    def arrange(self, x, shape):
        """What moves no number, or puts channels last and back."""
        form = self.pick("squeeze", "unsqueeze", "moved", "split", "transpose")
        rank = len(shape)
        axes = lambda op, x, to: (self.node(op, x, self.constant(np.array(to, np.int64)))
                                  if self.opset >= 13 else self.node(op, x, axes=to))
        if form == "unsqueeze" and rank < 5:
            return axes("Unsqueeze", x, [self.pick(1, 2, rank, -1)]), None
        if form == "squeeze":
            ones = [i for i in range(1, rank) if shape[i] == 1]
            if ones:
                return axes("Squeeze", x, self.pick(ones, ones[:1])), None
        if rank == 4 and form in ("moved", "split"):
            moved = self.node("Transpose", x, perm=[0, 2, 3, 1])
            if form == "split":
                return moved, None
            moved, _ = self.unary(moved, shape)
            return self.node("Transpose", moved, perm=[0, 3, 1, 2]), None
        perm = [0] + [int(v) for v in 1 + self.rng.permutation(rank - 1)]
        return self.node("Transpose", x, perm=perm), None

    def model(self, nodes, output):
        batch = self.batch if self.fixed else "N"
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *self.shape[1:]])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8 if self.opset < 21 else 10
        return model

    def shape_of(self, name):
        """The shape that a value has, by ONNX Runtime; None if the graph is no good."""
        try:
            bytes_ = self.model(self.nodes, name).SerializeToString()
            session = onnxruntime.InferenceSession(bytes_, OPTIONS, providers=["CPUExecutionProvider"])
            return list(session.run(None, {"x": self.x})[0].shape)
        except Exception:
            return None

    def build(self):
        """A model and ONNX Runtime's output, or None."""
        self.shape = self.pick([self.batch, int(self.rng.integers(1, 7))],
                               [self.batch, *(int(v) for v in self.rng.integers(1, 7, 2))],
                               *([[self.batch, int(self.rng.integers(1, 5)),
                                   *(int(v) for v in self.rng.integers(1, 8, 2))]] * 2))
        self.x = self.rng.standard_normal(self.shape).astype(np.float32)
        x, shape = "x", list(self.shape)
        for _ in range(int(self.rng.integers(2, 8))):
            if len(shape) == 4:
                steps = [self.conv] * 4 + [self.pool] * 3 + [self.flatten, self.branches]
            elif len(shape) == 2:
                steps = [self.linear] * 5 + [self.branches]
            elif len(shape) == 3:
                steps = [self.conv, self.pool, self.linear, self.linear, self.flatten, self.heads, self.product]
            else:
                steps = [self.flatten, self.arrange, self.linear]
            if len(shape) >= 2:
                steps += [self.batch_norm, self.softmax]
            steps += [self.unary] * 3 + [self.arithmetic] * 2 + [self.arrange]
            if self.wide:
                if len(shape) == 4:
                    steps += [self.blocks, self.resize]
                if len(shape) in (3, 4):
                    steps += [self.resize, self.transposed_conv, self.instance_norm, self.group_norm]
                if len(shape) in (2, 3, 4):
                    steps += [self.sequence, self.product]
                steps += [self.functions] * 2 + [
                    self.prelu, self.log_softmax, self.meet, self.meet, self.pad, self.slice, self.split,
                    self.layer_norm, self.reduction, self.choice, self.join, self.stretch, self.gather, self.made]
                steps += [self.quantized] if self.chance(0.2) else []
            before = list(self.nodes), list(self.constants)
            y, _ = self.pick(*steps)(x, shape)
            found = self.shape_of(y)
            if found is None or len(found) < 2 or 0 in found or np.prod(found) > 1 << 14:
                self.nodes, self.constants = before
                continue
            x, shape = y, found
        layers = {"Conv", "Gemm", "MatMul"}
        if x == "x" or not (self.wide or any(node.op_type in layers for node in self.nodes)):
            return None
        # What does not reach the output stays, as in files of people; its constants, too.
        model = self.model(self.nodes, x)
        session = onnxruntime.InferenceSession(model.SerializeToString(), OPTIONS,
                                               providers=["CPUExecutionProvider"])
        self.session = session
        return model, session.run(None, {"x": self.x})[0]

    def steepness(self, expected):
        """What changes of the input by some roundings change of each output."""
        rng, most = np.random.default_rng(0), np.zeros(expected.shape)
        for _ in range(8):
            near = self.x * (1 + 2e-6 * rng.standard_normal(self.x.shape)).astype(np.float32)
            with np.errstate(invalid="ignore"):
                change = np.abs(self.session.run(None, {"x": near})[0] - expected)
            most = np.maximum(most, np.nan_to_num(change, nan=np.inf))
        return most.reshape(-1)


OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1
OPTIONS.log_severity_level = 4


def in_double(model, x):
    """What ONNX's own evaluator gives, in double precision; None where it does not understand a graph."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = [*wide.graph.initializer, *(a.t for n in wide.graph.node for a in n.attribute if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for cast in (a for n in wide.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"):
        cast.i = TensorProto.DOUBLE if cast.i == TensorProto.FLOAT else cast.i
    for value in [*wide.graph.input, *wide.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    try:
        with np.errstate(all="ignore"):
            return onnx.reference.ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})[0]
    except Exception:
        return None


def check(infer, folder, wide, wanted, seed):
    """(seed, right | refused | disputed | wrong | none, what was said, its operators)."""
    graph = Graph(seed, wide)
    built = graph.build()
    if built is None:
        return seed, "none", "", ()
    model, expected = built
    operators = {n.op_type for n in model.graph.node}
    if not wanted <= operators:
        return seed, "none", "", ()
    return seed, *judge(infer, folder, graph, model, expected, seed), operators


def judge(infer, folder, graph, model, expected, seed):
    """(right | refused | disputed | wrong, what was said)."""
    base = folder / str(seed)
    onnx.save(model, f"{base}.onnx")
    # A graph whose input is channels last makes a network that takes channels first.
    x = graph.x
    readers = [n for n in model.graph.node if "x" in n.input]
    last = all(n.op_type == "Transpose" and list(n.attribute[0].ints) == [0, 3, 1, 2] for n in readers)
    np.save(f"{base}.npy", x.transpose(0, 3, 1, 2) if last and x.ndim == 4 else x)
    out = f"{base}.out.npy"
    run = subprocess.run([*infer.split(), f"{base}.onnx", "-i", f"{base}.npy", "-o", out],
                         capture_output=True, text=True)
    if run.returncode != 0:
        verdict, said = "refused", run.stderr.strip()
        if "panicked" in said or run.returncode < 0 or run.returncode > 100:
            return "wrong", said
        if len(said) > 600:
            return "wrong", f"a message of {len(said)} characters: {said[:300]}"
    else:
        found = np.load(out).reshape(-1)
        wanted = expected.reshape(-1)
        if found.size != wanted.size:
            return "wrong", f"{found.size} outputs, not {wanted.size}"
        finite = np.abs(wanted[np.isfinite(wanted)])
        scale = max(1.0, float(finite.max(initial=0)))
        with np.errstate(invalid="ignore"):
            error = np.abs(found.astype(np.float64) - wanted)
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        # ONNX Runtime's InstanceNormalization multiplies before it subtracts.
        bound = (1e-4 if any(n.op_type == "InstanceNormalization" for n in model.graph.node) else 1e-5) * scale
        bad = ~(error <= bound) & ~same
        if bad.any():
            bad &= ~(error <= bound + 10 * graph.steepness(expected))
        if bad.any() and (truth := in_double(model, graph.x)) is not None and truth.size == found.size:
            if not (bad & ~(np.abs(found - truth.reshape(-1)) <= bound)).any():
                return "disputed", ""
        if bad.any():
            return "wrong", f"{int(bad.sum())} of {bad.size} off, by {np.nanmax(error[bad]):.3g} of {scale:.3g}"
        verdict, said = "right", ""
    for path in (f"{base}.onnx", f"{base}.npy", out):
        pathlib.Path(path).unlink(missing_ok=True)
    return verdict, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--infer", default="target/release/svdo-infer", help="with its arguments")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for what is wrong")
    parser.add_argument("--refusals", action="store_true", help="count the reasons of refusals")
    parser.add_argument("--basic", action="store_true", help="only images, convolutions, linear layers and pools")
    parser.add_argument("--with", dest="wanted", help="only graphs that have each of these operators")
    parser.add_argument("--operators", action="store_true", help="count graphs by the operators they have")
    arguments = parser.parse_args()
    wanted = frozenset(arguments.wanted.split(",") if arguments.wanted else ())
    folder = arguments.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    counts, reasons, having = collections.Counter(), collections.Counter(), collections.defaultdict(collections.Counter)
    seeds = range(arguments.seed, arguments.seed + arguments.graphs)
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs) as pool:
        n = len(seeds)
        same = [[v] * n for v in (arguments.infer, folder, not arguments.basic, wanted)]
        for seed, verdict, said, operators in pool.map(check, *same, seeds, chunksize=20):
            counts[verdict] += 1
            for operator in operators:
                having[operator][verdict] += 1
            if verdict == "wrong":
                print(f"{folder}/{seed}.onnx: {said}", flush=True)
            elif verdict == "refused":
                said = said.split(".onnx: ", 1)[-1]
                reasons[re.sub(r"[0-9]+", "#", re.sub(r'"[^"]*"', '""', said))[:160]] += 1
    if arguments.refusals:
        for reason, count in reasons.most_common(60):
            print(f"{count:6} {reason}")
    if arguments.operators:
        for operator, c in sorted(having.items()):
            print(f"{operator:28}{c['right']:6} right{c['refused']:6} refused{c['wrong']:5} wrong")
    print(f"{n} seeds from {arguments.seed}: {counts['right']} graphs right, {counts['refused']} refused, "
          f"{counts['disputed']} disputed, {counts['wrong']} wrong ({counts['none']} seeds make no graph)")
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    main()
