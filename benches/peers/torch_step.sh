#!/bin/sh
# Step times beside PyTorch eager, interleaved: torch_step.sh [ROUNDS]. Installs torch into
# target/torch-venv unless PYTHON names an interpreter that has it.
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-5}
if [ -z "${PYTHON:-}" ]; then
    PYTHON=target/torch-venv/bin/python
    [ -x "$PYTHON" ] || { python3 -m venv target/torch-venv && "$PYTHON" -m pip install -q torch numpy; }
fi
bench=$(cargo bench --bench train_step --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"train_step".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
echo "recipe threads round ours_ms torch_ms ratio"
for recipe in lenet-300-100 lenet-5-caffe; do
    for threads in 1 2; do
        for round in $(seq "$rounds"); do
            ours=$("$bench" "$recipe" "$threads" 30)
            torch=$("$PYTHON" benches/peers/torch_step.py "$recipe" "$threads" 30)
            echo "$recipe $threads $round $ours $torch $(echo "$ours $torch" | awk '{printf "%.3f", $1/$2}')"
        done
    done
done
