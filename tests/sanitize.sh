#!/usr/bin/env bash
# Runs the tests of engine, trainer, container and entropy coding under address sanitizer, and those of
# the container and of the portable kernels under Miri where it is installed; needs a nightly toolchain.
#
#     tests/sanitize.sh
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc +nightly -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/sanitize} ASAN_OPTIONS=detect_leaks=0

RUSTFLAGS=-Zsanitizer=address cargo +nightly test --locked --target "$target" --lib -- \
    simd:: engine:: train:: entropy:: container::
RUSTFLAGS=-Zsanitizer=address cargo +nightly test --locked --target "$target" --test edge

if cargo +nightly miri --version > /dev/null 2>&1; then
    SVDO_CPU=portable cargo +nightly miri test --no-default-features --features infer --lib -- \
        container:: entropy:: simd::
else
    echo "skipped: Miri is not installed (rustup component add miri --toolchain nightly)"
fi
