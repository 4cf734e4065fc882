#!/usr/bin/env bash
# Builds the C interface, checks include/svdo.h against its symbols, and runs test.c against the
# static and the shared library. Without a C compiler it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/../.."

cc=${CC:-cc}
command -v "$cc" >/dev/null || { echo "SKIPPED: no C compiler ($cc), the C interface is not tested" >&2; exit 0; }
profile=${PROFILE:-release}
cargo build --locked --quiet --profile "$profile" -p svdo-c
built=${CARGO_TARGET_DIR:-target}/$profile
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

declared=$(grep -oE '\bsvdo_[a-z0-9_]+\(' include/svdo.h | tr -d '(' | sort -u)
defined=$(nm -D --defined-only "$built/libsvdo_c.so" | awk '$2 == "T" && $3 ~ /^svdo_/ {print $3}' | sort)
diff <(echo "$declared") <(echo "$defined") || { echo "include/svdo.h and libsvdo_c.so differ" >&2; exit 1; }

# The example of the format's specification.
hex=$(sed -n '/^## Example/,$p' formats/svdo-v1.md | sed -nE 's/^    (([0-9a-f]{2} ?)+)  .*/\1/p' | tr -d ' \n')
printf "$(sed 's/../\\x&/g' <<<"$hex")" >"$work/example.svdo"

# The same with names of its classes; its checksum as gzip has it.
hex=5356444f011e010301010000803f00000100${hex:34:8}${hex:42:4}0180080a646f776e0a757000${hex:52:12}
{
    printf "$(sed 's/../\\x&/g' <<<"$hex")"
    printf "$(sed 's/../\\x&/g' <<<"$hex")" | gzip -c | tail -c 8 | head -c 4
} >"$work/named.svdo"

# And a file with variances and ranges of activations, from the compressor, if it has been built.
compress=${SVDO_COMPRESS:-$built/svdo-compress}
posterior=()
if [ -x "$compress" ]; then
    posterior=("$work/posterior.svdo")
    "$compress" fixtures/lenet300_mnist.safetensors --variances \
        --int8 fixtures/t10k-images-idx3-ubyte.gz -o "${posterior[0]}" >/dev/null
else
    echo "no $compress: predictions with variances are not tested" >&2
fi

flags=(-std=c99 -D_POSIX_C_SOURCE=200809L -O1 -Wall -Wextra -Wpedantic -Werror -Iinclude)
system=(-lm -lpthread -ldl)
"$cc" "${flags[@]}" bindings/c/test.c "$built/libsvdo_c.a" "${system[@]}" -o "$work/static"
"$work/static" "$work/example.svdo" "$work/named.svdo" fixtures/golden/{lengths,stream}.svdo "${posterior[@]}"
# The shared one as it is installed, moved, and found by pkg-config.
bindings/c/install.sh "$built" "$work/there"
mv "$work/there" "$work/prefix"
readelf -d "$work/prefix/lib/libsvdo_c.so" | grep -q 'SONAME.*\[libsvdo_c.so.0\]' || { echo "no SONAME" >&2; exit 1; }
libs=(-L"$work/prefix/lib" -lsvdo_c)
if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig
    read -r -a libs <<<"$(pkg-config --cflags --libs svdo)"
fi
"$cc" "${flags[@]}" bindings/c/test.c "${libs[@]}" "${system[@]}" -Wl,-rpath,"$work/prefix/lib" -o "$work/shared"
"$work/shared" "$work/example.svdo" "$work/named.svdo" fixtures/golden/{lengths,stream}.svdo "${posterior[@]}"
if command -v "${CXX:-c++}" >/dev/null; then
    echo '#include "svdo.h"' | "${CXX:-c++}" -x c++ -Wall -Wextra -Werror -Iinclude -fsyntax-only -
fi
