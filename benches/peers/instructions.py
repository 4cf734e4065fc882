"""Counts the instructions that a run takes on ARM in every engine, under qemu, and prints a Markdown table.

Each engine is a process of its own that speaks as examples/bench_worker.rs. It is started twice, for few runs and for
more of them: the difference of the instructions by the difference of the runs is what one takes, with what the peers'
Python does between two calls. Outputs are held against those of ONNX Runtime."""

import argparse
import os
import pathlib
import subprocess
import sys

import numpy as np

from inference_models import MODELS, ROOT, SWEEP

PEERS = ["onnxruntime", "openvino", "mnn"]
CHOSEN = ["lenet300-b1", "lenet300-b64", "lenet5-b1", "lenet5-b64", "vgg-b1", "fc4096-90-b1", "fc4096-99-b1",
          "fc4096-99-b64", "resnet50-95-b1"]
# Runs beyond the first, at most and by the instructions that these are to take.
MOST, WORTH = 50, 4e8


def answers(arguments, engine, model, shape, questions):
    """The lines that an engine says to these questions, and the instructions of all it does."""
    qemu = ["qemu-aarch64", "-cpu", arguments.cpu, "-plugin", arguments.arm / "count.so"]
    given = [model, model.with_suffix(".f32"), shape]
    if engine == "svdo":
        worker = os.environ.get("BENCH_WORKER", ROOT / "target/aarch64-unknown-linux-gnu/release/examples/bench_worker")
        command = [*qemu, "-L", "/usr/aarch64-linux-gnu", worker, *given]
    else:
        root = arguments.arm / "root"
        worker = pathlib.Path(__file__).parent / "inference_worker.py"
        command = [*qemu, "-L", root, root / f"usr/bin/python{arguments.python}", worker, engine, *given]
    environment = dict(os.environ, PYTHONPATH=str(arguments.arm / "site"), OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    done = subprocess.run(command, input="\n".join([*questions, "quit"]) + "\n", capture_output=True, text=True,
                          env=environment)
    counts = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("instructions ")]
    if done.returncode or not counts:
        raise RuntimeError(f"{engine} on {model.name}: {done.stderr[-400:]}")
    lines = done.stdout.splitlines()
    return lines[lines.index("ready") + 1:], int(counts[-1])


def measure(arguments, engine, model, shape):
    """Instructions of a run, and outputs."""
    (_, outputs), once = answers(arguments, engine, model, shape, ["run 1", "out 1000000"])
    _, twice = answers(arguments, engine, model, shape, ["run 2", "out 1000000"])
    runs = int(np.clip(WORTH / max(twice - once, 1), 1, MOST))
    if runs > 1:
        _, many = answers(arguments, engine, model, shape, [f"run {1 + runs}", "out 1000000"])
        twice = once + (many - once) / runs
    return twice - once, np.array(outputs.split(), float)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="models, made where they are missing")
    parser.add_argument("--arm", type=pathlib.Path, required=True, help="Python and peers for ARM, the plugin")
    parser.add_argument("--python", default="3.11")
    parser.add_argument("--cpu", default="cortex-a76", help="as qemu calls it (that of a Raspberry Pi 5)")
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument("models", nargs="*", default=CHOSEN)
    arguments = parser.parse_args()
    arguments.arm, arguments.folder = arguments.arm.resolve(), arguments.folder.resolve()
    engines = [*arguments.peers, "svdo"]
    print(f"Thousands of instructions of a batch, {arguments.cpu}, one thread\n")
    print("| | " + " | ".join(engines) + " | least of the peers over svdo |")
    print("|---" * (len(engines) + 2) + "|")
    for name in arguments.models:
        model = arguments.folder / f"{name}.onnx"
        if not model.with_suffix(".shape").exists():
            shape = (MODELS | SWEEP)[name](model)
            model.with_suffix(".shape").write_text(",".join(map(str, shape)))
        # The file has the shape of a sample.
        shape = name.rsplit("-b", 1)[1] + "," + model.with_suffix(".shape").read_text().strip()
        if not model.with_suffix(".f32").exists():
            dims = [int(d) for d in shape.split(",")]
            np.random.default_rng(7).standard_normal(dims).astype(np.float32).tofile(model.with_suffix(".f32"))
        if "mnn" in arguments.peers and not model.with_suffix(".mnn").exists():
            convert = pathlib.Path(sys.executable).parent / "mnnconvert"
            subprocess.run([convert, "-f", "ONNX", "--modelFile", model, "--MNNModel", model.with_suffix(".mnn"),
                            "--bizCode", "x"], check=True, stdout=subprocess.DEVNULL)
        counts, cells, reference = {}, [], None
        for engine in engines:
            try:
                counts[engine], outputs = measure(arguments, engine, model, shape)
            except RuntimeError as failed:
                print(failed, file=sys.stderr)
                cells.append("-")
                continue
            reference = outputs if reference is None else reference
            error = np.abs(outputs - reference).max() / np.abs(reference).max()
            cells.append(f"{counts[engine] / 1e3:,.0f}" + (f" (off by {error:.0e})" if error > 2e-3 else ""))
        peers = [counts[peer] for peer in arguments.peers if peer in counts]
        ratio = f"{min(peers) / counts['svdo']:.2f}" if peers and "svdo" in counts else "-"
        print(f"| {name} | " + " | ".join(cells) + f" | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
