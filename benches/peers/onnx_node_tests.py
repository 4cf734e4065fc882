#!/usr/bin/env python3
"""ONNX's own tests (those of each operator, and those that the package `onnx` has as files), through
svdo-compress and svdo-infer. A case is right, wrong, or refused (with the reason); the exit code is 1
if any is wrong.

    pip install onnx numpy [onnxruntime]
    python benches/peers/onnx_node_tests.py --bin target/release [--operator Pad] [--list refused]

The first input of real numbers stays an input, and its first dimension is the batch; all others become
initializers with the data of the case. A case of several outputs is right if each is, alone. Cases
without an input of real numbers, and those of trainings, are skipped. A refusal is counted; an answer
has to be right within --rtol (of half precision, within the case's own tolerance). Where the answer is
not the case's but ONNX Runtime's, the case is disputed, which is no error. --compress '' leaves
svdo-compress out and gives svdo-infer the model as it is. --whole takes the case's input for one sample:
a batch of 1 is put before it and taken away in the graph. --data reads the tests of older packages, whose
operators have older forms: unpack onnx/backend/test/data/node of the wheel of onnx 1.7.0, say."""

import argparse
import collections
import concurrent.futures
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

REAL = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}
NUMBERS = {*REAL, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32,
           TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
TRAINING = re.compile(r"gradient|training|bernoulli|random")
FILES = ["simple", "pytorch-converted", "pytorch-operator"]
DATA = pathlib.Path(onnx.__file__).parent / "backend/test/data"


class Case:
    """A model with the data of one run of it."""

    def __init__(self, kind, name, model, inputs, outputs, rtol=1e-3):
        self.kind, self.name, self.model, self.rtol = kind, name, model, rtol
        self.inputs, self.outputs, self.operator = inputs, outputs, None
        nodes = {n.op_type for n in model.graph.node} - {"Constant", "Identity"}
        if len(nodes) == 1:
            self.operator = nodes.pop()


def array(value):
    """What one input or output of a case is; None if it is no tensor of numbers."""
    if isinstance(value, TensorProto):
        if value.data_type not in NUMBERS:
            return None
        value = numpy_helper.to_array(value)
    value = value if isinstance(value, (np.ndarray, np.generic)) else None
    return None if value is None or np.asarray(value).dtype.kind not in "fiub" else np.asarray(value)


def operator_cases():
    """The tests of each operator, which the package makes (older ones have them as files)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (DATA / "node").is_dir():
            yield from folder_cases(DATA / "node")
            return
        from onnx.backend.test.case import node
        for case in node.collect_testcases(None):
            inputs, outputs = case.data_sets[0]
            yield Case("node", case.name, case.model, list(inputs), list(outputs), case.rtol)


def folder_cases(folder):
    """Folders of model.onnx and test_data_set_0/{input,output}_N.pb."""
    for path in sorted(folder.glob("**/model.onnx")):
        model = onnx.load(path)
        data = path.parent / "test_data_set_0"

        def read(stem, values):
            found = []
            for i, value in enumerate(values):
                file = data / f"{stem}_{i}.pb"
                tensor = TensorProto()
                try:
                    if not value.type.HasField("tensor_type"):
                        raise ValueError
                    tensor.ParseFromString(file.read_bytes())
                except Exception:
                    tensor = None
                found.append(tensor)
            return found

        constants = {i.name for i in model.graph.initializer}
        inputs = [v for v in model.graph.input if v.name not in constants or
                  (data / f"input_{len(model.graph.input) - 1}.pb").exists()]
        yield Case(folder.name, path.parent.name, model, read("input", inputs),
                   read("output", model.graph.output))


def light_cases():
    """Whole networks with all weights of one layer alike, made as they run."""
    for path in sorted((DATA / "light").glob("*.onnx")):
        output = path.with_name(path.stem + "_output_0.pb")
        model = onnx.load(path)
        constants = {i.name for i in model.graph.initializer}
        given = [v for v in model.graph.input if v.name not in constants]
        if not output.exists() or len(given) != 1:
            continue
        shape = [d.dim_value or 1 for d in given[0].type.tensor_type.shape.dim]
        n = int(np.prod(shape))
        case = Case("light", path.stem, model, [(np.arange(n).reshape(shape) / n).astype(np.float32)],
                    [onnx.load_tensor(output)])
        case.operator = "(light)"
        yield case


def name_operators(cases):
    """Cases of functions spelled out belong to the operator that they spell out."""
    known = {c.name: c.operator for c in cases}
    for case in cases:
        base = re.sub(r"_expanded.*$", "", case.name)
        if base != case.name and known.get(base):
            case.operator = known[base] + " (expanded)"
        elif case.operator is None:
            case.operator = f"({case.kind})"


def skipped(case):
    """Why a case is none for us, or None."""
    if TRAINING.search(case.name) or any(n.domain.endswith("training") for n in case.model.graph.node):
        return "trainings and random numbers"
    if any(v is None for v in map(array, case.outputs)):
        return "outputs that are no tensors of numbers"
    if any(v is None for v in map(array, case.inputs)):
        return "inputs that are no tensors of numbers"
    if not any(v.dtype.kind == "f" for v in map(array, case.inputs)):
        return "no input of real numbers"
    return None


def whole(model, x):
    """A batch of 1 before the input and the outputs."""
    graph = model.graph
    inner = graph.input[0].name
    graph.input[0].name = "batch of " + inner
    dims = graph.input[0].type.tensor_type.shape.dim
    sizes = [onnx.TensorShapeProto.Dimension(dim_value=n) for n in (1, *x.shape)]
    del dims[:]
    dims.extend(sizes)
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if version is None:
        version = 13
        model.opset_import.append(helper.make_opsetid("", version))

    def axis(op, source, to):
        if version < 13:
            return helper.make_node(op, [source], [to], axes=[0])
        return helper.make_node(op, [source, "batch axis"], [to])

    if version >= 13:
        graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "batch axis"))
    graph.node.insert(0, axis("Squeeze", "batch of " + inner, inner))
    for output in graph.output:
        if output.name:
            graph.node.append(axis("Unsqueeze", output.name, "batch of " + output.name))
            output.name = "batch of " + output.name
            output.type.tensor_type.ClearField("shape")
    return model, x[None]


def prepared(case, which):
    """(model with one input, the array for it)."""
    constants = {i.name for i in case.model.graph.initializer}
    values = list(case.model.graph.input)
    if len(values) != len(case.inputs):
        values = [v for v in values if v.name not in constants]
    real = [i for i, v in enumerate(case.inputs) if array(v).dtype.kind == "f"]
    if which >= len(real):
        return None
    kept = real[which]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    del graph.input[:]
    graph.input.append(values[kept])
    keep = [i for i in graph.initializer if i.name not in {v.name for v in values}]
    del graph.initializer[:]
    graph.initializer.extend(keep)
    for i, (value, data) in enumerate(zip(values, case.inputs)):
        if i != kept:
            graph.initializer.append(numpy_helper.from_array(array(data), value.name))
    return model, array(case.inputs[kept])


def crashed(run):
    return run.returncode < 0 or run.returncode > 100 or "panicked" in run.stderr


def reason(said):
    """The first line of what a program said, less the file's name."""
    line = next((l for l in said.splitlines() if l.strip()), "no reason")
    return re.sub(r"^error: \S+\.(onnx|svdo): ", "", line)


def peer(path, x):
    """ONNX Runtime's answer, or None."""
    try:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: x})[0]
    except Exception:
        return None


