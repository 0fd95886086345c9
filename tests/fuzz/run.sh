#!/usr/bin/env bash
# Builds every harness with clang's libFuzzer, AddressSanitizer and UBSan, and runs each.
#
#     tests/fuzz/run.sh [SECONDS [FORMAT...]]      60 seconds each, all formats
#
# The corpus starts from tests/fixtures/fuzz/<format>/ and is kept in $FUZZ_WORK (a temporary folder
# when that is not set), so that a long soak can be continued. An input that breaks a promise, takes
# more than 2 seconds or 256 MiB at a time is a finding: it is left in $FUZZ_WORK/findings/, named,
# and the script ends with 1. Put it into tests/fixtures/fuzz/<format>/ with the fix.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
shift || true
work=${FUZZ_WORK:-$(mktemp -d "${TMPDIR:-/tmp}/jambatune-fuzz.XXXXXX")}
build=$work/build
mkdir -p "$work/findings" "$work/logs"
folder=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" fuzz.XXXXXX)
trap 'rm -rf "$folder"' EXIT

formats=("$@")
if [ ${#formats[@]} -eq 0 ]; then
    for source in tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        formats+=("${name#fuzz_}")
    done
fi
cmake -G Ninja -S . -B "$build" -DWITH_CUDA=OFF -DSANITIZE=ON -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_C_COMPILER=clang -DCMAKE_C_FLAGS=-fsanitize=fuzzer-no-link -DFUZZER=ON >"$work/logs/cmake"
cmake --build "$build" -j "${JOBS:-1}" --target "${formats[@]/#/fuzz_}" >"$work/logs/build" ||
    { tail -40 "$work/logs/build"; exit 1; }

failed=0
printf '%-12s %12s %8s %8s %7s  %s\n' format executions exec/s edges corpus result
for format in "${formats[@]}"; do
    corpus=$work/corpus/$format
    log=$work/logs/$format
    mkdir -p "$corpus"
    dictionary=()
    [ -f "tests/fuzz/$format.dict" ] && dictionary=("-dict=tests/fuzz/$format.dict")
    # 3 seconds: libFuzzer counts whole ones, and the sanitizers cost more than one of them.
    result=ok
    TMPDIR=$folder nice -n 19 "$build/fuzz_$format" -max_total_time="$seconds" -timeout=3 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$work/findings/$format-" "${dictionary[@]}" \
        "$corpus" "tests/fixtures/fuzz/$format" >"$log" 2>&1 </dev/null || { result=FINDING; failed=1; }
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    printf '%-12s %12s %8s %8s %7s  %s\n' "$format" "${executions:-?}" "${rate:-?}" "${edges:-?}" \
        "$(find "$corpus" -type f | wc -l)" "$result"
    rm -rf "${folder:?}"/*
done
if [ "$failed" -ne 0 ]; then
    echo "findings in $work/findings, what they broke in $work/logs"
fi
exit "$failed"
