#!/usr/bin/env bash
# Builds svdo-infer for the device, prints its size, dependencies and figures, and fails if it is too
# large or takes too much memory.
#
#     edge/build.sh
#
# The small build compiles the standard library from source, for size and without the code that
# prints backtraces: with rust-src of a nightly toolchain, or what edge/toolchain.sh unpacks. Where
# neither is there it is skipped loudly, and `cargo edge` is held to the looser bound.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
# What there is, so that no change adds to it unseen; the aim of the first is 400000.
small_limit=710000 # bytes, with the standard library from source
plain_limit=1223000 # bytes, with the prebuilt one, a third of which is its code to print backtraces
uncertain_limit=1622000 # bytes, as the second, with the feature uncertainty
host=x86_64-unknown-linux-gnu
model=$CARGO_TARGET_DIR/edge/lenet300.svdo
failed=0

echo "dependencies:"
cargo tree --locked --no-default-features --features infer --edges normal,no-proc-macro --prefix depth

cargo edge --quiet
plain=$CARGO_TARGET_DIR/edge/svdo-infer
small=
if bash edge/toolchain.sh "$CARGO_TARGET_DIR/toolchain"; then
    source edge/std.sh
    build_edge "$host"
    small=$CARGO_TARGET_DIR/$host/edge/svdo-infer
fi

# With predictions under the posterior: all kernels of means and variances beside those of means.
cargo edge --quiet --features uncertainty --target-dir "$CARGO_TARGET_DIR/uncertain"
uncertain=$CARGO_TARGET_DIR/uncertain/edge/svdo-infer

at_most() { # name, found, limit
    if awk "BEGIN { exit !($2 <= $3) }"; then verdict=passed; else verdict=FAILED failed=1; fi
    printf '%-44s %12s  at most %-9s %s\n' "$1" "$2" "$3" "$verdict"
}
at_most "bytes of svdo-infer (cargo edge)" "$(stat -c %s "$plain")" $plain_limit
at_most "the same with --uncertainty" "$(stat -c %s "$uncertain")" $uncertain_limit
[ -z "$small" ] || at_most "bytes of svdo-infer (std from source)" "$(stat -c %s "$small")" $small_limit

# The figures need a model: from the compressor, if it has been built.
compress=${SVDO_COMPRESS:-$CARGO_TARGET_DIR/release/svdo-compress}
if [ -x "$compress" ]; then
    for coding in fast small; do
        # The smallest file is coded position by position, at some 10 ns each. Times are printed, not
        # bounded.
        [ $coding = fast ] && options=--fast || options=
        "$compress" fixtures/lenet300_mnist.safetensors $options -o "$model" >/dev/null
        for program in "$plain" ${small:+"$small"}; do
            echo "$program on lenet300.svdo, coded to be $coding ($(stat -c %s "$model") bytes):"
            # The best of twenty starts: what the program takes, less what else the machine does.
            field() { grep -oE "\"$1\": [0-9.e-]+" <<<"$json" | head -1 | cut -d' ' -f2; }
            best=$(for _ in {1..20}; do
                json=$("$program" "$model" --bench -b 1 --warmup-ms 0 --min-ms 0 --json -)
                load=$(field load_ms) first=$(field first_inference)
                echo "$(awk "BEGIN { print $load + $first / 1000 }") $load $first $(field peak_rss_kib)"
            done | sort -g | head -1)
            read -r both load first rss <<<"$best"
            echo "  load $load ms, first inference $first us"
            echo "  together $both ms"
            at_most "  KiB of memory at the peak" "$rss" 4096
        done
    done
else
    echo "SKIPPED: load time and memory: no $compress to make a model with (cargo build --release)" >&2
fi
exit $failed
