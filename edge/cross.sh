#!/usr/bin/env bash
# Builds for other CPUs, runs the tests there under emulators, and compares bytes: the compressor's
# file must be the same everywhere, and so must what the decoder reads from it.
#
#     edge/cross.sh [TARGET...]        all of them: aarch64 armv7 s390x static wasm
#
# Everything comes from Debian packages; what is absent is skipped loudly, never silently. The programs
# of this machine are built, or taken from the folder SVDO_PROGRAMS.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
targets=("$@")
[ $# -gt 0 ] || targets=(aarch64 armv7 s390x static wasm)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
skipped=()
skip() { echo "SKIPPED: $*" >&2; skipped+=("$*"); }

bash edge/toolchain.sh "$CARGO_TARGET_DIR/toolchain" || exit $(($? == 3 ? 0 : 2))
native=${SVDO_PROGRAMS:-$CARGO_TARGET_DIR/release}
[ -n "${SVDO_PROGRAMS:-}" ] ||
    cargo build --locked --release --quiet --bin svdo-compress --bin svdo-infer # by the usual compiler
source edge/std.sh

# Installs packages, if it may.
need() {
    local missing=()
    for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1
}

# The files of every way to quantize, from both checkpoints.
compress_all() { # folder, threads, program and runner
    local folder=$1 threads=$2
    shift 2
    mkdir -p "$folder"
    for checkpoint in lenet300 lenet5; do
        for quantize in exact uniform rd; do
            "$@" "fixtures/${checkpoint}_mnist.safetensors" --quantize $quantize --threads "$threads" \
                -o "$folder/$checkpoint-$quantize.svdo" >/dev/null
        done
    done
}

# Tests and compressor of a Linux target under its emulator, and tests of kernels on CPUs that differ in
# instructions.
emulated() { # target, packages' infix, emulator, the linker's name, CPUs
    local target=$1 cpu=$2 emulator=$3 linker=$4-gcc
    if ! need "gcc-$4" "libc6-dev-$cpu-cross" qemu-user; then
        skip "$target: gcc-$4, libc6-dev-$cpu-cross, qemu-user could not be installed"
        return
    fi
    local name=${target^^}
    local runner="$emulator -L /usr/$4"
    export "CARGO_TARGET_${name//-/_}_LINKER=$linker" "CARGO_TARGET_${name//-/_}_RUNNER=$runner"
    SVDO_TEST_RUNNER=$runner cargo_for "$target" test --profile cross --no-default-features --features infer --test edge
    local kernels=infer,uncertainty,data,winograd,int8 model
    for model in "${@:5}"; do
        export "CARGO_TARGET_${name//-/_}_RUNNER=$emulator -cpu $model -L /usr/$4"
        cargo_for "$target" test --profile cross --no-default-features --features $kernels --lib -- simd:: kernels::
    done
    cargo_for "$target" build --profile cross --no-default-features --features cli --bin svdo-compress
    for threads in 1 2; do
        compress_all "$work/$target-$threads" $threads $runner "$CARGO_TARGET_DIR/$target/cross/svdo-compress"
        diff -r "$work/native" "$work/$target-$threads"
    done
    build_edge "$target"
    local program=$CARGO_TARGET_DIR/$target/edge/svdo-infer
    same_outputs $runner "$program"
    echo "$target: tests passed, 12 files are byte for byte those of this machine, svdo-infer $(stat -c %s "$program") bytes"
}

# The decoder reads the same levels everywhere; sums may be rounded differently by other kernels.
same_outputs() { # program and runner
    for model in lenet300-rd lenet5-exact; do
        "$@" "$work/native/$model.svdo" --input "$work/x.f32" -k 1 --threads 2 | cut -d' ' -f1 >"$work/other"
        diff "$work/$model.classes" "$work/other"
    done
}

compress_all "$work/native" 2 "$native/svdo-compress"
head -c $((16 + 784 * 64)) <(gzip -dc fixtures/t10k-images-idx3-ubyte.gz) | tail -c +17 |
    od -An -v -tu1 -w1 | awk '{ print $1 + 0 }' |
    perl -ne 'print pack("f<", $_)' >"$work/x.f32"
for model in lenet300-rd lenet5-exact; do
    SVDO_CPU=portable "$native/svdo-infer" "$work/native/$model.svdo" -i "$work/x.f32" -k 1 |
        cut -d' ' -f1 >"$work/$model.classes"
done

for name in "${targets[@]}"; do
    printf '\n== %s\n' "$name"
    case $name in
    aarch64) emulated aarch64-unknown-linux-gnu arm64 qemu-aarch64 aarch64-linux-gnu max cortex-a53 ;; # with dotprod, and without
    armv7) emulated armv7-unknown-linux-gnueabihf armhf qemu-arm arm-linux-gnueabihf ;;
    s390x) emulated s390x-unknown-linux-gnu s390x qemu-s390x s390x-linux-gnu ;;
    static)
        if need musl-tools; then
            export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=musl-gcc
            target=x86_64-unknown-linux-musl
            # The standard library asks for libunwind, which gcc's library stands in for.
            echo 'INPUT(-lgcc_eh)' >"$work/libunwind.a"
            build_edge $target "-Ctarget-feature=+crt-static -Clink-self-contained=no -Lnative=$work"
        else
            target=x86_64-unknown-linux-gnu # glibc has static libraries, too
            build_edge $target "-Ctarget-feature=+crt-static"
        fi
        program=$CARGO_TARGET_DIR/$target/edge/svdo-infer
        if ldd "$program" >/dev/null 2>&1; then echo "$program is not static" >&2; exit 1; fi
        same_outputs "$program"
        echo "$target: static, $(stat -c %s "$program") bytes"
        ;;
    wasm)
        linker=$(compgen -c wasm-ld | sort -V | tail -1)
        if [ -z "$linker" ] && need lld-22; then linker=wasm-ld-22; fi
        if [ -z "$linker" ] || ! command -v node >/dev/null; then
            skip "wasm32: needs wasm-ld (lld-22) and node"
            continue
        fi
        # The compiler knows the linker's ways by its name.
        ln -sf "$(command -v "$linker")" "$work/wasm-ld"
        export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$work/wasm-ld
        cargo_for wasm32-unknown-unknown build --profile edge -p svdo-c
        library=$CARGO_TARGET_DIR/wasm32-unknown-unknown/edge/svdo_c.wasm
        "$native/svdo-infer" "$work/native/lenet300-rd.svdo" -i "$work/x.f32" -o "$work/y.json"
        node edge/wasm.mjs "$library" "$work/native/lenet300-rd.svdo" "$work/x.f32" >"$work/wasm.json"
        node -e '
            const [a, b] = process.argv.slice(1).map((f) => JSON.parse(require("fs").readFileSync(f)).flat());
            const most = Math.max(...a.map((v, i) => Math.abs(v - b[i])));
            if (a.length !== b.length || !(most < 1e-4)) throw new Error(`outputs differ by ${most}`);
            console.log(`wasm32: ${a.length} outputs within ${most} of those of this machine`);
        ' "$work/y.json" "$work/wasm.json"
        echo "wasm32: svdo_c.wasm $(stat -c %s "$library") bytes"
        ;;
    *) echo "unknown target $name: aarch64 armv7 s390x static wasm" >&2; exit 2 ;;
    esac
done
[ ${#skipped[@]} -eq 0 ] || { echo; printf 'SKIPPED: %s\n' "${skipped[@]}"; } >&2
