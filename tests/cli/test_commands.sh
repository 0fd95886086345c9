#!/bin/bash
# The commands as a user meets them: exit codes, exact messages, what is printed where.
#
#     tests/cli/test_commands.sh build/jambatune       # from the repository's root
set -u
. tests/support/checks.sh
program=$1
models=tests/fixtures/models
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-cli.XXXXXX")
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

prints() { # TEXT ARGUMENT...: exit code 0 and exactly this on stdout
    local expected=$1
    shift
    run "$@"
    check "exit code of: $*" same 0 "$code"
    check "stdout of: $*" same "$expected" "$(cat "$out")"
}

shows() { # PATTERN...: lines of the last stdout
    local pattern
    for pattern in "$@"; do
        check "'$pattern' in the output" grep -qE -- "$pattern" "$out"
    done
}

# ---- help ----

run
check 'no command' same 64 "$code"
check 'no command: usage on stderr' grep -q '^usage: jambatune COMMAND' "$err"
check 'no command: nothing on stdout' same "" "$(cat "$out")"
prints 'jambatune 0.1.0' --version
run --help
check 'help' same 0 "$code"
codes=$(grep -cE '^ *(0|64|65|66|69|70|71|73|74|75|76|78)  [a-z]' "$out")
check 'every exit code in the help' same 12 "$codes"
commands=$(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$out")
check 'some commands' [ "$(echo "$commands" | wc -l)" -ge 5 ]
for command in $commands; do
    run help "$command"
    check "help $command" same 0 "$code"
    check "help $command: usage first" grep -q "^usage: jambatune $command" "$out"
    prints "$(cat "$out")" "$command" --help
    prints "$(cat "$out")" "$command" -h
done
refuses 64 "jambatune: command line: unknown command 'validte'; did you mean 'validate'?" validte
refuses 64 "jambatune: command line: unknown command 'validte'; did you mean 'validate'?" help validte
refuses 64 "jambatune: command line: unknown command 'xyzzy'; 'jambatune --help' lists them" xyzzy
refuses 64 "jambatune: command line: 'a.yaml' is no command; to train with it: jambatune train a.yaml" a.yaml

# ---- the command line ----

refuses 64 "jambatune: command line: unknown option '--jsn'; did you mean '--json'?" env --jsn
refuses 64 "jambatune: command line: unknown option '--quick'; --help lists them" env --quick
refuses 64 "jambatune: command line: unknown option '-j'; options are spelled out, as in '--help'" env -j
refuses 64 "jambatune: command line: --json: takes no value" env --json=yes
refuses 64 "jambatune: command line: --json: is given twice" env --json --json
refuses 64 "jambatune: command line: --type: needs a value; expected --type TYPE" tokenize a b --type
refuses 64 "jambatune: command line: unexpected 'x'; usage: jambatune env [--json]" env x
refuses 64 "jambatune: command line: names nothing to work on; usage: jambatune inspect PATH [--json]" inspect
refuses 64 "jambatune: command line: a word is missing; usage: jambatune tokenize MODEL FILE [--type TYPE] [--decode]" tokenize a
refuses 64 "jambatune: command line: 'seed=1' would change a recipe, and none is read here (a file of that name is './seed=1')" inspect seed=1
refuses 64 "jambatune: command line: --type: 'talk'; expected text, completion, input_ids, chat or alpaca" tokenize a b --type=talk
refuses 64 "jambatune: command line: --type: 'text' does not go with --decode, which reads input_ids" tokenize a b --type text --decode
refuses 64 "jambatune: command line: --keep-special: goes with --decode only" tokenize a b --keep-special
refuses 66 "jambatune: '--json': there is no such folder; base_model is a checkpoint's folder, a hub name (org/name) or random:CONFIG.JSON" inspect -- --json
base=base_model=$models/proj_bias
refuses 64 "jambatune: command line: --top-p: '2' is out of range; expected a number from 0 to 1" generate "$base" --top-p 2
refuses 64 "jambatune: command line: --top-p: 'nan' is no number; expected a number from 0 to 1" generate "$base" --top-p nan
refuses 64 "jambatune: command line: --temperature: '0x1' is no number; expected a number from 0 to 1e+06" generate "$base" --temperature=0x1
refuses 64 "jambatune: command line: --top-k: '-1' is out of range; expected a whole number of at least 0" generate "$base" --top-k -1
refuses 64 "jambatune: command line: --seed: '1.5' is no whole number; expected a whole number of at least 0" generate "$base" --seed=1.5
refuses 64 "jambatune: command line: --seed: '99999999999999999999' is out of range; expected a whole number of at least 0" generate "$base" --seed=99999999999999999999
esc=$(printf 'a\033[31mb')
refuses 64 "jambatune: command line: unknown command 'a?[31mb'; 'jambatune --help' lists them" "$esc"
refuses 64 "jambatune: command line: has more than 256 words" explain $(seq 300)

# ---- a standard stream that does not take it ----

for arguments in 'explain' 'explain --markdown' 'inspect tests/fixtures/models/proj_bias' 'env' '--help'; do
    "$program" $arguments >/dev/full 2>"$err"
    check "a full disk: $arguments" same "74: jambatune: stdout: writing failed: No space left on device" \
        "$?: $(cat "$err")"
    "$program" $arguments >&- 2>"$err"
    check "a closed stdout: $arguments" same "74: jambatune: stdout: writing failed: Bad file descriptor" \
        "$?: $(cat "$err")"
done
"$program" env <&- >"$out" 2>&-
check 'other streams closed' same 0 $?

# ---- explain ----

run explain learning_rate
check 'explain a key' same 0 "$code"
shows '^learning_rate: ' '^    from: default$' '^    default: '
run explain lora_r lora_r=64
shows '^lora_r: 64$' '^    from: command line: lora_r=64$'
refuses 64 "jambatune: command line: unknown key 'lora_alhpa'; did you mean 'lora_alpha'?" explain lora_alhpa
refuses 64 "jambatune: command line: --yaml: shows all keys; leave 'seed' out" explain --yaml x.yaml seed
refuses 64 "jambatune: command line: unexpected 'seed'; usage: jambatune explain [RECIPE] [KEY] [key=value ...]" explain --markdown seed
run explain --markdown
check 'explain --markdown' same 0 "$code"
shows '^\| key \| takes \| default \| meaning \|$' '^\| `base_model` \|'
run explain recipes/quickstart/quickstart.yaml
shows '^lora_r: 8$' '^    from: recipes/quickstart/quickstart.yaml:[0-9]+:[0-9]+$'
"$program" explain --yaml recipes/quickstart/quickstart.yaml seed=7 >"$scratch/a.yaml"
"$program" explain --yaml "$scratch/a.yaml" >"$scratch/b.yaml"
check 'the resolved recipe is a recipe' same "$(sed 's/  # .*//' "$scratch/a.yaml")" \
    "$(sed 's/  # .*//' "$scratch/b.yaml")"
check 'and has the change' grep -q '^seed: 7  # ' "$scratch/a.yaml"

# ---- tokenize ----

cat >"$scratch/text.jsonl" <<'JSONL'
{"text": "Hello, world"}
{"text": "  two  spaces   three"}
{"text": "line\nbreak\n \n\ttab\r\n"}
{"text": "Grüße, 東京 and 🦙🏽 too"}
{"text": "it's <|endoftext|> as text, and <unk>"}
{"text": "0123456789 3.14"}
{"text": "\u0001 a control \u0000 or two"}
JSONL
for kind in jamba llama; do
    model=$scratch/$kind
    mkdir "$model"
    cp tests/fixtures/tokenizers/$kind/tokenizer*.json "$model"
    sed 's/"vocab_size": 72/"vocab_size": 1000/' $models/moe_gqa_untied/config.json >"$model/config.json"
    run tokenize "$model" "$scratch/text.jsonl"
    check "$kind: tokenize" same 0 "$code"
    check "$kind: says how records are read" same \
        "jambatune: note: $scratch/text.jsonl:1: read as type 'text', by its fields" "$(cat "$err")"
    cp "$out" "$scratch/ids.jsonl"
    check "$kind: a line a record" same 7 "$(grep -cE '^\{"input_ids": \[[0-9, ]+\]\}$' "$scratch/ids.jsonl")"
    check "$kind: each ends in EOS" same 7 "$(grep -cE ', 2\]\}$' "$scratch/ids.jsonl")"
    prints "$(cat "$scratch/ids.jsonl")" tokenize "$model" "$scratch/ids.jsonl"
    prints "$(cat "$scratch/text.jsonl")" tokenize --decode "$model" "$scratch/ids.jsonl"
done
model=$scratch/jamba
run tokenize "$model" "$scratch/text.jsonl"
cp "$out" "$scratch/ids.jsonl"
run tokenize --decode --keep-special "$model" "$scratch/ids.jsonl"
check 'special tokens spelled out' same 7 "$(grep -c '<|endoftext|>"}$' "$out")"
"$program" tokenize "$model" - <"$scratch/text.jsonl" >"$out" 2>"$err"
check 'standard input' same "$("$program" tokenize "$model" "$scratch/text.jsonl" 2>/dev/null)" "$(cat "$out")"
printf '\n{"text": "a"}\n[1]\n' | "$program" tokenize "$model" - --type text >"$out" 2>"$err"
check 'standard input: a bad line' same \
    "65: jambatune: standard input:3: is a list; expected an object" "$?: $(cat "$err")"
