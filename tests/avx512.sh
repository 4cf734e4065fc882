#!/usr/bin/env bash
# Runs the tests of kernels and trainer on a processor with AVX-512: this machine's, or an emulated
# one (Bochs, with Debian's kernel), which takes some minutes.
#
#     tests/avx512.sh [--emulated]
#
# Debian packages are installed or fetched where they are absent; needs root for that.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
work=$CARGO_TARGET_DIR/avx512
mkdir -p "$work"

kernels=(kernels::linear kernels::convolutions kernels::an_instruction_set)
library=(simd engine::kernels train::tests::posterior_update train::noise train::optimizer
    train::tests::gradients::f32 train::tests::runs::threads)

if [ "${1:-}" != --emulated ] && grep -qw avx512f /proc/cpuinfo; then
    cargo test --locked --test edge -- "${kernels[@]}"
    exec cargo test --locked --lib -- "${library[@]}"
fi

for package in bochs bochsbios vgabios isolinux syslinux-common xorriso cpio busybox-static; do
    dpkg -s $package >/dev/null 2>&1 || missing="${missing:-} $package"
done
# shellcheck disable=SC2086 # words
[ -z "${missing:-}" ] || apt-get install -y -qq --no-install-recommends $missing >/dev/null
if [ ! -f "$work/vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -1)
    (cd "$work" && apt-get download -qq "$package" && dpkg -x "$package"_*.deb kernel)
    mv "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
    rm -r "$work"/kernel "$work"/*.deb
fi

# The tests and the libraries that they need, to a file system in memory.
root=$work/root
rm -rf "$root"
mkdir -p "$root"/{bin,proc,dev,tmp,fixtures}
tests() { # arguments of cargo test
    cargo test --locked --profile cross --no-run --message-format json "$@" 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}
cp "$(tests --test edge)" "$root/bin/edge"
cp "$(tests --lib)" "$root/bin/library"
cp "$(command -v busybox)" "$root/bin/"
for library_file in $(ldd "$root/bin/edge" "$root/bin/library" | grep -o '/[^ :]*\.so[^ ]*' | sort -u); do
    cp -L --parents "$library_file" "$root"
done
cat >"$root/init" <<END
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
export RUST_BACKTRACE=1 TMPDIR=/tmp
/bin/busybox grep -c avx512f /proc/cpuinfo
/bin/edge --test-threads 1 ${kernels[*]} && /bin/library --test-threads 1 ${library[*]} && echo ALL PASSED
/bin/busybox sleep 2 # until the last line is out
/bin/busybox poweroff -f
END
chmod +x "$root/init"
mkdir -p "$work/disc/isolinux"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/disc/initrd.gz"
cp "$work/vmlinuz" "$work/disc/"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disc/isolinux/"
# Bochs lays out compacted states otherwise than the kernel expects: without XSAVEC and XSAVES (321, 323)
# it uses the standard layout.
cat >"$work/disc/isolinux/isolinux.cfg" <<'END'
DEFAULT linux
LABEL linux
 KERNEL /vmlinuz
 INITRD /initrd.gz
 APPEND console=ttyS0 quiet mitigations=off panic=1 noapic tsc=reliable clearcpuid=321,323
END
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table "$work/disc" 2>/dev/null
cat >"$work/bochsrc" <<END
display_library: rfb, options="timeout=0"
megs: 1024
cpu: model=corei7_skylake_x, ips=50000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="$work/boot.iso", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
log: $work/bochs.log
END
echo continue >"$work/commands"
rm -f "$work/serial.txt"
# Its window would be seen over VNC, by nobody.
timeout "${SVDO_EMULATION_S:-3000}" bochs -q -f "$work/bochsrc" -rc "$work/commands" \
    </dev/null >"$work/bochs.out" 2>&1 || true
tr -d '\r' <"$work/serial.txt" | grep -E '^test |test result|panicked|PASSED' || true
grep -q 'ALL PASSED' "$work/serial.txt" || { echo "failed: see $work/serial.txt" >&2; exit 1; }
