#!/usr/bin/env bash
# Makes the npm package svdo-web and the page of web/, in OUT (target/web if it is not given):
# OUT/svdo-web, ready for `npm publish`, and OUT/svdo.html, one file that needs nothing else.
#
#     bindings/web/build.sh [OUT]
#
# Exits with 3, saying so, where the compiler has no WebAssembly. SVDO_WEB_SCALAR=1 builds without vector
# instructions, to compare.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
out=${1:-$CARGO_TARGET_DIR/web}
target=wasm32-unknown-unknown
if ! [ -d "$(rustc --print target-libdir --target $target)" ]; then
    rustup target add $target >/dev/null 2>&1 || { echo "SKIPPED: no $target (rustup target add $target)" >&2; exit 3; }
fi

features=+simd128
[ -z "${SVDO_WEB_SCALAR:-}" ] || features=-simd128
env "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS=-Ctarget-feature=$features" \
    cargo build --locked --quiet --profile edge -p svdo-web --target $target

rm -rf "$out/svdo-web"
mkdir -p "$out/svdo-web"
version=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"name":"svdo-web","version":"([^"]*)".*/\1/')
cp bindings/web/{svdo.js,svdo.d.ts,README.md} LICENSE-* "$out/svdo-web"
cp "$CARGO_TARGET_DIR/$target/edge/svdo_web.wasm" "$out/svdo-web/svdo.wasm"
sed "s/\"0\.0\.0\"/\"$version\"/" bindings/web/package.json >"$out/svdo-web/package.json"
# With variances, by the finest of a few steps that makes less than 6,000 bytes; 0.62 % errors on training images, as many
# as before it was quantized.
compress=${SVDO_COMPRESS:-$CARGO_TARGET_DIR/release/svdo-compress}
[ -x "$compress" ] || { cargo build --locked --release --quiet --bin svdo-compress; compress=$CARGO_TARGET_DIR/release/svdo-compress; }
"$compress" fixtures/lenet5_mnist.safetensors --thresh 2 --step 0.5 --variances -o "$out/lenet5.svdo" >/dev/null
python3 web/inline.py "$out/svdo-web" "$out/lenet5.svdo" "$out/svdo.html"
ls -l "$out/svdo-web/svdo.wasm" "$out/lenet5.svdo" "$out/svdo.html"
