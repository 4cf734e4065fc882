#!/usr/bin/env bash
# Fuzzes for some minutes of wall time in all, JOBS targets at once, and prints a table; every target in
# turn unless some are named. Needs nothing but the program of build.sh and the corpora, which lie beside
# this script or where PROGRAM and CORPUS say. Ends with 1 if anything was found, which is then in
# OUT/found; logs are in OUT/logs, grown corpora in OUT/corpus.
#
#     fuzz/campaign.sh MINUTES JOBS OUT [TARGET...]
#
# RSS is the most memory of a process in MB, TIMEOUT the most seconds of an input.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
minutes=$1 jobs=$2 out=$3
shift 3
program=${PROGRAM:-$here/svdo-fuzz} corpus=${CORPUS:-$here/corpus}
rss=${RSS:-2560} timeout=${TIMEOUT:-25}
[ -x "$program" ] || { echo "$program is no program: run build.sh, or set PROGRAM" >&2; exit 2; }
# The folders of the corpora are the targets.
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(ls "$corpus"); fi
mkdir -p "$out/logs" "$out/found" "$out/corpus"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)/svdo-campaign-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export SVDO_FUZZ_SCRATCH=$scratch

# Entropic schedules take longer than the targets where an input covers much.
# One process after the other on a target until the time is over: each ends at its first finding.
fuzz() {
    local target=$1 number=$2 seconds=$3 begun=$SECONDS left tries=0
    local log=$out/logs/$target.$number.log
    while left=$((seconds - (SECONDS - begun))); [ $left -gt 0 ] && [ $tries -lt 40 ]; do
        tries=$((tries + 1))
        echo "== run $tries" >> "$log"
        SVDO_FUZZ_TARGET=$target timeout -k 5 $((left + 2 * timeout)) "$program" "$out/corpus/$target" \
            -max_total_time=$left -rss_limit_mb="$rss" -malloc_limit_mb="$rss" -timeout="$timeout" \
            -artifact_prefix="$out/found/$target-" -entropic=0 -print_final_stats=1 -detect_leaks=0 >> "$log" 2>&1
        local status=$?
        # 0: the time is over.
        [ $status -eq 0 ] && break
        echo "== ended with $status" >> "$log"
        [ $status -eq 2 ] && break
    done
    echo "== seconds $((SECONDS - begun))" >> "$log"
}

rm -f "$out"/logs/*.log
copies=$((jobs / ${#targets[@]}))
[ $copies -ge 1 ] || copies=1
waves=$(((${#targets[@]} * copies + jobs - 1) / jobs))
# Somewhat more processes than cores share them best.
[ $waves -gt 2 ] || { waves=1 jobs=$((${#targets[@]} * copies)); }
seconds=$((minutes * 60 / waves))
[ $seconds -ge 1 ] || seconds=1
running=0
for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target"
    cp -n "$corpus/$target"/* "$out/corpus/$target/" 2> /dev/null
    for number in $(seq $copies); do
        [ $running -lt $jobs ] || { wait -n; running=$((running - 1)); }
        fuzz "$target" "$number" $seconds &
        running=$((running + 1))
    done
done
wait

printf '%-14s %14s %9s %8s %9s %7s %8s\n' target executions exec/s edges features corpus findings
total=0 findings=0
for target in "${targets[@]}"; do
    found=$(find "$out/found" -name "$target-*" | wc -l)
    line=$(cat "$out/logs/$target".*.log | awk '
        function add() { sum += most; most = 0 }
        /^== run/ { add() }
        /^#[0-9]+/ { n = substr($1, 2) + 0; if (n > most) most = n }
        /^stat::number_of_executed_units/ { if ($2 > most) most = $2 }
        { for (i = 1; i < NF; i++) {
            if ($i == "cov:" && $(i + 1) > cov) cov = $(i + 1)
            if ($i == "ft:" && $(i + 1) > ft) ft = $(i + 1) } }
        /^== seconds/ { s += $3 }
        END { add(); printf "%d %d %d %d", sum, s ? sum / s : sum, cov, ft }')
    read -r count rate edges features <<< "$line"
    printf '%-14s %14d %9d %8d %9d %7d %8d\n' "$target" "$count" "$rate" "$edges" "$features" \
        "$(find "$out/corpus/$target" -type f | wc -l)" "$found"
    total=$((total + count)) findings=$((findings + found))
    # A target that did nothing is a finding, too.
    [ "$count" -gt 0 ] || { echo "$target did not run, see $out/logs/$target.1.log"; findings=$((findings + 1)); }
done
printf '%-14s %14d %43s %8d\n' total $total '' $findings
[ $findings -eq 0 ]
