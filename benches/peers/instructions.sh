#!/bin/sh
# Instructions that a run takes on ARM (NEON), beside ONNX Runtime, OpenVINO and MNN, counted by qemu:
#
#     instructions.sh [--cpu NAME] [--peers NAME ...] [-- MODEL ...]
#
# Prints a Markdown table, the same on every machine and whatever else that does. Instructions are no time: a core takes
# two to four of them at once and waits for memory. Wants Debian 12 or one like it, with
#
#     apt-get install qemu-user gcc gcc-aarch64-linux-gnu
#     dpkg --add-architecture arm64 && apt-get update
#     rustup target add aarch64-unknown-linux-gnu
#
# and inference.sh run once, whose models and converter it takes from PEERS (default target/inference-peers); Python and
# the peers for ARM come to ARM (default target/arm-peers).
set -eu
cd "$(dirname "$0")/../.."
peers=${PEERS:-target/inference-peers}
arm=${ARM:-target/arm-peers}
python=3.11
[ -x "$peers/venv/bin/python" ] || { echo "run benches/peers/inference.sh first" >&2; exit 2; }
mkdir -p "$arm/root" "$arm/packages" "$arm/wheels" "$arm/site"
if [ ! -e "$arm/root/usr/bin/python$python" ]; then
    (cd "$arm/packages" && for package in python$python python$python-minimal libpython$python-minimal \
        libpython$python-stdlib libc6 libexpat1 zlib1g libstdc++6 libgcc-s1 libffi8 libbz2-1.0 liblzma5 libssl3 \
        libuuid1 libgomp1 libcrypt1; do apt-get download -qq "$package:arm64"; done)
    for package in "$arm"/packages/*.deb; do dpkg -x "$package" "$arm/root"; done
    # What libraries look up to know the CPU; qemu would show the one that it runs on.
    cpu=$arm/root/sys/devices/system/cpu
    mkdir -p "$arm/root/proc" "$cpu/cpu0/regs/identification" "$cpu/cpu0/topology"
    printf '%s\t: %s\n' processor 0 BogoMIPS 108.00 Features 'fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp' \
        'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x4 'CPU part' 0xd0b 'CPU revision' 1 >"$arm/root/proc/cpuinfo"
    for list in possible present online; do echo 0 >"$cpu/$list"; done
    echo 0x00000000414fd0b1 >"$cpu/cpu0/regs/identification/midr_el1"
    echo 0 >"$cpu/cpu0/topology/physical_package_id"
fi
if [ ! -d "$arm/site/onnxruntime" ]; then
    "$peers/venv/bin/pip" download -q --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 --python-version $python -d "$arm/wheels" onnxruntime numpy MNN openvino \
        openvino-telemetry flatbuffers packaging protobuf
    for wheel in "$arm"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$arm/site"; done
fi
gcc -O2 -shared -fPIC -o "$arm/count.so" benches/peers/count_instructions.c
CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    cargo build -q --release --target aarch64-unknown-linux-gnu --example bench_worker
exec "$peers/venv/bin/python" benches/peers/instructions.py --folder "$peers/models" --arm "$arm" --python $python "$@"
