#!/usr/bin/env bash
# What trust costs; Markdown on standard output.
#
#     tests/bench/checkpoint.sh [FOLDER]        BUILD=build by default; FOLDER: on the disk to measure, 5 GB free
#
# Saving every 10 steps against not saving, and self_check_steps: 4 against none, on the quick start's model, in pairs one
# after the other; and how long a checkpoint of 131 M values holds a step up. Leave the machine alone while it runs.
set -euo pipefail
folder=$(mktemp -d "${1:-/tmp}/checkpoint-bench.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
cmake --build "$build" --target jambatune bench_saver -j "$(nproc)" >/dev/null
steps=150
rounds=7

# Seconds of a whole run.
wall() {
    local from to
    rm -rf "$folder/out"
    from=$(date +%s.%N)
    "$build/jambatune" train recipes/quickstart/quickstart.yaml val_set_size=0 test_datasets=null eval_steps=0 \
        max_steps=$steps output_dir="$folder/out" "$@" 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
    to=$(date +%s.%N)
    awk -v a="$from" -v b="$to" 'BEGIN { print b - a }'
}
# Of all rounds the fastest: what else the machine does only adds.
fastest() { sort -g | head -n 1; }

for _ in $(seq $rounds); do
    wall save_steps=0 >>"$folder/none"
    wall save_steps=10 >>"$folder/every10"
    wall save_steps=0 self_check_steps=4 >>"$folder/checked"
done
none=$(fastest <"$folder/none")
every=$(fastest <"$folder/every10")
checked=$(fastest <"$folder/checked")
echo "$(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(date +%F), \`tests/bench/checkpoint.sh\`"
echo
echo "| what | seconds, fastest of $rounds | more |"
echo "|---|---|---|"
echo "| the quick start's model, $steps steps, no checkpoints | $none | |"
awk -v a="$none" -v b="$every" 'BEGIN { printf "| the same, save_steps: 10 | %s | %.1f %% |\n", b, 100 * (b / a - 1) }'
awk -v a="$none" -v b="$checked" 'BEGIN { printf "| the same, self_check_steps: 4 (a quarter of the passes twice) | %s | %.1f %% |\n", b, 100 * (b / a - 1) }'
echo
"$build/bench_saver" "$folder"
