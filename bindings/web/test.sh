#!/usr/bin/env bash
# Builds the package svdo-web and the page, and tests both: the package in Node beside svdo-infer, the page and HTML
# reports in headless Chromium. With --kernels also the library's tests of vectors and kernels under WASI, which takes
# minutes to build. What cannot be had here is skipped with a word; screenshots stay in target/web/screenshots.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
out=$CARGO_TARGET_DIR/web
programs=${SVDO_PROGRAMS:-$CARGO_TARGET_DIR/release}
[ -x "$programs/svdo-infer" ] || cargo build --locked --release --quiet --bin svdo-compress --bin svdo-infer
command -v node >/dev/null || { echo "SKIPPED: no node, svdo-web is not tested" >&2; exit 0; }
SVDO_COMPRESS=$programs/svdo-compress bindings/web/build.sh "$out" || exit $(($? == 3 ? 0 : 1))

cargo test --locked --quiet -p svdo-web
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Sixty-four images.
node -e 'const fs = require("fs"), [from, to] = process.argv.slice(1);
    const pixels = require("zlib").gunzipSync(fs.readFileSync(from)).subarray(16, 16 + 784 * 64);
    fs.writeFileSync(to, new Uint8Array(Float32Array.from(pixels).buffer))' \
    fixtures/t10k-images-idx3-ubyte.gz "$work/x.f32"
"$programs/svdo-compress" fixtures/lenet300_mnist.safetensors -o "$work/lenet300.svdo" >/dev/null
for model in "$out/lenet5.svdo" "$work/lenet300.svdo"; do
    "$programs/svdo-infer" "$model" --input "$work/x.f32" --output "$work/y.json" >/dev/null
    predictions=
    if [ "$model" = "$out/lenet5.svdo" ]; then
        predictions=$work/p.json
        "$programs/svdo-infer" "$model" --input "$work/x.f32" --uncertainty moments --json "$predictions" >/dev/null
    fi
    node bindings/web/test.mjs "$out/svdo-web" "$model" "$work/x.f32" "$work/y.json" $predictions
done

if [ "${1:-}" != --kernels ]; then
    echo "the kernels are tested by the package's outputs; --kernels tests each under WASI"
elif rustup target add wasm32-wasip1 >/dev/null 2>&1; then
    export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS=-Ctarget-feature=+simd128
    export CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $PWD/bindings/web/wasi.mjs"
    features=infer,uncertainty,data,winograd
    wasi() { cargo test --locked --quiet --profile cross --target wasm32-wasip1 --no-default-features --features $features "$@" 2>&1 |
        sed -n '/^running/,$p'; }
    wasi --lib -- simd128
    # There are no threads to share with.
    wasi --test edge -- kernels:: --skip threads
else
    echo "SKIPPED: no wasm32-wasip1, the kernels are tested by the package's outputs alone" >&2
fi

browser=$(command -v "${CHROMIUM:-chromium}" || command -v google-chrome || true)
modules=${SVDO_NODE_MODULES:-$out/node}
if [ -n "$browser" ] && ! [ -d "$modules/node_modules/playwright-core" ]; then
    npm install --silent --prefix "$modules" playwright-core >/dev/null 2>&1 || true
fi
if [ -z "$browser" ] || ! [ -d "$modules/node_modules/playwright-core" ]; then
    echo "SKIPPED: no Chromium or no playwright-core (npm), the page is not tested" >&2
    exit 0
fi
mkdir -p "$out/screenshots"
CHROMIUM=$browser SVDO_NODE_MODULES=$modules
export CHROMIUM SVDO_NODE_MODULES
"$programs/svdo-compress" fixtures/lenet5_mnist.safetensors --sweep 1:3:1 --time --html "$work/compressed.html" \
    --validate fixtures/t10k-images-idx3-ubyte.gz --labels fixtures/t10k-labels-idx1-ubyte.gz \
    -o "$work/lenet5.svdo" >/dev/null
"$programs/svdo-infer" "$out/lenet5.svdo" --input fixtures/t10k-images-idx3-ubyte.gz \
    --labels fixtures/t10k-labels-idx1-ubyte.gz --uncertainty moments --html "$work/uncertain.html" >/dev/null
mkdir "$work/mnist"
for kind in images-idx3-ubyte labels-idx1-ubyte; do
    ln -s "$PWD/fixtures/t10k-$kind.gz" "$work/mnist/train-$kind.gz"
done
[ ! -x "$programs/svdo-train" ] || "$programs/svdo-train" --recipe lenet-300-100 --data "$work/mnist" --epochs 4 --validation 10% \
    --html "$work/training.html" -o "$work/trained.safetensors" >/dev/null
node web/reports.mjs "$out/screenshots" "$work"/*.html
node web/test.mjs "$out/svdo.html" "$work/lenet300.svdo" "$out/screenshots"
