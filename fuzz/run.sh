#!/usr/bin/env bash
# Builds the targets and fuzzes all of them, or those named, for some minutes in all.
#
#     fuzz/run.sh MINUTES [TARGET...]
#
# SANITIZER is address, unless it is set to none or cannot be had, which is said. Other settings are those
# of campaign.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
minutes=$1
shift
PROGRAM=$("$here/build.sh" "${SANITIZER:-address}" --features train) || {
    [ $? -eq 3 ] || exit 2
    PROGRAM=$("$here/build.sh" none --features train)
}
export PROGRAM
exec "$here/campaign.sh" "$minutes" \
    "${JOBS:-$(nproc)}" "${OUT:-$here/found}" "$@"