check 'standard input: the lines before it' same 1 "$(wc -l <"$out")"
printf '{"text": "a\0"}\n' | "$program" tokenize "$model" - >"$out" 2>"$err"
check 'standard input: a zero byte' same \
    "65: jambatune: standard input:1: not valid JSON: has a zero byte" "$?: $(cat "$err")"

echo '{"prompt": "1 + 1 =", "completion": " 2"}' >"$scratch/pair.jsonl"
run tokenize "$model" "$scratch/pair.jsonl"
shows '^\{"input_ids": \[1, [0-9, ]+, 2\], "labels": \[-100, (-100, )+[0-9, ]+, 2\]\}$'
prints "$(cat "$out")" tokenize "$model" "$scratch/pair.jsonl" --type completion
run tokenize "$model" "$scratch/pair.jsonl" --train-on-inputs
shows '^\{"input_ids": \[1, [0-9, ]+, 2\]\}$'
echo '{"text": ""}' >"$scratch/empty.jsonl"
run tokenize --type text "$model" "$scratch/empty.jsonl"
check 'an empty record' same '0: {"input_ids": [1, 2]}' "$code: $(cat "$out")"
check 'is noted' same 'jambatune: note: 1 records are empty: training drops them' "$(cat "$err")"

echo '{"input_ids": [5, 1000]}' >"$scratch/far.jsonl"
refuses 65 "jambatune: $scratch/far.jsonl:1: \"input_ids\"[1] is 1000; expected 0 to 999" \
    tokenize --decode "$model" "$scratch/far.jsonl"
