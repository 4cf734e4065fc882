"""Runs models in every engine, in turn on the same cores, and prints a Markdown table.

Each engine is a process that answers on a pipe. A round gives each a burst of calls of some 25 ms,
so that what disturbs the machine disturbs all of them. The figure is the lesser of two: the median over
rounds of each burst's fastest call, and, of one thread, the CPU time of a call. All outputs are held against those of
ONNX Runtime first.

With --precision int8 the engines run in 8 bits, each by its own rounding of the same network, ranges of
activations from 32 samples: their errors are told, not bounded."""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np

from inference_models import INT8, MODELS, ROOT, SWEEP, in_int8

PEERS = ["onnxruntime", "openvino", "openvino-bf16", "mnn", "mnn-sparse"]
OURS = ["svdo", "svdo-dense"]
PEERS_INT8 = ["onnxruntime-int8", "openvino-int8"]
BURST = 25e6  # nanoseconds
# Relative to the largest output: of ours, and of others, whose tiles for 3x3 may be large. bf16 keeps eight
# bits; it is told, not refused.
TOLERANCE, OF_OTHERS = 1e-4, 2e-3


class Engine:
    def __init__(self, name, model, x, dims, core, threads, others):
        here = pathlib.Path(__file__).parent
        command = [sys.executable, here / "inference_worker.py", name, model, x, dims]
        if name in others:
            command = others[name].format(model=model, x=x, dims=dims).split()
        if name.endswith("-int8"):
            model = in_int8(name.removesuffix("-int8"), model, dims)
            command[3] = model
        if name in OURS or name == "svdo-int8":
            worker = os.environ.get("BENCH_WORKER", ROOT / "target/release/examples/bench_worker")
            command = [worker, model, x, dims] + ["dense"] * (name == "svdo-dense") + ["int8"] * (name == "svdo-int8")
        self.name, self.threads, self.times, self.cpu = name, threads, [], []
        self.process = subprocess.Popen(
            ["taskset", "-c", f"{core}-{core + threads - 1}", *map(str, command)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
        line = self.process.stdout.readline()
        while line and line.strip() != "ready":
            line = self.process.stdout.readline()
        self.alive = bool(line)

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return np.array([float(word) for word in self.process.stdout.readline().split()])

    def burst(self, calls):
        *times, cpu = self.ask(f"run {calls}")
        self.times.append(min(times) / 1e3)
        self.cpu.append(cpu / 1e3)

    def microseconds(self):
        time = statistics.median(self.times)
        return min(time, statistics.median(self.cpu)) if self.threads == 1 else time

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()


def measure(name, threads, arguments, engines, others):
    model = arguments.folder / f"{name}.onnx"
    shape_file = model.with_suffix(".shape")
    if not shape_file.exists():
        shape = (MODELS | SWEEP | INT8)[name](model)
        shape_file.write_text(",".join(map(str, shape)))
    batch = int(name.rsplit("-b", 1)[1])
    shape = [int(d) for d in shape_file.read_text().split(",")]
    x = model.with_suffix(".f32")
    np.random.default_rng(7).standard_normal((batch, *shape)).astype(np.float32).tofile(x)
    dims = ",".join(map(str, [batch, *shape]))
    running, errors = [], {}
    for engine in engines:
        engine = Engine(engine, model, x, dims, arguments.core, threads, others)
        if engine.alive:
            running.append(engine)
        else:
            print(f"{name}: {engine.name} does not run it", file=sys.stderr)
    try:
        expected = running[0].ask("out 100000")
        for engine in running:
            # Some answer with their first outputs alone.
            found = engine.ask("out 100000")
            error = np.abs(found - expected[:len(found)]).max() / np.abs(expected).max()
            errors[engine.name] = error
            tolerance = TOLERANCE if engine.name in OURS else OF_OTHERS
            told = engine.name == "openvino-bf16" or engine.name.endswith("-int8")
            if error > tolerance and not told:
                sys.exit(f"{name}: outputs of {engine.name} are off by {error:.1e}")
        calls = {e: int(min(2000, max(2, BURST / min(e.ask("run 5")[:-1])))) for e in running}
        for _ in range(arguments.rounds):
            for engine in running:
                engine.burst(calls[engine])
        return {e.name: e.microseconds() for e in running}, errors
    finally:
        for engine in running:
            engine.close()


def row(name, threads, found, errors, engines):
    cells = [f"{found[e]:,.1f}" if e in found else "" for e in engines]
    peers = {e: t for e, t in found.items() if e not in OURS and e != "openvino-bf16"}
    best = min(peers, key=peers.get)
    ours = found["svdo"]
    cells += [f"{peers[best] / ours:.2f} ({best})", f"{found['svdo-dense'] / ours:.2f}",
              f"{errors['svdo']:.0e}"]
    return f"| {name} | {threads} | " + " | ".join(cells) + " |"


def row_int8(name, threads, found, errors, engines):
    cells = [f"{found[e]:,.1f}" if e in found else "" for e in engines]
    peers = {e: found[e] for e in PEERS_INT8 if e in found}
    best = min(peers, key=peers.get)
    ours = found["svdo-int8"]
    cells += [f"{peers[best] / ours:.2f} ({best})", f"{found['svdo'] / ours:.2f}",
              ", ".join(f"{errors[e]:.0e}" for e in engines if e.endswith("-int8") and e in errors)]
    return f"| {name} | {threads} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"{', '.join(MODELS)}; or sweep: {', '.join(SWEEP)}; "
                        f"in 8 bits {', '.join(INT8)}")
    parser.add_argument("--precision", choices=["f32", "int8"], default="f32")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="that share a run, on cores from --core on")
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="these alone")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bf16", action="store_true", help="OpenVINO in bf16, too (errs by 1e-3 and more)")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=COMMAND",
                        help="one more engine that speaks on a pipe as inference_worker.py does; "
                             "{model}, {x} and {dims} in COMMAND are filled in")
    arguments = parser.parse_args()
    others = dict(other.split("=", 1) for other in arguments.other)
    peers = arguments.peers or [e for e in PEERS if e != "openvino-bf16" or arguments.bf16]
    engines = peers + list(others) + OURS
    int8 = arguments.precision == "int8"
    if int8:
        engines = ["svdo", *PEERS_INT8, *others, "svdo-int8"]
    print("Microseconds of a call. Ratios: the best peer, and our own dense path, over "
          "svdo.\n")
    ratios = "peer / ours | f32 / int8 | errors" if int8 else "peer / svdo | dense / svdo | error"
    print(f"| model | threads | {' | '.join(engines)} | {ratios} |")
    print("|---|" + "---|" * (len(engines) + 4))
    names = [each for name in arguments.models or (INT8 if int8 else MODELS) for each in (SWEEP if name == "sweep" else [name])]
    unknown = [name for name in names if name not in MODELS | SWEEP | INT8]
    if unknown:
        sys.exit(f"no model {', '.join(unknown)}; there are {', '.join(MODELS | SWEEP)}")
    for name in names:
        for threads in arguments.threads:
            found, errors = measure(name, threads, arguments, engines, others)
            line = (row_int8 if int8 else row)(name, threads, found, errors, engines)
            print(line, flush=True)


if __name__ == "__main__":
    main()
