#!/bin/sh
# Inference in WebAssembly beside ONNX Runtime Web, in turns in one process of Node, one thread:
#
#     web.sh [ROUNDS]
#
# Prints a Markdown table. Installs the peer (MIT) by npm in PEERS (default target/web-peers).
set -eu
cd "$(dirname "$0")/../.."
peers=${PEERS:-target/web-peers}
programs=${SVDO_PROGRAMS:-}
mkdir -p "$peers"
[ -d "$peers/node_modules/onnxruntime-web" ] || npm install --silent --prefix "$peers" onnxruntime-web >/dev/null
if [ -z "$programs" ]; then
    cargo build -q --release --bin svdo --bin svdo-compress
    programs=${CARGO_TARGET_DIR:-target}/release
fi
export SVDO_COMPRESS="$programs/svdo-compress"
bindings/web/build.sh "$peers/simd" >/dev/null
SVDO_WEB_SCALAR=1 bindings/web/build.sh "$peers/scalar" >/dev/null
for name in lenet300 lenet5; do
    "$programs/svdo-compress" "fixtures/${name}_mnist.safetensors" -o "$peers/$name.svdo" >/dev/null
done
# 4096 x 4096 with 95 % zeros, and a stack of convolutions as VGG's with 90 %, as .npz and description.
node benches/peers/web.mjs models "$peers"
for name in fc4096 conv; do
    "$programs/svdo-compress" "$peers/$name.npz" --network "$peers/$name.json" --layout oi,oihw --quantize f16 \
        -o "$peers/$name.svdo" >/dev/null
done
for name in lenet300 lenet5 fc4096 conv; do
    "$programs/svdo" export "$peers/$name.svdo" -o "$peers/$name.onnx" >/dev/null
done
exec node benches/peers/web.mjs measure "$peers" "${1:-7}"
