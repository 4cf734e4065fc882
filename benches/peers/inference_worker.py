"""One engine in a process of its own: inference_worker.py ENGINE MODEL.onnx X.f32 DIMS.

Speaks as examples/bench_worker.rs: says `ready`, then answers `run N` with N wall times and the CPU
time of a call in nanoseconds, `out N` with the first N outputs, until `quit`. The variable OMP_NUM_THREADS
says how many threads share a run."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np

engine, path, x, dims = sys.argv[1:5]
# The model is one of 8 bits then.
engine = engine.removesuffix("-int8")
threads = int(os.environ["OMP_NUM_THREADS"])
dims = [int(d) for d in dims.split(",")]
x = np.fromfile(x, np.float32).reshape(dims)
# What engines print must not reach the reader of the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

if engine == "onnxruntime":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = x.astype(np.int64) if "int64" in session.get_inputs()[0].type else x
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, x)
    binding.bind_output(session.get_outputs()[0].name, "cpu")
    call = lambda: session.run_with_iobinding(binding)
    result = lambda: binding.copy_outputs_to_cpu()[0]
elif engine in ("openvino", "openvino-bf16"):
    import openvino

    precision = "bf16" if engine.endswith("bf16") else "f32"
    model = openvino.Core().compile_model(path, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision})
    x = x.astype(np.int64) if model.input().element_type == openvino.Type.i64 else x
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def call():
        request.start_async()
        request.wait()

    result = lambda: request.get_output_tensor().data
elif engine in ("mnn", "mnn-sparse"):
    import MNN

    converted = pathlib.Path(path).with_suffix(".mnn-sparse" if engine == "mnn-sparse" else ".mnn")
    if not converted.exists():
        command = [pathlib.Path(sys.executable).parent / "mnnconvert", "-f", "ONNX", "--modelFile",
                   path, "--MNNModel", converted, "--bizCode", "x"]
        subprocess.run(command + ["--detectSparseSpeedUp"] * (engine == "mnn-sparse"),
                       check=True, stdout=subprocess.DEVNULL)
    network = MNN.Interpreter(str(converted))
    session = network.createSession({"numThread": threads, "precision": "high", "backend": "CPU"})
    entry, end = network.getSessionInput(session), network.getSessionOutput(session)
    layout = MNN.Tensor_DimensionType_Caffe
    network.resizeTensor(entry, tuple(dims))
    network.resizeSession(session)
    given = MNN.Tensor(tuple(dims), MNN.Halide_Type_Float, x, layout)

    def call():
        entry.copyFrom(given)  # MNN uses its input's memory again
        network.runSession(session)

    def result():
        shape = end.getShape()
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), layout)
        end.copyToHostTensor(host)
        return np.array(host.getData(), np.float32)
else:
    sys.exit(f"no engine {engine}")

for _ in range(3):
    call()
print("ready", file=answers, flush=True)
for line in sys.stdin:
    command, *count = line.split()
    if command == "run":
        times, cpu, clock = [], time.process_time_ns(), time.perf_counter_ns
        for _ in range(int(count[0])):
            start = clock()
            call()
            times.append(clock() - start)
        cpu = (time.process_time_ns() - cpu) // int(count[0])
        print(*times, cpu, file=answers, flush=True)
    elif command == "out":
        call()
        print(*np.asarray(result()).ravel()[:int(count[0])].tolist(), file=answers, flush=True)
    else:
        break
