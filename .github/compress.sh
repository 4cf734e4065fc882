#!/usr/bin/env bash
# The work of action.yml: compress, report, compare, gate, comment. Its inputs are environment variables.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${RUNNER_TEMP:?}/svdo/bin
# Words with a shell's quotes, on any number of lines; nothing in them is run.
mapfile -t more < <(xargs -n 1 printf '%s\n' <<<"${ARGUMENTS:-}" | sed '/^$/d')
gate=()
[ -z "${MAX_GROWTH:-}" ] || gate=(--max-growth "$MAX_GROWTH")
if [ -n "${MAX_GROWTH:-}" ] && [ -z "${BASELINE:-}" ]; then
    echo "::error title=svdo::max-growth needs a baseline to grow from" && exit 2
fi

code=0
new=$(mktemp "$RUNNER_TEMP/report.XXXXXX")
summary=$(mktemp "$RUNNER_TEMP/summary.XXXXXX")
export SUMMARY=$summary
GITHUB_STEP_SUMMARY=$summary "$bin/svdo-compress" "$CHECKPOINT" -o "$OUTPUT" --json "$new" --github "${more[@]}" || code=$?
if [ -s "$new" ]; then
    field() { sed -n "s/^  \"$1\": \([0-9.]*\),$/\1/p" "$new"; }
    { echo "size-ratio=$(field size_ratio)"; echo "file-bytes=$(field file_bytes)"; } >>"${GITHUB_OUTPUT:-/dev/null}"
    if [ -n "${BASELINE:-}" ]; then
        grown=0
        GITHUB_STEP_SUMMARY=$summary "$bin/svdo" diff "$BASELINE" "$new" --github "${gate[@]}" || grown=$?
        [ "$code" -ne 0 ] || code=$grown
    fi
    mv "$new" "$REPORT"
fi
cat "$summary" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
if [ "${COMMENT:-false}" = true ] && [ -s "$summary" ]; then
    # A fork's token may not write: that fails no build.
    bash "$here/comment.sh" || echo "::warning title=svdo::the report is not commented on the pull request, see above"
fi
exit "$code"
