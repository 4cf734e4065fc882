#!/usr/bin/env bash
# Puts the report that compress.sh left in $SUMMARY under the pull request, in place of an earlier one of the same
# checkpoint. Outside of a pull request it says so.
set -euo pipefail
number=$(sed -n 's,^refs/pull/\([0-9]*\)/.*,\1,p' <<<"${GITHUB_REF:-}")
[ -n "$number" ] || { echo "no pull request, no comment"; exit 0; }
issues=${GITHUB_API_URL:?}/repos/${GITHUB_REPOSITORY:?}/issues
call() { curl -fsS -H "Authorization: Bearer ${TOKEN:-}" -H "Accept: application/vnd.github+json" "$@"; }
python() { python3 -c "$1" "${@:2}"; }

mark="<!-- svdo: $CHECKPOINT -->"
# The platform takes 65,536 characters.
{ echo "$mark"; head -c 60000 "$SUMMARY"; } >"$SUMMARY.body"
python 'import json, sys; print(json.dumps({"body": open(sys.argv[1], encoding="utf-8", errors="ignore").read()}))' \
    "$SUMMARY.body" >"$SUMMARY.json"
earlier=$(call "$issues/$number/comments?per_page=100" | python '
import json, sys
of = [c["id"] for c in json.load(sys.stdin) if c["body"].startswith(sys.argv[1])]
print(of[0] if of else "")' "$mark")
if [ -n "$earlier" ]; then
    call -X PATCH "$issues/comments/$earlier" --data "@$SUMMARY.json" >/dev/null
else
    call -X POST "$issues/$number/comments" --data "@$SUMMARY.json" >/dev/null
fi
