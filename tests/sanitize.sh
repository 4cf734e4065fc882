#!/usr/bin/env bash
# Runs the tests of engine, trainer, container and entropy coding under address sanitizer, which any
# toolchain brings; then those of the container and of the portable kernels under Miri where it is installed
# (nightly only), else under Valgrind.
#
#     tests/sanitize.sh
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
# An allocation that is refused is one that a test tries.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/sanitize} ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1

# Flags that are not stable, from any toolchain.
sanitized=(env RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --locked --target "$target")
"${sanitized[@]}" --lib -- simd:: engine:: train:: entropy:: container::
"${sanitized[@]}" --test edge

if cargo +nightly miri --version > /dev/null 2>&1; then
    SVDO_CPU=portable cargo +nightly miri test --no-default-features --features data --lib -- \
        container:: entropy:: simd::
elif command -v valgrind > /dev/null; then
    echo "Miri is not installed (rustup component add miri --toolchain nightly): Valgrind instead"
    program=$(cargo test --locked --no-default-features --features compress --lib --no-run 2>&1 |
        sed -n 's/.*Executable.*(\(.*\))$/\1/p')
    SVDO_CPU=portable PROPTEST_CASES=8 valgrind --error-exitcode=9 -q "$program" --test-threads 1 \
        container:: entropy:: simd::
else
    echo "skipped: neither Miri nor Valgrind is installed"
fi
