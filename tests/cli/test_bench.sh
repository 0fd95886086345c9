#!/bin/bash
# `jambatune bench --quick` on a tiny model, with and without --ops: the shape of what it prints, not the numbers.
#
#     tests/cli/test_bench.sh build/jambatune          # from the repository's root
set -u
. tests/support/checks.sh
program=$1
model=random:tests/fixtures/models/moe_gqa_untied/config.json
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

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

# One step of a given size.
check 'bench --tokens --document ends well' \
    "$program" bench base_model=$model --quick --tokens 100 --document 30 --json >"$scratch/json"
check 'whole documents' test "$(lines '^    "(tokens|documents)": (90|3),$')" = 2
check 'and no other step' test "$(lines '"us_per_token"')" = 0
check 'the policy asked for' grep -q '"recompute": "layer"' <(
    "$program" bench base_model=$model --quick --tokens 64 --json gradient_checkpointing=layer)

# Ops alone: every op of the contract, with its shape, time, floor and ratio.
check 'bench --ops ends well' \
    "$program" bench --ops base_model=$model --quick --tokens 48 --document 20 --json >"$scratch/json"
if command -v python3 >/dev/null; then
    check 'it is JSON' python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$scratch/json"
fi
n_op=0
for op in $(sed -n 's/^    X(\([a-z0-9_]*\), [a-z0-9_]*) .*$/\1/p; s/^    X(\(adamw\),.*/\1/p' kernels/ops.h); do
    check "op $op" test "$(lines "^      \"op\": \"$op\",\$")" -ge 1
    n_op=$((n_op + 1))
done
check 'all ops were looked for' test "$n_op" -ge 37
n_row=$(lines '^      "op": ')
for key in shape calls recomputed update us gb_per_second gflops floor_us bound ratio published_us; do
    check "each row's $key" test "$(lines "^      \"$key\": ")" = "$n_row"
done
check 'every op takes time and has a floor' test "$(lines '^      "(us|floor_us|ratio)": (-|0\.0,|null)')" = 0
check 'products of the forward, of dx, of the adapter' test \
    "$(grep -E '^      "shape": "48 x 64 x 16 nt \+=",|"48 x 16 x 64 nn",|"16 x 8 x 48 tn \+= real",' -c "$scratch/json")" = 3
check 'norms with and without residual' test "$(lines '^      "shape": "48 x 16( \+ residual)?",$')" -ge 2
check 'documents' test "$(lines '^      "shape": "48 x 4/2 x 4, documents of (20|48)",$')" = 4
check 'two totals' test "$(lines '^      "gemm_ms": [0-9.e-]+,$')" = 2
for key in copy_gb_per_second to_device_gb_per_second to_host_gb_per_second peak_gflops; do
    check "the ceiling $key" test "$(lines "^    \"$key\": [1-9][0-9.]*,?\$")" = 1
done
"$program" bench --ops base_model=$model --quick --only scan --tokens 16 >"$scratch/text" 2>"$scratch/err"
check '--only: exit code' test $? = 0
check '--only leaves the scan and the yardsticks' test \
    "$(grep -cE '^  (scan_[a-z]+|copy|to_device|to_host) ' "$scratch/text")" = "$(grep -cE '^  [a-z_0-9]+ .* (bytes|flops) ' "$scratch/text")"
check 'nothing on stderr with --ops' test ! -s "$scratch/err"

refused() { # NAME CODE MESSAGE ARGUMENT...
    local name=$1 code=$2 message=$3
    shift 3
    "$program" bench base_model=$model "$@" 2>"$scratch/err" >"$scratch/out"
    check "$name: exit code" test $? = "$code"
    check "$name: message" grep -qF -- "$message" "$scratch/err"
    check "$name: nothing printed" test ! -s "$scratch/out"
}
refused 'an op that is not there' 64 "--only: no op's name holds 'scam'" --ops --only scam
refused '--only without --ops' 64 '--only goes with --ops' --only scan
refused 'no tokens' 64 "--tokens: '0' is out of range" --tokens 0
refused 'tokens that are no number' 64 "--document: 'x' is no whole number" --ops --document x
refused 'an unknown option' 64 "unknown option '--op'" --op
refused '--tune with others' 64 '--tune takes no other option' --tune "$scratch/tuned" --ops
refused '--tune on the CPU' 78 '--tune is for a GPU' --tune "$scratch/tuned"
check 'and no file' test ! -e "$scratch/tuned"

# More than there may be is left out, not tried.
"$program" bench --ops base_model=$model --quick --only swiglu --tokens 16384 memory_budget=9MiB >"$scratch/text" 2>"$scratch/err"
check 'with little memory: exit code' test $? = 0
check 'with little memory: the rest is named' grep -qE '^  swiglu_backward +655360 +[0-9 ]+$' "$scratch/text"
refused 'with none' 71 'bytes are needed to measure what the machine can do' --ops --quick memory_budget=1MiB

# The same on a device, where the kernels' emulation was built.
emulated=$(cd "$(dirname "$program")" && pwd)/libjambatune_cuda_emulated.so
on_device() {
    JAMBATUNE_CUDA_MODULE=$emulated "$program" bench base_model=$model device=cuda "$@"
}
if [ -f "$emulated" ]; then
    check 'ops on a device' on_device --ops --quick --tokens 24 --document 10 --json >"$scratch/json"
    check 'each in its time' test "$(lines '^      "op": ')" -ge 100
    check 'activations in bfloat16' test "$(lines '^  "activations": "BF16",$')" = 1
    check 'casts between the two' test "$(lines '^      "shape": "384 (BF16 to F32|F32 to BF16)",$')" = 2
    check 'steps on a device' on_device --quick --tokens 64 --document 32 --json >"$scratch/json"
    check 'with the memory in use' test "$(lines '^    "(open_bytes|used_bytes|used_of_plan)": [0-9.]+,?$')" = 3
    check 'and what the step spent' test "$(lines '^      "op": "(gemm|scan_backward|cast)",$')" = 3
    on_device --tune "$scratch/tuned" sequence_len=32 2>"$scratch/err"
    check 'the tuner is reached' grep -q 'no GEMMs to tune' "$scratch/err"
fi

"$program" bench 2>"$scratch/err" >"$scratch/out"
check 'a model is needed: exit code' test $? = 64
check 'a model is needed: message' grep -q "^jambatune: command line: 'base_model' is missing" "$scratch/err"
if "$program" env | grep -qE '^real +float$'; then # in double everything runs on the CPU
    refused 'no GPU here' 78 'device: cuda cannot be used: CUDA is switched off (JAMBATUNE_CUDA_MODULE=none); use cpu or auto' \
        device=cuda
fi

end
