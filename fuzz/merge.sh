#!/usr/bin/env bash
# Adds to the corpora what a campaign has found to reach more code: as few and as small inputs as reach as much,
# none of more than 2 KiB. What is there stays, as much of it was once a finding.
#
#     fuzz/merge.sh PROGRAM OUT [TARGET...]
#
# PROGRAM is that of build.sh, OUT the folder of campaign.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$1 out=$2
shift 2
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(ls "$here/corpus"); fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in "${targets[@]}"; do
    mkdir "$work/$target"
    find "$out/corpus/$target" -type f -size -2049c -exec cp -t "$work/$target" {} +
    SVDO_FUZZ_TARGET=$target "$program" -set_cover_merge=1 -use_counters=0 -detect_leaks=0 "$here/corpus/$target" \
        "$work/$target" > "$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
    printf '%-14s %5d inputs %8d bytes\n' "$target" "$(find "$here/corpus/$target" -type f | wc -l)" \
        "$(cat "$here/corpus/$target"/* | wc -c)"
done
