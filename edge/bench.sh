#!/usr/bin/env bash
# What a device takes for networks, and beside it ONNX Runtime where that is installed.
#
#     edge/bench.sh [MODEL.svdo...]        SVDO_INFER names the program, ROUNDS how often all of it is run
#
# On a Raspberry Pi: copy this script, an svdo-infer of its CPU (a release's, or of `cargo edge --target
# aarch64-unknown-linux-musl`) and .svdo files. For a peer, `svdo export MODEL.svdo -o MODEL.onnx` on a workstation,
# copy that beside the .svdo file, and `pip install onnxruntime` on the device. Prints the machine and a
# table: bytes of the file, milliseconds to load it, then microseconds for a sample, alone and of sixteen, on
# one thread and on all; for the peer the same on one thread, and how many times ours that is. All take turns, the
# best of the rounds counts: set the governor to `performance` if there is one, and say which board it was.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
infer=${SVDO_INFER:-$root/target/edge/svdo-infer}
[ -x "$infer" ] || infer=$(command -v svdo-infer) || { echo "no svdo-infer: name one by SVDO_INFER" >&2; exit 2; }
[ $# -gt 0 ] || set -- "$root"/fixtures/lenet300_mnist.svdo "$root"/fixtures/lenet5_mnist.svdo \
    "$root"/experiments/cifar-10/*/*.svdo
rounds=${ROUNDS:-3}
cores=$(nproc)
times=$(mktemp)
trap 'rm -f "$times"' EXIT

board=$(tr -d '\0' 2>/dev/null </proc/device-tree/model || true)
cpu=$(grep -m1 -E '^(model name|Hardware)' /proc/cpuinfo | cut -d: -f2- || true)
governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null || true)
echo "$(uname -m), $cores cores:${board:+ $board,}${cpu:- unnamed}${governor:+, governor $governor}"
"$infer" -V | head -3
peer=
if python3 -c 'import numpy, onnxruntime' 2>/dev/null; then
    peer=$(python3 -c 'import onnxruntime; print(onnxruntime.__version__)')
    echo "ONNX Runtime $peer"
fi

# Microseconds for a sample, by ONNX Runtime on one thread: model, samples of a batch.
by_peer() {
    python3 - "$1" "$2" <<'PYTHON'
import sys, time
import numpy as np, onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
first, batch = session.get_inputs()[0], int(sys.argv[2])
fixed = isinstance(first.shape[0], int)
if fixed and first.shape[0] != batch:
    sys.exit()
x = np.random.default_rng(1).random([batch, *first.shape[1:]], dtype=np.float32)
times, end = [], time.perf_counter() + 0.6
while len(times) < 10 or time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, {first.name: x})
    times.append(time.perf_counter() - start)
print(np.median(times[3:]) / batch * 1e6)
PYTHON
}

for ((round = 0; round < rounds; round++)); do
    for model in "$@"; do
        for threads in 1 "$cores"; do
            json=$("$infer" "$model" --bench -b 1,16 --threads "$threads" --json -)
            awk -v model="$model" -v threads="$threads" '
                match($0, /"load_ms": [0-9.e-]+/) { print model, "load", substr($0, RSTART + 11, RLENGTH - 11) }
                match($0, /"batch": [0-9]+/) {
                    batch = substr($0, RSTART + 9, RLENGTH - 9)
                    match($0, /"median": [0-9.e-]+/)
                    print model, threads "/" batch, substr($0, RSTART + 10, RLENGTH - 10) / batch
                }' <<<"$json" >>"$times"
        done
        onnx=${model%.svdo}.onnx
        [ -n "$peer" ] && [ -e "$onnx" ] || continue
        for batch in 1 16; do
            found=$(by_peer "$onnx" "$batch")
            [ -z "$found" ] || echo "$model peer/$batch $found" >>"$times"
        done
    done
done

best() { awk -v model="$1" -v what="$2" '$1 == model && $2 == what && (!n++ || $3 < least) { least = $3 }
    END { if (n) printf "%.4g", least; else printf "-" }' "$times"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a == "-" || b == "-") print "-"; else printf "%.2f\n", a / b }'; }
printf '%s\n' "model|bytes|load ms|1 sample|of 16|1 sample, $cores threads|of 16, $cores threads|peer, 1 sample|over ours|peer, of 16|over ours" | tr '|' '\t'
for model in "$@"; do
    one=$(best "$model" 1/1) many=$(best "$model" 1/16) peer_one=$(best "$model" peer/1) peer_many=$(best "$model" peer/16)
    printf '%s\t' "$(basename "$model")" "$(wc -c <"$model")" "$(best "$model" load)" "$one" "$many" \
        "$(best "$model" "$cores/1")" "$(best "$model" "$cores/16")" "$peer_one" "$(ratio "$peer_one" "$one")" "$peer_many"
    ratio "$peer_many" "$many"
done
