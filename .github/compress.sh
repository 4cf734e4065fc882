#!/usr/bin/env bash
# The work of action.yml: compress, report, compare, gate. Its inputs are environment variables.
set -euo pipefail
bin=${RUNNER_TEMP:?}/svdo/bin
read -r -a more <<<"${ARGUMENTS:-}"
[ -z "${BASELINE:-}" ] || more+=(--baseline "$BASELINE")

code=0
new=$(mktemp "$RUNNER_TEMP/report.XXXXXX")
"$bin/svdo-compress" "$CHECKPOINT" -o "$OUTPUT" --json "$new" --github "${more[@]}" || code=$?
if [ -s "$new" ]; then
    field() { sed -n "s/^  \"$1\": \([0-9.]*\),$/\1/p" "$new"; }
    { echo "size-ratio=$(field size_ratio)"; echo "file-bytes=$(field file_bytes)"; } >>"${GITHUB_OUTPUT:-/dev/null}"
    if [ "$code" -eq 0 ] && [ -n "${BASELINE:-}" ] && [ -n "${MAX_GROWTH:-}" ]; then
        "$bin/svdo" diff "$BASELINE" "$new" --max-growth "$MAX_GROWTH" || code=$?
        [ "$code" -eq 0 ] || echo "::error title=svdo gate failed::the file grew by more than $MAX_GROWTH"
    fi
    mv "$new" "$REPORT"
fi
exit "$code"