refuses 66 "jambatune: $scratch/none.jsonl: no such file or folder; expected a JSONL or JSON file, or a folder of them (a data set of the hub must be downloaded first)" \
    tokenize "$model" "$scratch/none.jsonl"
refuses 66 "jambatune: $models/proj_bias: has no 'tokenizer.json'" tokenize $models/proj_bias "$scratch/text.jsonl"
refuses 66 "jambatune: '$scratch/none': there is no such folder; base_model is a checkpoint's folder, a hub name (org/name) or random:CONFIG.JSON" \
    tokenize "$scratch/none" "$scratch/text.jsonl"
"$program" tokenize "$model" "$scratch/text.jsonl" --type text >/dev/full 2>"$err"
check 'tokenize: a full disk' same "74: jambatune: stdout: writing failed: No space left on device" "$?: $(cat "$err")"

# ---- inspect ----

run inspect $models/bf16_sharded
check 'inspect a checkpoint' same 0 "$code"
shows '^kind +checkpoint$' '^complete +yes$' '^  model-00004-of-00004.safetensors ' '^  BF16 '
run inspect --json $models/bf16_sharded
shows '^  "kind": "checkpoint",$' '^  "complete": true$' '^    "num_hidden_layers": [0-9]+,$'
run inspect random:$models/dense_mqa_tied/config.json
check 'inspect a config' same 0 "$code"
shows '^parameters +[0-9 ]+$' '^  tie_word_embeddings +yes$'
run inspect $models/moe_gqa_untied/legacy
check 'inspect legacy names' same 0 "$code"
run inspect $models/moe_gqa_untied/adapter
check 'inspect an adapter' same 0 "$code"
shows '^kind +adapter$' '^  experts +down_proj +8 +4 +1 152 +[0-9.]+$' '^  r +4$'
run inspect $models/moe_gqa_untied/adapter/adapter_model.safetensors
check 'inspect a tensor file' same 0 "$code"
shows '^kind +safetensors$' '^  base_model.model.lm_head.lora_A.weight +F32 +4, 16$'

