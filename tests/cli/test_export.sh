#!/bin/bash
# export, import and lint as a user meets them: what is written where, exit codes, exact messages.
#
#     tests/cli/test_export.sh build/jambatune         # from the repository's root
set -u
. tests/support/checks.sh
program=$1
models=tests/fixtures/models
moe=$models/moe_gqa_untied dense=$models/dense_mqa_tied
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-export.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
out=$scratch/stdout err=$scratch/stderr

run() { # ARGUMENT...: sets $code, fills $out and $err
    "$program" "$@" >"$out" 2>"$err" </dev/null
    code=$?
}

refuses() { # CODE MESSAGE ARGUMENT...: prints nothing on stdout
    local expected=$1 message=$2
    shift 2
    run "$@"
    check "exit code of: $*" same "$expected" "$code"
    check "message of: $*" same "$message" "$(cat "$err")"
    check "stdout of: $*" same "" "$(cat "$out")"
}

says() { # TEXT ARGUMENT...: exit code 0, exactly this on stderr and nothing on stdout
    local expected=$1
    shift
    run "$@"
    check "exit code of: $*" same 0 "$code"
    check "stderr of: $*" same "$expected" "$(cat "$err")"
    check "stdout of: $*" same "" "$(cat "$out")"
}

shows() { # PATTERN...: lines of the last stdout
    local pattern
    for pattern in "$@"; do
        check "'$pattern' in the output" grep -qE -- "$pattern" "$out"
    done
}

