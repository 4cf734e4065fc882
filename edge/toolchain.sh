#!/usr/bin/env bash
# Rust for other CPUs from Debian packages alone: a compiler, its standard library for some CPUs, and
# the library's source for all others, unpacked into a folder and not installed.
#
#     edge/toolchain.sh [FOLDER]        FOLDER is target/toolchain
#
# Leaves FOLDER/rustc, a compiler to be given to cargo in RUSTC. Exits with 3, and says what is
# missing, where the packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/toolchain}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ -x "$folder/rustc" ] && exit 0

absent() { echo "SKIPPED: $*" >&2; exit 3; }
command -v apt-get >/dev/null || absent "no apt-get: the compiler for other CPUs comes from Debian packages"
host=$(dpkg --print-architecture)
[ "$host" = amd64 ] || absent "the packages are looked for on amd64 only, this is $host"

# Package lists and downloads in the folder; one state for each CPU, as lists of one may be out of
# order on a mirror while those of the others are not.
apt_for() {
    local state=$folder/apt-$1 sources=/etc/apt/sources.list.d/debian.sources
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    {
        echo "Dir::State::lists \"$state/lists\"; Dir::Cache \"$state\"; Dir::Cache::archives \"$state/archives\";"
        echo "APT::Architectures { \"$host\"; \"$1\"; }; Acquire::Languages \"none\"; APT::Sandbox::User \"root\";"
        if [ -e "$sources" ]; then
            echo "Dir::Etc::sourcelist \"$sources\"; Dir::Etc::sourceparts \"-\";"
        fi
    } >"$state/apt.conf"
    export APT_CONFIG=$state/apt.conf
    apt-get update -qq >"$state/log" 2>&1
}
fetch() { (cd "$folder/debs" && apt-get download -qq "$@" >/dev/null); }
named() { apt-cache show --no-all-versions "$1" | grep -oE "$2" | head -1; }

mkdir -p "$folder/debs"
apt_for "$host" || true # other lists than Debian's may fail
apt-cache show rustc-web >/dev/null 2>&1 || absent "no package rustc-web: needs Debian 12 with its security updates"
std=$(named libstd-rust-web-dev 'libstd-rust-web-[0-9.]+')
fetch rustc-web "$std" "$(named "$std" 'libllvm[0-9]+')" libstd-rust-web-dev rust-web-src
for cpu in arm64 armhf; do
    if apt_for "$cpu" && fetch "libstd-rust-web-dev:$cpu"; then continue; fi
    echo "no standard library for $cpu in the packages (lists out of order?): it will be built from source" >&2
done
for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/root"; done
find "$folder"/root/usr/src/*/ -mindepth 1 -maxdepth 1 ! -name library -exec rm -rf {} +
rm -rf "$folder"/debs "$folder"/apt-*
# Not sh: dash drops variables like CARGO_BIN_EXE_svdo-infer.
cat >"$folder/rustc" <<EOF
#!/usr/bin/env bash
LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu exec $folder/root/usr/bin/rustc --sysroot $folder/root/usr "\$@"
EOF
chmod +x "$folder/rustc"
"$folder/rustc" --version
