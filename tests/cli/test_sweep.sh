#!/bin/bash
# train --each: folders, table, what is passed over and resumed, failures, signals, locks.
#
#     tests/cli/test_sweep.sh build/jambatune       # from the repository's root
set -u
. tests/support/checks.sh
program=$1
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-sweep.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
out=$scratch/stdout err=$scratch/stderr recipe=$scratch/train.yaml

sweep() { # WORD...: sets $code, fills $out and $err
    timeout -k 10 200 "$program" train "$recipe" --each "$@" >"$out" 2>"$err" </dev/null
    code=$?
}

refuses() { # CODE MESSAGE WORD...
    local expected=$1 message=$2
    shift 2
    sweep "$@"
    check "exit code of: $*" same "$expected" "$code"
    check "message of: $*" same "$message" "$(cat "$err")"
}

column() { # NUMBER: of the table's rows
    sed -n '4,$p' "$out" | awk -v n="$1" '{ print $n }'
}

wait_for() { # FILE PATTERN: up to 60 s
    for _ in $(seq 600); do
        grep -qs -- "$2" "$1" && return
        sleep 0.1
    done
    return 1
}

cat >"$scratch/data.jsonl" <<'JSONL'
{"input_ids": [1, 5, 6, 7, 2]}
{"input_ids": [1, 8, 9, 2], "labels": [-100, -100, 9, 2]}
{"input_ids": [1, 10, 11, 12, 13, 14, 15, 16, 2]}
JSONL
mkdir "$scratch/base"
cp tests/fixtures/models/moe_gqa_untied/{config.json,model.safetensors} "$scratch/base"
cat >"$recipe" <<YAML
base_model: $scratch/base
datasets: [{path: data.jsonl, type: input_ids}]
sequence_len: 8
num_epochs: 2
output_dir: out
YAML

# ---- nothing runs before every recipe is right ----

refuses 64 "jambatune: command line: --each: no key has several values; expected at least one key=a,b,c" lora_r=8
refuses 64 "jambatune: command line: lora_r=8,,4: has an empty value between commas; expected key=a,b,c" lora_r=8,,4
refuses 64 "jambatune: command line: lora_r=x: 'lora_r' is 'x'; expected a whole number from 1 to 16384
jambatune: command line: learning_rate=0: 'learning_rate' is '0'; expected a number above 0" learning_rate=1e-3,0 lora_r=4,x
refuses 78 "jambatune: command line: resume_from_checkpoint=x: resume_from_checkpoint: 'x' is one run's; a sweep finds the checkpoints of its runs by itself: remove the key" \
    resume_from_checkpoint=x lora_r=4,8
check 'nothing was written' [ ! -e "$scratch/out" ]

# ---- runs, table ----

sweep learning_rate=1e-4,1e-2 lora_target_modules='[q_proj,v_proj],all-linear' test_datasets="$scratch/data.jsonl"
check 'a sweep' same 0 "$code"
check 'a row a run' same 4 "$(column 2 | grep -c '^finished$')"
check 'best first' same "$(column 3)" "$(column 3 | sort -g)"
check 'the validation losses differ' same 4 "$(column 3 | sort -u | wc -l)"
check 'folders' same "learning_rate=1e-2,lora_target_modules=_q_proj_v_proj_~
learning_rate=1e-2,lora_target_modules=all-linear
learning_rate=1e-4,lora_target_modules=_q_proj_v_proj_~
learning_rate=1e-4,lora_target_modules=all-linear" "$(find "$scratch/out" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sed 's/~.*/~/' | sort)"
first=$(column 1 | head -n 1)
check 'the value that a run was given' grep -q "^learning_rate: $(expr "$first" : 'learning_rate=\([^,]*\)' | sed 's/1e-2/0.01/; s/1e-4/0.0001/')  # command line: learning_rate=" \
    "$scratch/out/$first/recipe.yaml"
check 'sweep.json: best first' same "$(column 1)" "$(sed -n 's/^      "run": "\(.*\)",$/\1/p' "$scratch/out/sweep.json")"
adapter=$(sha256sum <"$scratch/out/$first/adapter_model.safetensors")
touch -d 2020-01-01 "$scratch/out/$first/adapter_model.safetensors"

# The sweep's folder stands for its runs, under another name, too.
"$program" status "$scratch/out" --json >"$out" 2>"$err"
check 'status of the sweep' same "0 4" "$? $(grep -c '"state": "finished"' "$out")"
mv "$scratch/out" "$scratch/moved"
mv "$scratch/moved/$first" "$scratch/later"
"$program" status "$scratch/moved" >"$out" 2>"$err"
check 'status: three of four' same "0 3" "$? $(grep -c '^  state       finished$' "$out")"
check 'status: one is gone' same "  state       gone: it ran, but its files are not there" \
    "$(grep -FxA1 "$scratch/moved/$first" "$out" | tail -n 1)"
