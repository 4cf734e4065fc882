#!/usr/bin/env bash
# Makes what a release consists of, in OUT (target/dist if it is not given), and tries each of it in an empty
# folder: an archive of the programs for every target, of the C library, the wheel, the crate, the package for
# browsers and its page, a list of all dependencies with their licences (SPDX), release notes, checksums.
#
#     release/build.sh [OUT] [TARGET...]
#
# The target is this machine's if none is named. Programs for another CPU run under qemu, where there is one. Those
# for x86_64-unknown-linux-musl (rustup target add, and musl-gcc) are static, and come without the C library.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
out=${1:-$CARGO_TARGET_DIR/dist}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
[ $# -gt 0 ] || set -- "$host"
version=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"name":"svdo","version":"([^"]*)".*/\1/')
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -n "$(ls -A "$out")" ] && [ ! -e "$out/notes.md" ]; then
    echo "$out is not empty, and no release: name another folder" >&2
    exit 2
fi
rm -f "$out"/*
# First, since a folder that has it is a release.
python3 release/notes.py "$version" >"$out/notes.md"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

archive() { # folder in $work: the same bytes for the same files
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" -cf - "$1" |
        gzip -n9 >"$out/$1.tar.gz"
}

for target; do
    linker=${target%%-*}-linux-gnu-gcc runner= static=
    # musl-gcc compiles for it, but would link what no kernel loads: a program that asks for musl's own loader.
    case $target in *-musl) static=1 ;; esac
    if [ "$target" = "$host" ]; then
        cargo build --locked --release --bins
        cargo build --locked --release -p svdo-c
        built=$CARGO_TARGET_DIR/release
    else
        variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
        ! command -v "$linker" >/dev/null || export "$variable=$linker"
        cargo build --locked --release --bins --target "$target"
        [ -n "$static" ] || cargo build --locked --release -p svdo-c --target "$target"
        built=$CARGO_TARGET_DIR/$target/release
        runner="qemu-${target%%-*} -L /usr/${target%%-*}-linux-gnu"
        if [ "${target%%-*}" = "${host%%-*}" ]; then runner=
        elif ! command -v "${runner%% *}" >/dev/null; then runner=none; fi
    fi
    strip=strip
    [ "${target%%-*}" = "${host%%-*}" ] || strip=${target%%-*}-linux-gnu-strip
    command -v "$strip" >/dev/null || strip=true

    name=svdo-$version-$target
    mkdir -p "$work/$name"
    cp "$built"/svdo{,-compress,-infer,-train} README.md CHANGELOG.md LICENSE-* "$work/$name"
    "$strip" "$work/$name"/svdo{,-compress,-infer,-train}
    archive "$name"
    python3 release/binstall.py "$out" "$target"
    if [ -n "$static" ]; then
        if readelf -lW "$built/svdo" | grep -q INTERP; then echo "$built/svdo is not static" >&2; exit 1; fi
    else
        bindings/c/install.sh "$built" "$work/svdo-c-$version-$target"
        archive "svdo-c-$version-$target"
    fi

    # In an empty folder: the demo, and a checkpoint of this repository.
    empty=$work/empty
    mkdir "$empty"
    tar -xzf "$out/$name.tar.gz" -C "$empty" --strip-components 1
    if [ "$runner" = none ]; then
        echo "$name: not run, there is no ${target%%-*} here and no qemu" >&2
    else
        (cd "$empty" && $runner ./svdo --version && $runner ./svdo demo | tail -3)
    fi
    rm -rf "$empty"
done

# Where maturin is, or can be had.
if python3 -m venv "$work/venv" && "$work/venv/bin/pip" install -q 'maturin>=1.9.4,<2' numpy; then
    (cd bindings/python && "$work/venv/bin/maturin" build --release --locked --quiet --out "$out")
    "$work/venv/bin/pip" install -q --no-deps "$out"/*.whl
    cp fixtures/lenet300_mnist.safetensors "$work"
    (cd "$work" && venv/bin/python -c '
import numpy, svdo
report = svdo.compress("lenet300_mnist.safetensors", output="lenet300.svdo")
print("wheel:", report.size_ratio, svdo.load("lenet300.svdo")(numpy.zeros((1, 1, 28, 28), "f4")).shape)')
else
    echo "no maturin: no wheel" >&2
fi

# Where the compiler has WebAssembly.
if bindings/web/build.sh "$work/web" >/dev/null; then
    (cd "$work/web" && tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" \
        --transform 's,^svdo-web,package,' -cf - svdo-web | gzip -n9 >"$out/svdo-web-$version.tgz")
    cp "$work/web/svdo.html" "$out/svdo-$version.html"
fi

cargo package --locked --allow-dirty --no-verify --quiet
cp "$CARGO_TARGET_DIR/package/svdo-$version.crate" "$out"
python3 release/spdx.py >"$out/svdo-$version.spdx.json"
(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" SHA256SUMS)

# The action, as a workflow would run it, with the archive at hand.
if [[ " $* " == *" $host "* ]]; then
    mkdir "$work/runner"
    begun=$SECONDS
    export RUNNER_TEMP=$work/runner GITHUB_OUTPUT=$work/outputs GITHUB_STEP_SUMMARY=$work/summary.md
    SVDO_RELEASES=file://$out SVDO_VERSION=$version bash .github/install.sh
    CHECKPOINT=fixtures/lenet5_mnist.safetensors OUTPUT=$work/model.svdo REPORT=$work/report.json \
        ARGUMENTS='--assert-ratio 40' bash .github/compress.sh >/dev/null
    grep -q '^size-ratio=' "$work/outputs" && grep -q 'conv1' "$work/summary.md"
    echo "the action: $((SECONDS - begun)) s"
    python3 .github/test.py "$work/runner/svdo/bin"
fi
ls -l "$out"
