#!/bin/bash
# `jambatune bench --quick` on a tiny model: the shape of what it prints, not the numbers.
#
#     tests/cli/test_bench.sh build/jambatune          # from the repository's root
set -u
program=$1
model=random:tests/fixtures/models/moe_gqa_untied/config.json
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0

check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
}

lines() { # PATTERN: how many lines of the JSON match
    grep -cE -- "$1" "$scratch/json"
}

check 'bench --json ends well' "$program" bench base_model=$model --quick --json >"$scratch/json"
# The JSON is indented by two: members of the whole, of the step, and of each list's objects.
for key in kernels threads precision peak_gflops base_model parameters trained_parameters; do
    check "one $key" test "$(lines "^  \"$key\": [^{[]+,$")" = 1
done
for key in tokens documents pass_tokens chunk_tokens recompute memory_bytes runs seconds \
    tokens_per_second gemm_share gemm_gflops gemm_of_peak; do
    check "the step's $key" test "$(lines "^    \"$key\": (\"[a-z]+\"|[0-9.]+),?$")" = 1
done
for list in ops gemms tokens documents experts; do
    check "a list of $list" test "$(lines "^  \"$list\": \[$")" = 1
done
check 'some ops' test "$(lines '^      "op": "')" -gt 15
check 'gemm is one of them' test "$(lines '^      "op": "gemm",$')" = 1
check 'some GEMMs' test "$(lines '^      "form": "(nn|nt|tn)",$')" -gt 16
check 'each with its rate' test "$(lines '^      "gflops": [0-9.]+,$')" = "$(lines '^      "form": ')"
check '4 tokens + 4 documents + 5 experts' test "$(lines '^      "us_per_token": [0-9.]+$')" = 13
for experts in 1 2 4 8 16; do
    check "a step with $experts experts" test "$(lines "^      \"experts\": $experts,$")" -ge 1
done
check 'a step of one long document' test "$(lines '^      "documents": 1,$')" -ge 2
check 'no number is negative or missing' test "$(lines ': (-|null)')" = 0
check 'nothing on stderr' test -z "$("$program" bench base_model=$model --quick 2>&1 >"$scratch/text")"
check 'the same for people' grep -qE '^peak_gflops +[0-9.]+$' "$scratch/text"
check 'the table of GEMMs is cut' test "$(grep -cE '^  (nn|nt|tn) ' "$scratch/text")" = 16

"$program" bench 2>"$scratch/err" >"$scratch/out"
check 'a model is needed: exit code' test $? = 64
check 'a model is needed: message' grep -q "^jambatune: command line: 'base_model' is missing" "$scratch/err"
"$program" bench base_model=$model device=cuda 2>"$scratch/err" >"$scratch/out"
check 'no GPU here' test "$(cat "$scratch/err")" = \
    'jambatune: device: cuda cannot be measured; use device: cpu or auto'
check 'and nothing printed' test ! -s "$scratch/out"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