mv "$scratch/later" "$scratch/moved/$first"
"$program" report "$scratch/moved" --json >"$out" 2>"$err"
check 'report of the sweep' same "0 4" "$? $(grep -c '^      "dir": ' "$out")"
check 'its page is in its folder' [ -s "$scratch/moved/report.html" ]
mv "$scratch/moved" "$scratch/out"
cp "$scratch/out/sweep.json" "$scratch/sweep.json"
sed -i 's/"run": "[^"]*"/"run": "..\/x"/' "$scratch/out/sweep.json"
"$program" status "$scratch/out" >"$out" 2>"$err"
check 'a name that leaves the folder' same "65: jambatune: $scratch/out/sweep.json: \"run\" is '../x'; expected the name of a folder" "$?: $(cat "$err")"
mv "$scratch/sweep.json" "$scratch/out/sweep.json"

# Again, the words in another order and one key by its alias: nothing is left to do.
sweep lora_target_modules='[q_proj,v_proj],all-linear' lr=1e-4,1e-2 test_datasets="$scratch/data.jsonl" --json
check 'again' same 0 "$code"
check 'again: all are passed over' same 4 "$(grep -c ': is finished, and passed over$' "$err")"
check 'again: as JSON, what sweep.json has' same "$(cat "$scratch/out/sweep.json")" "$(cat "$out")"
check 'again: no exit code of what did not run' same 4 "$(grep -c '"exit_code": null' "$out")"
check 'again: the adapter was left alone' same "2020-01-01" "$(date -r "$scratch/out/$first/adapter_model.safetensors" +%F)"

# What says how to run and watch may differ; an adapter that is gone is made again.
rm "$scratch/out/$first/adapter_model.safetensors"
sweep lora_target_modules='[q_proj,v_proj],all-linear' lr=1e-4,1e-2 test_datasets="$scratch/data.jsonl" threads=1 logging_steps=10
check 'an adapter is gone' same 0 "$code"
check 'an adapter is gone: the others are passed over' same 3 "$(grep -c ': is finished, and passed over$' "$err")"
check 'an adapter is gone: made again' same "$adapter" "$(sha256sum <"$scratch/out/$first/adapter_model.safetensors")"

# Another recipe in the same folders: refused by name, not mixed; --overwrite begins anew.
sweep lora_target_modules='[q_proj,v_proj],all-linear' lr=1e-4,1e-2 test_datasets="$scratch/data.jsonl" weight_decay=0.5
check 'another recipe' same 78 "$code"
check 'another recipe: no run' same 4 "$(column 2 | grep -c '^failed$')"
check 'another recipe: no losses, which are those of the runs before' same 0 "$(head -n 3 "$out" | grep -c -e loss -e validation)"
check 'another recipe: the key' same 4 "$(grep -c "another value of 'weight_decay'" "$out")"
sweep lora_target_modules='[q_proj,v_proj],all-linear' lr=1e-4,1e-2 test_datasets="$scratch/data.jsonl" weight_decay=0.5 --overwrite
check '--overwrite' same 0 "$code"
check '--overwrite: all ran' same 4 "$(column 2 | grep -c '^finished$')"

# Other data: what was finished with the old ones is no longer this sweep's.
again() {
    sweep lora_target_modules='[q_proj,v_proj],all-linear' lr=1e-4,1e-2 test_datasets="$scratch/data.jsonl" weight_decay=0.5 "$@"
}
again
check 'the same data: all are passed over' same 4 "$(grep -c ': is finished, and passed over$' "$err")"
cp "$scratch/data.jsonl" "$scratch/data.was"
echo '{"input_ids": [1, 5, 2]}' >>"$scratch/data.jsonl"
again
check 'other data' same 78 "$code"
check 'other data: the file is named' same 4 "$(grep -c "data.jsonl: has changed: " "$out")"
mv "$scratch/data.was" "$scratch/data.jsonl"
again
check 'the old data again: all are passed over' same 4 "$(grep -c ': is finished, and passed over$' "$err")"
printf x | dd of="$scratch/base/model.safetensors" bs=1 seek=$(($(stat -c %s "$scratch/base/model.safetensors") - 1)) conv=notrunc 2>"$err"
again
check 'another base' same 78 "$code"
check 'another base: it is named' same 4 "$(grep -c "another value of the base model" "$out")"
cp "tests/fixtures/models/moe_gqa_untied/model.safetensors" "$scratch/base/model.safetensors"

# ---- failures ----

sweep lora_target_modules='[q_porj],[q_proj],[v_prjo]' output_dir="$scratch/failing"
check 'runs that fail' same 78 "$code"
check 'runs that fail: the others go on' same "finished failed failed" "$(column 2 | xargs)"
check 'runs that fail: listed' grep -qE "^  lora_target_modules=_q_porj_~[0-9a-f]+ +failed .* 78 .*: 'q_porj' matches no module; did you mean 'q_proj'\?$" "$out"
check 'runs that fail: without validation data by the last loss' grep -qE "^  run +status +loss +steps +seconds +code +error$" "$out"
"$program" status "$scratch/failing" >"$out" 2>"$err"
check 'runs that fail: status' same "0 1 2" "$? $(grep -c '^  state       finished$' "$out") $(grep -c "^  state       failed before it began: .*matches no module" "$out")"
"$program" report "$scratch/failing" --json >"$out" 2>"$err"
check 'runs that fail: report shows the other' same "0 1" "$? $(grep -c '^      "dir": ' "$out")"
sweep lora_target_modules='[q_porj],[v_prjo]' output_dir="$scratch/none"
check 'all runs fail' same 78 "$code"
"$program" report "$scratch/none" >"$out" 2>"$err"
check 'all runs fail: report' same 66 $?
check 'all runs fail: report says so' grep -qE "^jambatune: $scratch/none: none of the sweep's runs can be shown: 0 waiting, 2 failed before they began, 0 gone; the first failure: .*'q_porj' matches no module" "$err"