odd=$scratch/$(printf 'odd\377')
cp -r $models/proj_bias "$odd"
run inspect --json "$odd"
check 'a path that is not UTF-8' same 0 "$code"
shows '^  "path": ".*/odd\?",$'
cp -r $models/proj_bias "$scratch/broken"
sed -i 's/"intermediate_size": [0-9]*/"intermediate_size": 33/' "$scratch/broken/config.json"
run inspect "$scratch/broken"
check 'a checkpoint that is not what its config says' same 65 "$code"
check 'is said' grep -qE "^jambatune: $scratch/broken/model.safetensors: tensor '.*gate_proj.weight': shape \(.*\), expected \(33, " "$err"
shows '^complete +no$'
rm "$scratch/broken/model.safetensors"
run inspect "$scratch/broken"
check 'a checkpoint without weights' same 66 "$code"
refuses 64 "jambatune: recipes/jamba-3b.yaml: is neither a folder nor a .safetensors file; for a config alone say random:recipes/jamba-3b.yaml" inspect recipes/jamba-3b.yaml
cp -r $models/proj_bias/adapter "$scratch/adapter"
sed -i 's/"use_dora": false/"use_dora": true/' "$scratch/adapter/adapter_config.json"
run inspect "$scratch/adapter"
check 'an adapter that is not read' same 65 "$code"
head -c 100 $models/proj_bias/adapter/adapter_model.safetensors >"$scratch/cut.safetensors"
run inspect "$scratch/cut.safetensors"
check 'a file cut short' same 65 "$code"

# ---- env ----

run env
check 'env' same 0 "$code"
shows '^version +0\.1\.0$' '^kernels +cpu (avx512|avx2|baseline)$' '^  zlib +[0-9.]+$' '^cuda( +none: .+)?$'
JAMBATUNE_CUDA_MODULE=/no/such/module.so run env
shows '^cuda +none: (/no/such/module.so: not there; |this build computes in double)'
check 'no CUDA library is linked' same "" "$(ldd "$program" | grep -E 'cuda|cublas|cudnn')"
run env --json
shows '^  "version": "0.1.0",$' '^  "memory_bytes": [0-9]+,$' '^    "jansson": "'

# ---- validate ----

cat >"$scratch/data.jsonl" <<'JSONL'
{"input_ids": [1, 5, 6, 7, 2]}
{"input_ids": [1, 8, 9, 2], "labels": [-100, -100, 9, 2]}
{"input_ids": [1, 10, 11, 12, 13, 14, 15, 16, 2]}
JSONL
cat >"$scratch/train.yaml" <<YAML
base_model: $PWD/$models/moe_gqa_untied
datasets: [{path: data.jsonl, type: input_ids}]
sequence_len: 8
num_epochs: 2
output_dir: out
YAML
run validate "$scratch/train.yaml" micro_batch_size=2
check 'validate' same 0 "$code"
shows '^model +.*/moe_gqa_untied: 4 layers \(3 Mamba, 1 attention; 2 dense, 2 MoE\), ' \
    '^data +.*/data.jsonl \(input_ids\): 3 records, 3 documents, 17 tokens, 13 with loss; the longest has 9 tokens$' \
    '^ +1 records cut to sequence_len$' '^training +3 documents, 17 tokens, 13 with loss$' \
    '^steps +4 \(0 of them warm-up\), of at most 2 documents and 16 tokens$' \
    'nothing found wrong$'