def near(found, wanted, options, rtol):
    """Which numbers are right."""
    with np.errstate(invalid="ignore"):
        right = np.abs(found - wanted) <= options.atol + rtol * np.abs(wanted)
    return right | (found == wanted) | (np.isnan(found) & np.isnan(wanted))


def one_output(options, folder, stem, model, output, x, expected, rtol):
    """(right | wrong | refused | disputed, what was said) of one output."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.append(output)
    base = folder / stem
    onnx.save(cut, f"{base}.onnx")
    with np.errstate(over="ignore"):
        np.save(f"{base}.npy", x.astype(np.float32))
    given = f"{base}.onnx"
    commands = []
    if options.compress:
        commands.append([*options.compress_command, given, "--quantize", "exact", "--threads", "1",
                         "-o", f"{base}.svdo"])
        given = f"{base}.svdo"
    commands.append([*options.infer_command, given, "-i", f"{base}.npy", "-o", f"{base}.out.npy",
                     "--threads", "1"])
    for command in commands:
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
        except subprocess.TimeoutExpired:
            return "wrong", f"{pathlib.Path(command[0]).name} takes longer than {options.timeout} s"
        if crashed(run):
            return "wrong", f"{pathlib.Path(command[0]).name} crashed: {run.stderr.strip()[:200]}"
        if run.returncode != 0:
            return "refused", reason(run.stderr)
    found, wanted = np.load(f"{base}.out.npy").astype(np.float64), expected.astype(np.float64)
    right = found.size == wanted.size and near(found.reshape(-1), wanted.reshape(-1), options, rtol)
    if np.all(right):
        return "right", ""
    other = peer(f"{base}.onnx", x)
    if other is not None and other.size == found.size and np.all(
            near(found.reshape(-1), other.reshape(-1).astype(np.float64), options, rtol)):
        return "disputed", "ONNX Runtime's answer"
    if found.size != wanted.size:
        return "wrong", f"{list(found.shape)} outputs, not {list(wanted.shape)}"
    at = int(np.argmin(right))
    return "wrong", (f"{int((~right).sum())} of {right.size} are off: {found.reshape(-1)[at]:.6g}, "
                     f"not {wanted.reshape(-1)[at]:.6g}")


def check(options, folder, index, case, which):
    """(verdict, what was said) of a case, or None where it has no such input."""
    made = prepared(case, which)
    if made is None:
        return None
    model, x = whole(*made) if options.whole else made
    rtol = max(options.rtol, case.rtol)
    worst = ("right", "")
    for i, (output, expected) in enumerate(zip(model.graph.output, case.outputs)):
        if not output.name:
            continue
        stem = f"{index}.{which}.{i}"
        verdict, said = one_output(options, folder, stem, model, output, x, array(expected), rtol)
        for file in folder.glob(f"{stem}.*"):
            if verdict == "wrong" and options.keep:
                file.rename(folder / (case.name + file.name[file.name.index("."):]))
            else:
                file.unlink()
        if verdict == "wrong":
            return verdict, said
        if verdict != "right" and worst[0] != "refused":
            worst = verdict, said
    return worst


def short(said):
    said = re.sub(r"\s+", " ", said)
    return said if len(said) <= 150 else said[:147] + "..."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release", help="folder of the programs")
    parser.add_argument("--compress", help="svdo-compress with its arguments; '' to leave it out")
    parser.add_argument("--infer", help="svdo-infer with its arguments")
    parser.add_argument("--operator", action="append", help="only cases of this operator")
    parser.add_argument("--case", help="only cases whose name matches this expression")
    parser.add_argument("--list", choices=["right", "wrong", "refused", "disputed"], action="append", default=[],
                        help="print each such case with what was said")
    parser.add_argument("--reasons", action="store_true", help="count the reasons of refusals")
    parser.add_argument("--inputs", choices=["first", "each"], default="first",
                        help="each: every input of real numbers in its turn stays the input")
    parser.add_argument("--whole", action="store_true", help="the input of a case is one sample")
    parser.add_argument("--light", action="store_true", help="whole networks, too (up to 600 MB each)")
    parser.add_argument("--data", type=pathlib.Path, action="append", default=[],
                        help="a folder of cases as files, as onnx/backend/test/data/node of older packages")
    parser.add_argument("--only-data", action="store_true", help="none but those of --data")
    parser.add_argument("--rtol", type=float, default=1e-4)
    parser.add_argument("--atol", type=float, default=1e-5)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for what is wrong")
    options = parser.parse_args()
    programs = pathlib.Path(options.bin)
    if options.compress is None:
        options.compress = str(programs / "svdo-compress")
    options.compress_command = shlex.split(options.compress)
    options.infer_command = shlex.split(options.infer or str(programs / "svdo-infer"))

    cases = []
    if not options.only_data:
        cases += operator_cases()
        for kind in FILES:
            cases += folder_cases(DATA / kind)
        if options.light:
            cases += light_cases()
    for folder in options.data:
        cases += folder_cases(folder)
    name_operators(cases)
    if options.operator:
        wanted = set(options.operator)
        cases = [c for c in cases if c.operator in wanted or c.operator.removesuffix(" (expanded)") in wanted]
    if options.case:
        cases = [c for c in cases if re.search(options.case, c.name)]

    skips, kept = collections.Counter(), []
    for case in cases:
        why = skipped(case)
        if why:
            skips[why] += 1
        else:
            kept.append(case)
    folder = options.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    work = [(i, c, w) for i, c in enumerate(kept) for w in range(1 if options.inputs == "first" else 9)]
    counts = collections.defaultdict(collections.Counter)
    reasons, first, totals, others = collections.Counter(), {}, collections.Counter(), collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for (index, case, which), result in zip(work, pool.map(
                lambda w: check(options, folder, *w), work)):
            if result is None:
                continue
            verdict, said = result
            counts[case.operator][verdict] += 1
            floats = all(array(v).dtype.kind == "f" for v in case.outputs)
            (totals if floats else others)[verdict] += 1
            if verdict == "refused":
                general = re.sub(r'"[^"]*"', '""', re.sub(r"\[[0-9, -]*\]", "[#]", said))
                reasons[re.sub(r"[0-9]+", "#", general)] += 1
            if said and (verdict == "wrong" or case.operator not in first):
                first.setdefault(case.operator, said)
            if verdict == "wrong" or verdict in options.list:
                print(f"{verdict:8}{case.name}{f' (input {which})' if which else ''}: {short(said)}", flush=True)
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)

    print(f"{'operator':36}{'right':>6}{'wrong':>6}{'refused':>8}  first reason")
    for operator in sorted(counts):
        c = counts[operator]
        print(f"{operator:36}{c['right']:6}{c['wrong']:6}{c['refused']:8}  {short(first.get(operator, ''))}")
    if options.reasons:
        for why, count in reasons.most_common(60):
            print(f"{count:6} {short(why)}")
    for why, count in skips.most_common():
        print(f"skipped: {count} ({why})")
    for name, c in ("outputs of real numbers", totals), ("outputs of other numbers", others):
        if c:
            n = sum(c.values())
            print(f"{name}: {c['right']} of {n} right ({100 * c['right'] / n:.1f} %), {c['refused']} refused, "
                  f"{c['wrong']} wrong, {c['disputed']} disputed")
    complete = sum(1 for c in counts.values() if c["right"] == sum(c.values()))
    some = sum(1 for c in counts.values() if 0 < c["right"] < sum(c.values()))
    print(f"operators: {complete} of {len(counts)} right in every case, {some} in some")
    sys.exit(totals["wrong"] + others["wrong"] > 0)


if __name__ == "__main__":
    main()
