#!/usr/bin/env bash
# Builds the program of all targets with libFuzzer's instrumentation, debug assertions and checks of
# overflow, and prints its path. It needs no more than the C library of the machine where it runs: that of
# C++ is linked statically. A stable toolchain will do: it brings the sanitizer's runtime, too.
#
#     fuzz/build.sh [address|none] [CARGO OPTION...]
#
# Ends with 3 where the sanitizer cannot be had.
set -euo pipefail
cd "$(dirname "$0")"
sanitizer=${1:-address}
shift || true

flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
case $sanitizer in
    address)
        compgen -G "$(rustc --print target-libdir)/librustc-*_rt.asan.a" > /dev/null \
            || { echo "this toolchain has no address sanitizer: SANITIZER=none fuzzes without" >&2; exit 3; }
        flags+=" -Zsanitizer=address"
        ;;
    none) ;;
    *) echo "the sanitizer is address or none, not $sanitizer" >&2; exit 2 ;;
esac
target=x86_64-unknown-linux-gnu
folder=target/$sanitizer
# Alone in a folder, the static library is the one that is found.
mkdir -p "$folder/c++"
cp "$(c++ -print-file-name=libstdc++.a)" "$folder/c++/"
flags+=" -Lnative=$PWD/$folder/c++"
# Flags that are not stable, from any toolchain.
RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags cargo build --locked --release --target $target --target-dir "$folder" "$@" >&2
realpath "$folder/$target/release/svdo-fuzz"