# A run that is killed is listed, the next one runs.
long="max_steps=1000000 save_steps=100 micro_batch_size=2"
# shellcheck disable=SC2086
timeout -k 10 200 "$program" train "$recipe" --each $long lora_r=4,2 output_dir="$scratch/killed" >"$out" 2>"$err" </dev/null &
sweep=$!
check 'a run is on' wait_for "$scratch/killed/lora_r=4/metrics.jsonl" '"step": *50,'
"$program" train "$recipe" --each lora_r=4,2 output_dir="$scratch/killed" >"$scratch/other" 2>&1
check 'a second sweep in the folder' same 73 $?
kill -KILL "$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$scratch/killed/lora_r=4/run.lock")"
check 'the next run is on' wait_for "$scratch/killed/lora_r=2/metrics.jsonl" '"step": *50,'
kill -TERM "$(pgrep -P $sweep)"
wait $sweep
check 'a sweep that is stopped' same 75 $?
check 'a killed run' grep -qE "^  lora_r=4 +failed +[0-9.]+ +[0-9]+ .* 137 +ended by signal 9 \(Killed\)" "$out"
check 'a stopped run' grep -qE "^  lora_r=2 +stopped .* 75 +stopped by a signal" "$out"
check 'a stopped run has a checkpoint' [ -n "$(compgen -G "$scratch/killed/lora_r=2/checkpoint-*")" ]

# ---- stopped and started again ----

steps="max_steps=1500 save_steps=400 lr_scheduler=constant"
# shellcheck disable=SC2086
"$program" train "$recipe" $steps lora_r=4 output_dir="$scratch/straight" >"$out" 2>"$err" </dev/null
check 'a run without a stop' same 0 $?
# shellcheck disable=SC2086
"$program" train "$recipe" --each $steps lora_r=4,2 output_dir="$scratch/cut" >"$out" 2>"$err" </dev/null &
sweep=$!
check 'a run is on' wait_for "$scratch/cut/lora_r=4/metrics.jsonl" '"step": *20,'
kill -USR1 $sweep
wait $sweep
check 'USR1' same 75 $?
check 'USR1: the second run waits' same "stopped waiting" "$(column 2 | xargs)"
check 'USR1: says how to go on' grep -q '^jambatune: note: the sweep was stopped; the same command goes on where it was$' "$err"

# shellcheck disable=SC2086
"$program" train "$recipe" --each --overwrite $steps lora_r=4,2 output_dir="$scratch/anew" >"$out" 2>"$err" </dev/null &
sweep=$!
check 'a run is on' wait_for "$scratch/anew/lora_r=4/metrics.jsonl" '"step": *20,'
kill -USR1 $sweep
wait $sweep
check 'USR1 with --overwrite' same 75 $?
check 'USR1 with --overwrite: says how to go on' \
    grep -q '^jambatune: note: the sweep was stopped; the same command without --overwrite goes on where it was$' "$err"

# The sweep itself is killed: its run saves and leaves, and the next start resumes it.
# shellcheck disable=SC2086
"$program" train "$recipe" --each $steps lora_r=4,2 output_dir="$scratch/cut" >"$out" 2>"$err" </dev/null &
sweep=$!
check 'it is resumed' wait_for "$scratch/cut/lora_r=4/metrics.jsonl" '"event": *"resumed"'
kill -KILL $sweep
wait $sweep 2>/dev/null
for _ in $(seq 300); do
    flock -n "$scratch/cut/lora_r=4/run.lock" true && break
    sleep 0.1
done
# shellcheck disable=SC2086
sweep $steps lora_r=4,2 output_dir="$scratch/cut"
check 'and again' same 0 "$code"
check 'both are there' same "finished finished" "$(column 2 | xargs)"
check 'the same bytes as without a stop' same "$(sha256sum <"$scratch/straight/adapter_model.safetensors")" \
    "$(sha256sum <"$scratch/cut/lora_r=4/adapter_model.safetensors")"

# ---- stdout that does not take the table ----

# shellcheck disable=SC2086
"$program" train "$recipe" --each $steps lora_r=4,2 output_dir="$scratch/cut" >/dev/full 2>"$err"
check 'a full stdout is no failure' same 0 $?
# shellcheck disable=SC2086
"$program" train "$recipe" --each $steps lora_r=4,2 output_dir="$scratch/cut" --json >/dev/full 2>"$err"
check 'nor as JSON, which sweep.json has' same \
    "0 jambatune: warning: stdout: writing failed: No space left on device; $scratch/cut/sweep.json has what was to be printed" \
    "$? $(tail -n 1 "$err")"

end
