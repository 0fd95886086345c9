#!/bin/bash
# --json: every command that prints facts has it, says so in its help, and prints one JSON value and nothing else
# on stdout.
#
#     tests/cli/test_json.sh build/jambatune       # from the repository's root
set -u
. tests/support/checks.sh
program=$1
models=tests/fixtures/models
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-json.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
out=$scratch/stdout err=$scratch/stderr recipe=$scratch/train.yaml

is_json() { # CODE ARGUMENT...: the exit code, and one value from the first line to the last
    local expected=$1
    shift
    "$program" "$@" >"$out" 2>"$err" </dev/null
    check "exit code of: $*" same "$expected" $?
    check "one value: $*" same 1 "$(grep -cE '^[][{}]' "$out" | sed 's/^2$/1/')"
    check "from the first line: $*" grep -qE '^[[{]' <(head -n 1 "$out")
    check "to the last line: $*" grep -qE '[]}]$' <(tail -n 1 "$out")
}

has() { # PATTERN...: lines of the last stdout
    local pattern
    for pattern in "$@"; do
        check "'$pattern' in the output" grep -qE -- "$pattern" "$out"
    done
}

cat >"$scratch/data.jsonl" <<'JSONL'
{"input_ids": [1, 5, 6, 7, 2]}
{"input_ids": [1, 8, 9, 2], "labels": [-100, -100, 9, 2]}
{"input_ids": [1, 10, 11, 12, 13, 14, 15, 16, 2]}
JSONL
cat >"$recipe" <<YAML
base_model: $PWD/$models/moe_gqa_untied
datasets: [{path: data.jsonl, type: input_ids}]
sequence_len: 8
num_epochs: 2
output_dir: out
YAML

commands=$("$program" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
n=0
for command in $commands; do
    [ "$command" != tokenize ] || continue # its lines are JSON already
    n=$((n + 1))
    check "help $command names --json" grep -q -- --json <("$program" help "$command")
done
check 'some commands' [ $n -ge 14 ]

is_json 0 validate "$recipe" --json
has '^    "parameters": [0-9]+,$' '^      "set": "data",$' '^      "truncated": 1,$' '^    "steps": 2,$' \
    '^    "total_bytes": [0-9]+,$' '^    "modules": 43,$' '^  "faults": \[\],$' '^  "ok": true$'
is_json 65 validate "$recipe" --json sequence_len=4 excess_length_strategy=raise
has '^    ".*data.jsonl:1: has 5 tokens, more than sequence_len 4; raise it' '^  "ok": false$'
is_json 64 validate "$recipe" --json lora_r=0
has "^    \"command line: lora_r=0: 'lora_r' is '0'; expected a whole number from 1 to 16384\"\$" '^  "ok": false$'
check 'faults are on stderr, too' same "jambatune: command line: lora_r=0: 'lora_r' is '0'; expected a whole number from 1 to 16384" "$(cat "$err")"
is_json 0 validate "$recipe" --json lora_target_modules='[router]'
has '^  "warnings": \[$' '^    "router: '

is_json 0 explain --json
has '^    "key": "save_steps",$' '^    "value": "10m",$' '^    "value": 1e-0?6,$|^    "value": 0.000001,$'
is_json 0 explain --json "$recipe" lora_rank lora_r=4
has '^  "key": "lora_r",$' '^  "value": 4,$' '^  "from": "command line: lora_r=4",$' '^    "lora_rank"$'
is_json 0 explain --json "$recipe" shuffle
has '^  "value": true,$'
is_json 0 explain --json sample_prompts sample_prompts='[a, "b c"]'
has '^    "b c"$'
is_json 0 explain --json use_dora
has '^  "other_trainers": "refused when it is set",$' '^  "why": "DoRA is not supported: remove the key"$'
"$program" explain --json lora_rnk >"$out" 2>"$err"
check 'explain --json: an unknown key' same "64: jambatune: command line: unknown key 'lora_rnk'; did you mean 'lora_r'?" "$?: $(cat "$out" "$err")"
"$program" explain --json --yaml >"$out" 2>"$err"
check 'explain --json --yaml' same "64: jambatune: command line: --json does not go with --yaml; keep one" "$?: $(cat "$out" "$err")"

is_json 0 plan "$recipe" --json
has '^  "trained_parameters": 13664$'
is_json 71 plan "$recipe" --json memory_budget=1KiB
is_json 0 preview "$recipe" --json
is_json 0 inspect $models/moe_gqa_untied --json
is_json 0 lint $models/moe_gqa_untied/adapter --json
is_json 0 env --json
is_json 0 bench "$recipe" --json --quick
is_json 0 eval "$recipe" --json --data "$scratch/data.jsonl"
has '^  "eval_loss": [0-9.]+,$'
is_json 0 import $models/moe_gqa_untied/adapter "$scratch/imported" --json
is_json 0 export "$scratch/imported" --to peft "$scratch/exported" --json
is_json 0 train "$recipe" --json
has '^  "step": 2,$' '^  "stopped_early": false,$' '^  "resumed_from": null$'
run=$scratch/unprinted
"$program" train "$recipe" --json output_dir="$run" >/dev/full 2>"$err"
check 'train --json: a full disk is no failure of the run' same \
    "0 jambatune: warning: stdout: writing failed: No space left on device; $run/metrics.jsonl has what was to be printed" \
    "$? $(tail -n 1 "$err")"
"$program" train "$recipe" --json output_dir="$run" --overwrite >&- 2>"$err"
check 'train --json: a closed stdout is none' same \
    "0 jambatune: warning: stdout: writing failed: Bad file descriptor; $run/metrics.jsonl has what was to be printed" \
    "$? $(tail -n 1 "$err")"
"$program" eval "$recipe" --json --data "$scratch/data.jsonl" >/dev/full 2>"$err"
check 'eval --json: what it makes is lost' same "74 jambatune: stdout: writing failed: No space left on device" "$? $(tail -n 1 "$err")"
is_json 0 train "$recipe" --json --each lora_r=2,4
has '^      "status": "finished",$'
is_json 0 status "$scratch/out" --json
is_json 0 report "$scratch/out" --json

end
