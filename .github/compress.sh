#!/usr/bin/env bash
# The work of action.yml: compress, report, compare, gate. Its inputs are environment variables.
set -euo pipefail
bin=${RUNNER_TEMP:?}/svdo/bin
read -r -a more <<<"${ARGUMENTS:-}"
gate=()
[ -z "${MAX_GROWTH:-}" ] || gate=(--max-growth "$MAX_GROWTH")
if [ -n "${MAX_GROWTH:-}" ] && [ -z "${BASELINE:-}" ]; then
    echo "::error title=svdo::max-growth needs a baseline to grow from" && exit 2
fi

code=0
new=$(mktemp "$RUNNER_TEMP/report.XXXXXX")
"$bin/svdo-compress" "$CHECKPOINT" -o "$OUTPUT" --json "$new" --github "${more[@]}" || code=$?
if [ -s "$new" ]; then
    field() { sed -n "s/^  \"$1\": \([0-9.]*\),$/\1/p" "$new"; }
    { echo "size-ratio=$(field size_ratio)"; echo "file-bytes=$(field file_bytes)"; } >>"${GITHUB_OUTPUT:-/dev/null}"
    if [ -n "${BASELINE:-}" ]; then
        grown=0
        "$bin/svdo" diff "$BASELINE" "$new" --github "${gate[@]}" || grown=$?
        [ "$code" -ne 0 ] || code=$grown
    fi
    mv "$new" "$REPORT"
fi
exit "$code"
