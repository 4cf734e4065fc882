#!/bin/sh
# Inference beside ONNX Runtime, OpenVINO and MNN, interleaved on the same cores:
#
#     inference.sh [--core N] [--threads N ...] [--rounds N] [MODEL ...]
#
# Prints a Markdown table. Installs the peers and makes the models in PEERS (default
# target/inference-peers); all of them are freely licensed (MIT, Apache-2.0). Without MODEL, all that
# inference_models.py knows.
set -eu
cd "$(dirname "$0")/../.."
peers=${PEERS:-target/inference-peers}
mkdir -p "$peers/models"
if [ ! -x "$peers/venv/bin/python" ]; then
    python3 -m venv "$peers/venv"
    "$peers/venv/bin/pip" install -q onnxruntime openvino MNN onnx numpy
fi
cargo build -q --release --example bench_worker
cargo build -q --release --bin svdo --bin svdo-compress
exec "$peers/venv/bin/python" benches/peers/inference.py --folder "$peers/models" "$@"
