#!/usr/bin/env bash
# The tests of this folder with full counts, in pieces, each a row in RESULTS.md; a piece that has its row is passed over,
# so that the soak goes on where it was stopped.
#
#     tests/fault/soak.sh [BUILD]        build: a build of this tree with tests (build)
#     tests/fault/soak.sh --new [BUILD]  begins anew: RESULTS.md is written afresh
#
# About two hours. Ends with `N pieces passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/../.."

results=tests/fault/RESULTS.md
new=false
if [ "${1-}" = --new ]; then
    new=true
    shift
fi
build=${1-build}
fault=$build/tests/fault
program=$build/jambatune
shim=$fault/libfault_shim.so
for file in "$program" "$shim" "$fault"/{jambatune_alloc,fault_{allocations,calls,kills,power,signals}}; do
    if [ ! -e "$file" ]; then
        echo "$file: is not there; build the tree with its tests first: cmake -B $build && cmake --build $build" >&2
        exit 66
    fi
done

if $new || [ ! -e "$results" ]; then
    cat >"$results" <<'HEAD'
# Failing calls, kills, loss of power: what was run

By `tests/fault/soak.sh`, whose pieces these are; `ctest -L fault` runs short counts of the same. A case is one run of the
program with something failing in it (of loss of power: one folder as a disk may be found). *lost*: a checkpoint that was
saved is not found again, or a run cannot go on from it. *corrupt*: other bytes than an undisturbed run's, or a damaged file
accepted. *silent*: a failure that is not told. Wrong exit codes, crashes and hangs would be counted behind these.

| piece | result | seconds | machine | date |
|---|---|---|---|---|
HEAD
fi

machine="$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
passed=0 failed=0

# piece COMMAND ARGUMENT...: of the build's tests/fault; the row's first cell is the command line.
piece() {
    local name="${*}" test=$1 target=$program log line begin code
    shift
    if grep -qF "| \`$name\` |" "$results"; then
        return
    fi
    [ "$test" = fault_allocations ] && target=$fault/jambatune_alloc
    log=$(mktemp)
    begin=$(date +%s)
    "$fault/$test" "$target" "$shim" "$@" >"$log" 2>&1 </dev/null
    code=$?
    line=$(tail -1 "$log" | sed 's/^[^:]*: //')
    if [ "$code" -eq 0 ]; then
        passed=$((passed + 1))
        echo "| \`$name\` | $line | $(($(date +%s) - begin)) | $machine | $(date -u +%F) |" >>"$results"
    else
        failed=$((failed + 1))
        cat "$log"
    fi
    echo "$name: $line"
    rm -f "$log"
}

# 1: kill -9: 10,000 at random, and at every call of five saves.
for seed in 1 2 3 4 5 6 7 8 9 10; do
    piece fault_kills --kills 1000 --steps 0 --saves 0 --seed "$seed"
done
piece fault_kills --kills 1 --steps 64 --saves 5

# 2: loss of power, 100,000 disks.
for seed in 1 2 3 4 5 6 7 8 9 10; do
    piece fault_power --states 10000 --resume-every 97 --seed "$seed"
done

# Signals: 1,000 instants each; 1,000 races for a folder.
for seed in 1 2 3 4 5; do
    piece fault_signals --instants 200 --races 200 --seed "$seed"
done

# 4: every call and every allocation fails, once and for ever.
piece fault_calls --every 1
piece fault_allocations --every 1 # once for each stack of calls, all jobs; then each allocation, job by job
for job in validate 'validate json' preview 'preview json' explain 'explain json' plan 'plan json' eval generate \
    'generate chat' tokenize 'tokenize stdin' detokenize 'inspect base' 'inspect adapter' 'inspect file' lint 'lint json' \
    import 'export peft' 'export gguf' 'export merged' 'export base' status 'status json' 'status sweep' 'status sweep json' report bench 'bench ops' env \
    'env json' train resume sweep; do
    piece fault_allocations --all "$job"
done

echo "$passed pieces passed, $failed failed"
[ "$failed" -eq 0 ]