# An adapter of our own: every default target of the MoE model, ranks by pattern, trained a little.
cat >"$scratch/data.jsonl" <<'JSONL'
{"input_ids": [1, 5, 6, 7, 2, 9, 14, 3, 8]}
{"input_ids": [1, 8, 9, 2, 30, 31, 32, 33]}
JSONL
cat >"$scratch/train.yaml" <<YAML
base_model: $PWD/$moe
datasets: [{path: data.jsonl, type: input_ids}]
lora_r: 4
rank_pattern: {x_proj: 2, "experts.1.up_proj": 3}
learning_rate: 1e-2
max_steps: 4
logging_steps: 100
output_dir: adapter
YAML
run train "$scratch/train.yaml"
check 'train' same 0 "$code"
check 'train ends with a line for each engine' same "PEFT on transformers 4  takes effect
PEFT on transformers 5  refused: experts of layer 1, 3 (\`jambatune export --to peft --engine transformers5\` makes them alike; transformers 4 honours it)
vLLM                    wrong scale: ranks or alphas that differ between modules (\`jambatune export --to peft --engine vllm\` folds them into one)
llama.cpp               takes effect
merged                  takes effect" "$(tail -n 5 "$err")"
adapter=$scratch/adapter
data=(--data "$scratch/data.jsonl")

logprobs() { # ADAPTER [BASE]: log-probabilities, one a line, with five digits
    "$program" eval "base_model=${2:-$moe}" ${1:+--adapter "$1"} "${data[@]}" --logprobs "$scratch/l" >"$out" 2>"$err" &&
        grep -oE -- '-[0-9.]+(e-[0-9]+)?' "$scratch/l" | LC_ALL=C xargs printf '%.5f\n'
}
trained=$(logprobs "$adapter")
check 'log-probabilities are there' [ "$(echo "$trained" | wc -l)" -ge 15 ]
check 'the adapter does something' [ "$trained" != "$(logprobs "")" ]

close() { # TEXT TEXT: numbers that differ by 2e-5 at most
    paste <(echo "$1") <(echo "$2") | awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 2e-5 || NF != 2) bad = 1 } END { exit bad }'
}

# ---- export --to peft ----

says "PEFT adapter written to $scratch/vllm, and read back the same
jambatune: note: modules of a lower rank, filled up with zeros: 5
jambatune: note: modules of another scale, folded into lora_B: 5
jambatune: note: every module has r 4 and lora_alpha 8
jambatune: note: start vLLM with --enable-lora --max-lora-rank 16, its default" \
    export "$adapter" --to peft "$scratch/vllm"
check 'vllm: only an adapter is in the folder' same "adapter_config.json
adapter_model.safetensors" "$(ls "$scratch/vllm")"
check 'vllm: computes the same' close "$trained" "$(logprobs "$scratch/vllm")"
says "PEFT adapter written to $scratch/five, and read back the same
jambatune: note: modules of a lower rank, filled up with zeros: 2
jambatune: note: modules of another scale, folded into lora_B: 2" \
    export "$adapter" --to peft --engine transformers5 "$scratch/five"
check 'transformers5: computes the same' close "$trained" "$(logprobs "$scratch/five")"
says "PEFT adapter written to $scratch/five, and read back the same" \
    export "$adapter" --to=peft --engine=transformers4 --base $moe "$scratch/five"
check 'transformers4, over another adapter: computes the same' close "$trained" "$(logprobs "$scratch/five")"
run export "$adapter" --to peft --json "$scratch/vllm"
check 'export --json' same 0 "$code"
shows '^  "form": "PEFT adapter",$' '^    "every module has r 4 and lora_alpha 8",$'
check 'nothing on stderr' same "" "$(cat "$err")"
refuses 65 "jambatune: $moe/adapter: dt_proj: transformers from 5.15 on ignores an adapter on dt_proj silently; \`jambatune export --to merged\`, or train without it; transformers 4, vLLM and llama.cpp honour it" \
    export $moe/adapter --to peft --engine transformers5 --base $moe "$scratch/none"
check 'nothing was made' [ ! -e "$scratch/none" ]

# ---- export --to gguf, --gguf-base, --to merged ----

run export "$adapter" --to gguf "$scratch/adapter.gguf"
check 'gguf' same "0: GGUF" "$code: $(head -c 4 "$scratch/adapter.gguf")"
check 'gguf: says so' same "GGUF adapter written to $scratch/adapter.gguf, and read back the same" "$(head -n 1 "$err")"
size=$(wc -c <"$scratch/adapter.gguf")
run export "$adapter" --to gguf --dtype f16 "$scratch/adapter.gguf"
check 'f16, over it: smaller' [ "$code" = 0 -a "$(wc -c <"$scratch/adapter.gguf")" -lt "$size" ]
run export --gguf-base $moe "$scratch/base.gguf"
check 'gguf base' same "0: GGUF" "$code: $(head -c 4 "$scratch/base.gguf")"
size=$(wc -c <"$scratch/base.gguf")
run export --gguf-base $moe --dtype bf16 "$scratch/base.gguf"
check 'bf16, over it: smaller' [ "$code" = 0 -a "$(wc -c <"$scratch/base.gguf")" -lt "$size" ]
run export "$adapter" --to merged "$scratch/merged"
check 'merged' same 0 "$code"
check 'merged: computes the same without an adapter' close "$trained" "$(logprobs "" "$scratch/merged")"

# ---- what is not overwritten ----

refuses 73 "jambatune: $scratch/merged: is not empty, and is left alone; give a new or empty folder" \
    export "$adapter" --to merged "$scratch/merged"
refuses 73 "jambatune: $scratch/merged: holds files but no adapter, and is left alone; give a new or empty folder" \
    export "$adapter" --to peft "$scratch/merged"
refuses 73 "jambatune: $scratch/merged: holds files but no adapter, and is left alone; give a new or empty folder" \
    import "$adapter" "$scratch/merged"
refuses 73 "jambatune: $scratch/data.jsonl: is there and no GGUF file, and is left alone; give another name" \
    export "$adapter" --to gguf "$scratch/data.jsonl"
refuses 73 "jambatune: $scratch/data.jsonl: is there and no GGUF file, and is left alone; give another name" \
    export --gguf-base $moe "$scratch/data.jsonl"
refuses 73 "jambatune: $scratch/vllm: is a folder; expected a file, such as $scratch/vllm/adapter.gguf" \
    export "$adapter" --to gguf "$scratch/vllm"
refuses 73 "jambatune: $scratch/data.jsonl: is a file; expected a folder, or nothing there" \
    export "$adapter" --to peft "$scratch/data.jsonl"
for command in 'export --to peft' 'export --to merged' import; do
    refuses 73 "jambatune: $scratch/./adapter: is what is read; write to another folder" $command "$adapter" "$scratch/./adapter"
done
mkfifo "$scratch/fifo"
refuses 73 "jambatune: $scratch/fifo: is there and no GGUF file, and is left alone; give another name" \
    export "$adapter" --to gguf "$scratch/fifo"

# ---- export's command line ----

usage='jambatune: command line: '
refuses 64 "${usage}--to is missing; expected --to peft, gguf or merged" export "$adapter" "$scratch/x"
refuses 64 "${usage}--to: 'onnx'; expected peft, gguf or merged" export "$adapter" --to onnx "$scratch/x"
refuses 64 "${usage}--engine: 'llama.cpp'; expected vllm, transformers5 or transformers4" \
    export "$adapter" --to peft --engine llama.cpp "$scratch/x"
refuses 64 "${usage}--engine: goes with --to peft only" export "$adapter" --to gguf --engine vllm "$scratch/x"
refuses 64 "${usage}--dtype: 'q8_0'; expected f32, f16 or bf16" export "$adapter" --to gguf --dtype q8_0 "$scratch/x"
refuses 64 "${usage}--dtype: 'bf16'; expected f32 or f16 for an adapter" export "$adapter" --to gguf --dtype bf16 "$scratch/x"
refuses 64 "${usage}--dtype: goes with --to gguf and --gguf-base only" export "$adapter" --to merged --dtype f32 "$scratch/x"
refuses 64 "${usage}--gguf-base does not go with --to: it writes the base alone" export --gguf-base $moe --to gguf "$scratch/x"
refuses 64 "${usage}--base does not go with --gguf-base, which names the base" export --gguf-base $moe --base $moe "$scratch/x"
refuses 64 "${usage}a word is missing; usage: jambatune export ADAPTER --to peft|gguf|merged OUT" export --to peft "$adapter"
refuses 64 "${usage}unexpected 'y'; usage: jambatune export --gguf-base BASE OUT" export --gguf-base $moe "$scratch/x" y
refuses 64 "${usage}'r=4' would change a recipe, and none is read here (a file of that name is './r=4')" export --to peft "$adapter" r=4
for words in 'export --to peft' 'export --to gguf' 'export --to merged' import; do
    refuses 64 "${usage}the name of what to write is empty" $words "$adapter" ""
done
refuses 64 "${usage}the name of what to write is empty" export --gguf-base $moe ""
check 'no wrong line made anything' [ ! -e "$scratch/x" ]

# ---- a disk that is full, a place that cannot be ----

for words in 'export --to peft' 'export --to gguf' 'export --to merged' import; do
    (ulimit -f 8; trap '' XFSZ; exec "$program" $words "$adapter" "$scratch/full") >"$out" 2>"$err" </dev/null
    check "$words: a full disk" same 74 "$?"
    check "$words: says so" grep -qE "^jambatune: .*/full.*: cannot be written: File too large$" "$err"
    check "$words: leaves nothing" [ ! -e "$scratch/full" ]
done
for words in 'export --to peft' 'export --to merged' import; do
    refuses 73 "jambatune: $scratch/data.jsonl: cannot be created: File exists" $words "$adapter" "$scratch/data.jsonl/o"
done
refuses 73 "jambatune: $scratch/data.jsonl/o: cannot be created: Not a directory" \
    export --to gguf "$adapter" "$scratch/data.jsonl/o"

# ---- which base ----

refuses 66 "jambatune: '$scratch/no': there is no such folder; base_model is a checkpoint's folder, a hub name (org/name) or random:CONFIG.JSON" \
    export "$adapter" --to peft --base "$scratch/no" "$scratch/x"
refuses 66 "jambatune: $scratch/no/adapter_config.json: No such file or directory" export "$scratch/no" --to peft "$scratch/x"
run export "$adapter" --to peft --base $dense "$scratch/x"
check 'a base of other shapes' same 65 "$code"
sed 's/"base_model_name_or_path": "[^"]*"/"base_model_name_or_path": null/' "$adapter/adapter_config.json" >"$scratch/config"
cp -r "$adapter" "$scratch/nameless"
cp "$scratch/config" "$scratch/nameless/adapter_config.json"
refuses 65 "jambatune: $scratch/nameless/adapter_config.json: \"base_model_name_or_path\" is not given; say which base with --base" \
    lint "$scratch/nameless"

# ---- import ----

says "adapter written to $scratch/imported, and read back the same" import $moe/adapter "$scratch/imported" --base $moe
check 'import: computes the same' same "$(logprobs $moe/adapter)" "$(logprobs "$scratch/imported")"
run import "$scratch/nameless" "$scratch/imported" --base $moe --json
check 'import --json' same '0: {
  "out": "'"$scratch"'/imported",
  "form": "adapter",
  "notes": []
}' "$code: $(cat "$out")"
check 'import names its base' grep -qF "\"base_model_name_or_path\": \"$moe\"" "$scratch/imported/adapter_config.json"
run train "$scratch/train.yaml" lora_model_dir="$scratch/imported" '~rank_pattern' '~lora_r' output_dir="$scratch/on"
check 'what was imported trains on' same 0 "$code"
sed -i 's/"use_dora": false/"use_dora": true/' "$scratch/nameless/adapter_config.json"
refuses 65 "jambatune: $scratch/nameless/adapter_config.json: \"use_dora\" is true: DoRA is not supported; merge that adapter into the base first" \
    import "$scratch/nameless" "$scratch/x" --base $moe
refuses 64 "${usage}a word is missing; usage: jambatune import ADAPTER OUT [--base BASE]" import "$adapter"

# ---- lint ----

run lint $moe/adapter --base $moe
check 'lint' same 0 "$code"
shows '^tied +no$' '^vllm_max_lora_rank +8$' \
    '^  block +module +adapted +rank +transformers4 +transformers5 +vllm +llama\.cpp +merged$' \
    '^  attention +q_proj +1  4 +takes effect +takes effect +takes effect +takes effect +takes effect$' \
    '^  mamba +dt_proj +3  4 +takes effect +ignored +wrong scale +takes effect +takes effect$' \
    '^  experts +up_proj +8  4 +takes effect +refused +wrong scale \(2 of 8\) +takes effect +takes effect$' \
    '^  router +router +2  4 +takes effect +refused +takes effect +takes effect +takes effect$' \
    '^  all +50  2-4 +takes effect +refused \(26 of 50\) +wrong scale \(8 of 50\) +takes effect +takes effect$' \
    '^PEFT on transformers 5: ignored: dt_proj$' '^  what to do: `jambatune export --to merged`, or train without it'
run lint $dense/adapter --base $dense
shows '^tied +yes$' '^  embedding +embed_tokens +1  4 .* refused +takes effect$' '^llama.cpp: refused: lm_head of a tied model$'
run lint "$scratch/vllm"
check 'lint of an export' same 0 "$code"
shows '^nothing to do$' '^  all +[0-9]+  4 +takes effect +takes effect +takes effect +takes effect +takes effect$'
run lint $moe/adapter --base $moe --json
check 'lint --json' same 0 "$code"
shows '^  "engines": \{$' '^    "transformers5": "refused",$' '^      "subject": "dt_proj",$' '^      "what_to_do": "'
for engine in transformers4 transformers5 vllm llama.cpp merged; do
    run lint "$scratch/vllm" --engine $engine
    check "lint --engine $engine" same 0 "$code"
done
run lint "$adapter" --engine vllm
check 'lint --engine: not all takes effect' same "65: jambatune: $adapter: not all of it takes effect in vLLM: wrong scale: ranks or alphas that differ between modules (\`jambatune export --to peft --engine vllm\` folds them into one)" \
    "$code: $(cat "$err")"
shows '^  all '
refuses 64 "${usage}--engine: 'sglang'; expected transformers4, transformers5, vllm, llama.cpp or merged" lint "$adapter" --engine sglang
refuses 64 "${usage}names nothing to work on; usage: jambatune lint ADAPTER [--base BASE] [--engine ENGINE]" lint
"$program" lint "$adapter" >/dev/full 2>"$err"
check 'lint: a full disk' same "74: jambatune: stdout: writing failed: No space left on device" "$?: $(cat "$err")"

end
