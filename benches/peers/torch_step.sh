#!/bin/sh
# Step times beside PyTorch, interleaved: torch_step.sh [ROUNDS [RECIPE...]], recipes as RECIPE or RECIPE:WIDTH.
# THREADS="1 2" says on how many threads, COMPILE=1 adds torch.compile beside eager. Installs torch into
# target/torch-venv unless PYTHON names an interpreter that has it.
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-5}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- lenet-300-100 lenet-5-caffe mlp-4096 vgg-like:0.25
if [ -z "${PYTHON:-}" ]; then
    PYTHON=target/torch-venv/bin/python
    [ -x "$PYTHON" ] || { python3 -m venv target/torch-venv && "$PYTHON" -m pip install -q torch numpy; }
fi
bench=$(cargo bench --bench train_step --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"train_step".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
peer() {
    "$PYTHON" benches/peers/torch_step.py "$@"
}
echo "recipe threads round ours_ms eager_ms ratio compiled_ms ratio"
for recipe in "$@"; do
    name=${recipe%%:*}
    width=${recipe#"$name"}
    width=${width#:}
    steps=30
    case $name in vgg-like | mlp-4096) steps=10 ;; esac
    for threads in ${THREADS:-1 2}; do
        for round in $(seq "$rounds"); do
            set -- "$name" "$threads" "$steps" "${width:-1}"
            ours=$("$bench" "$@")
            eager=$(COMPILE='' peer "$@")
            compiled=-
            [ -z "${COMPILE:-}" ] || compiled=$(COMPILE=1 peer "$@")
            echo "$ours $eager $compiled" | awk -v row="$recipe $threads $round" '{
                printf "%s %s %s %.3f %s", row, $1, $2, $1 / $2, $3
                if ($3 != "-") printf " %.3f", $1 / $3
                print ""
            }'
        done
    done
done