check 'validate writes nothing' [ ! -e "$scratch/out" ]

refuses 66 "jambatune: $scratch/no.yaml: No such file or directory" validate "$scratch/no.yaml"
refuses 64 "jambatune: command line: lora_rr=4: unknown key 'lora_rr'; did you mean 'lora_r'?
jambatune: command line: seed=x: 'seed' is 'x'; expected a whole number, 0 or more" \
    validate "$scratch/train.yaml" lora_rr=4 seed=x

# Faults of every part at once: each is reported, the first gives the exit code.
cat >"$scratch/bad.jsonl" <<'JSONL'
{"input_ids": [1, 2, 3]}
{"input_ids": [1, 72]}
{"text": "no ids"}
{"input_ids": [1, 2], "labels": [1]}
{"input_ids": [1, 2
JSONL
touch "$scratch/out"
run validate "$scratch/train.yaml" datasets.0.path="$scratch/bad.jsonl" lora_target_modules='[q_porj]'
check 'faults of every part' same 65 "$code"
check 'are all reported' same "jambatune: $scratch/bad.jsonl:2: \"input_ids\"[1] is 72; expected 0 to 71
jambatune: $scratch/bad.jsonl:3: \"input_ids\" is missing; each record needs it
jambatune: $scratch/bad.jsonl:4: \"labels\" has 1 elements; expected 2, one for each of \"input_ids\"
jambatune: $scratch/bad.jsonl:5: not valid JSON: column 19: ']' expected near end of file
jambatune: command line: lora_target_modules=[q_porj]: lora_target_modules: 'q_porj' matches no module; did you mean 'q_proj'?
jambatune: $scratch/out: output_dir is a file; expected a folder, or nothing there" "$(cat "$err")"
rm "$scratch/out"
refuses_text="jambatune: $scratch/pair.jsonl:1: is text, but there is no tokenizer to read it with"
run validate "$scratch/train.yaml" datasets.0.path="$scratch/pair.jsonl" datasets.0.type=completion
check 'text without a tokenizer' same "65: $refuses_text" "$code: $(cat "$err")"
run validate "$scratch/train.yaml" excess_length_strategy=raise sequence_len=4
check 'records that are too long' same "65: jambatune: $scratch/data.jsonl:1: has 5 tokens, more than sequence_len 4; raise it, or set excess_length_strategy to truncate, split or drop
jambatune: $scratch/data.jsonl:3: has 9 tokens, more than sequence_len 4" "$code: $(cat "$err")"
refuses_cuda="jambatune: command line: device=cuda: device: cuda cannot be used: CUDA is switched off (JAMBATUNE_CUDA_MODULE=none); use cpu or auto"
run validate "$scratch/train.yaml" device=cuda lora_target_modules='[q_porj]'
check 'a device that is not there' same "78: $refuses_cuda
jambatune: command line: lora_target_modules=[q_porj]: lora_target_modules: 'q_porj' matches no module; did you mean 'q_proj'?" "$code: $(cat "$err")"
run validate "$scratch/train.yaml" memory_budget=1KiB
check 'a run that does not fit' same 71 "$code"
check 'says so' grep -q '^jambatune: the run does not fit: it needs ' "$err"
run validate "$scratch/train.yaml" lora_target_modules='[router]'
check 'warnings are no fault' same 0 "$code"
check 'but are told' grep -q '^jambatune: warning: router: ' "$err"
run validate "$scratch/train.yaml" lora_model_dir=$models/moe_gqa_untied/adapter lora_r=2
check 'an adapter that is something else' same "78: jambatune: command line: lora_r=2: lora_r: is 2, but the adapter in lora_model_dir has r 4; leave the key out or train a new adapter" "$code: $(cat "$err")"
run validate "$scratch/train.yaml" base_model="$scratch/broken"
check 'a checkpoint without weights does not hide the data' same 66 "$code"
shows '^data +.*: 3 records'
for i in $(seq 30); do echo '{"input_ids": "x"}'; done >"$scratch/many.jsonl"
run validate "$scratch/train.yaml" datasets.0.path="$scratch/many.jsonl"
check 'many bad records: the first twenty' same 21 "$(wc -l <"$err")"
check 'many bad records: and their number' same \
    "jambatune: $scratch/many.jsonl: and 10 more records that cannot be used" "$(tail -n 1 "$err")"

# ---- signals ----

# timeout(1) signals the child and then its group: two that come together count as one.
set -m # else a shell's background jobs ignore INT
for signal in TERM INT HUP USR1; do
    rm -rf "$scratch/stopped"
    : >"$err"
    "$program" train recipes/quickstart/quickstart.yaml num_epochs=10000 output_dir="$scratch/stopped" >"$out" 2>"$err" \
        </dev/null &
    until grep -q '^step 1/' "$err" || ! kill -0 $! 2>/dev/null; do sleep 0.1; done
    kill -s "$signal" $!
    wait $!
    code=$?
    check "$signal: says so" same "75 1" \
        "$code $(grep -c '^jambatune: stopped by a signal after step .* is whole: --resume goes on' "$err")"
    check "$signal: the checkpoint is an adapter" same 0 \
        "$("$program" inspect "$scratch"/stopped/checkpoint-* >"$out" 2>&1; echo $?)"
done
# A run that cannot get on, for nobody reads what it prints: a second TERM changes nothing, a second INT ends it.
mkfifo "$scratch/unread"
sleep 300 <"$scratch/unread" &
reader=$!
cat >"$scratch/ids.jsonl" <<'JSONL'
{"input_ids": [1, 5, 6, 7, 2]}
JSONL
cat >"$scratch/ids.yaml" <<YAML
base_model: $PWD/tests/fixtures/models/moe_gqa_untied
datasets: [{path: ids.jsonl, type: input_ids}]
sequence_len: 8
max_steps: 1000000
logging_steps: 1
save_steps: 0
YAML
"$program" train "$scratch/ids.yaml" output_dir="$scratch/stuck" 2>"$scratch/unread" >"$out" </dev/null &
steps=-1
for _ in $(seq 600); do
    now=$(grep -c . "$scratch/stuck/metrics.jsonl" 2>/dev/null)
    [ "${now:-0}" -gt 100 ] && [ "$now" = "$steps" ] && break
    kill -0 $! 2>/dev/null || break
    steps=$now
    sleep 0.2
done
kill -s TERM $!
sleep 0.5
kill -s TERM $!
sleep 0.5
check 'a second TERM: goes on saving' kill -0 $!
kill -s INT $!
wait $!
check 'a second signal, INT: ends at once' same 130 $?
kill $reader
set +m
timeout -s TERM -k 20 0.01 "$program" train recipes/quickstart/quickstart.yaml num_epochs=10000 \
    output_dir="$scratch/early" >"$out" 2>"$err" </dev/null
check 'TERM at the very beginning leaves no adapter' test ! -e "$scratch/early/adapter_config.json"
: >"$err"
"$program" train recipes/quickstart/quickstart.yaml num_epochs=10000 output_dir="$scratch/stopped" --resume \
    >"$out" 2>"$err" </dev/null &
until grep -q '^step ' "$err" || ! kill -0 $! 2>/dev/null; do sleep 0.1; done
kill -s USR2 $!
n=1
for _ in $(seq 200); do
    n=$(find "$scratch/stopped" -name 'checkpoint-*[0-9]' | wc -l)
    [ "$n" -gt 1 ] && break
    sleep 0.1
done
check 'USR2: a checkpoint' same 2 "$n"
check 'USR2: the run goes on' kill -0 $!
kill -s TERM $!
wait $!
check 'TERM after USR2' same 75 "$?"

end
