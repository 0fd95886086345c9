#!/bin/bash
# `jambatune status` of runs that go on, were stopped, were killed and ended, and of what is no run.
#
#     tests/cli/test_status.sh build/jambatune       # from the repository's root
set -u
. tests/support/checks.sh
program=$1
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-status.XXXXXX")
run_pid=
trap '[ -n "$run_pid" ] && kill -9 "$run_pid" 2>/dev/null; rm -rf "$scratch"' EXIT
out=$scratch/stdout err=$scratch/stderr
export LC_ALL=C

status() { # CODE ARGUMENT...: fills $out and $err
    local expected=$1
    shift
    "$program" status "$@" >"$out" 2>"$err" </dev/null
    check "exit code of: status $*" same "$expected" $?
}

shows() { # PATTERN...: whole lines of the last stdout
    local pattern
    for pattern in "$@"; do
        check "'$pattern' in the output" grep -qxE -- "$pattern" "$out" || cat "$out"
    done
}

refuses() { # CODE MESSAGE ARGUMENT...: prints nothing on stdout
    local expected=$1 message=$2
    shift 2
    status "$expected" "$@"
    check "message of: status $*" same "$message" "$(cat "$err")"
    check "stdout of: status $*" same "" "$(cat "$out")"
}

train() { # OUTPUT_DIR key=value...
    "$program" train recipes/quickstart/quickstart.yaml output_dir="$@" >"$scratch/train" 2>&1 </dev/null
}

start() { # OUTPUT_DIR: a run that would go on for long, in $run_pid, once it has done two steps
    train "$1" num_epochs=10000 2>/dev/null &
    local shell=$!
    for _ in $(seq 600); do
        [ "$(grep -c '"loss"' "$1/metrics.jsonl" 2>/dev/null)" -ge 2 ] 2>/dev/null && break
        sleep 0.1
    done
    run_pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$1/run.lock")
    check "a run in $1 has begun" test -n "$run_pid"
    run_shell=$shell
}

end_run() { # SIGNAL
    kill "-$1" "$run_pid"
    { wait "$run_shell"; } 2>/dev/null
    run_pid=
}

# ---- a run that ended ----

done=$scratch/done
check 'a run of six steps' train "$done" max_steps=6
status 0 "$done"
bars='[!_.:=+*#-]'
shows "$done" '  state       finished' '  step        6 of 6 \(100\.0 %\), epoch 0\.[0-9]{2}' \
    '  speed       [0-9 ]+ tokens/s, [0-9.e-]+ s a step' '  time        [0-9]+:[0-9]{2} spent' \
    "  loss        $bars{6} [0-9]+\.[0-9]{4} \(6 steps\)" \
    '  evaluation  [0-9]+\.[0-9]{4} at step 6(, the best so far|; best [0-9.]+ at step 0)' \
    '  last event  finished after step 6.*, 20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z'
check 'nothing on stderr' test ! -s "$err"
last=$(sed -n 's/.*"step":6,.*"loss":\([0-9.]*\),.*"learning_rate".*/\1/p' "$done/metrics.jsonl")
check "the last loss is the log's" grep -q " $(printf %.4f "$last") " "$out"
LC_ALL=en_US.UTF-8 "$program" status "$done" >"$out"
check 'bars in UTF-8' grep -qE '^  loss        (▁|▂|▃|▄|▅|▆|▇|█)+ ' "$out"
LC_ALL= LANG=C.utf8 "$program" status "$done" >"$out"
check 'bars in UTF-8 by LANG' grep -qE '^  loss        (▁|▂|▃|▄|▅|▆|▇|█)+ ' "$out"

status 0 "$done" --json
for line in '"state": "finished",' '"pid": null,' '"host": null,' '"step": 6,' '"total_steps": 6,' \
    '"percent": 100.0,' '"steps_not_applied": 0,' '"left_seconds": 0.0,' '"loss": [0-9.]+,' \
    '"tokens_per_second": [0-9.]+,' '"elapsed_seconds": [0-9.]+,' '"event": "finished",'; do
    shows " +$line"
done
check 'six losses' same 6 "$(sed -n '/"last_losses"/,/]/p' "$out" | grep -cE '^ +[0-9.]+,?$')"
if command -v python3 >/dev/null; then
    check 'it is JSON' python3 -c 'import json, sys; assert len(json.load(open(sys.argv[1]))["runs"]) == 1' "$out"
fi
timeout 60 "$program" status --watch "$done" >"$out"
check '--watch ends where nothing runs' same "0 1" "$? $(grep -c 'state       finished' "$out")"

# ---- one that goes on, is watched, and is stopped ----

run=$scratch/run
start "$run"
host=$(sed -n 's/.*"host": *"\([^"]*\)".*/\1/p' "$run/run.lock")
status 0 "$run"
shows "  state       running, process $run_pid on $host; logged [0-9]+ (second|minute)s? ago" \
    '  step        [0-9]+ of [0-9]+ \([0-9.]+ %\), epoch [0-9.]+' \
    '  time        [0-9:]+ spent, ([0-9]+ days )?[0-9:]+ left'
status 0 "$run" --json
shows ' +"state": "running",' " +\"pid\": $run_pid," " +\"host\": \"$host\"," ' +"left_seconds": [1-9][0-9.]*,'
timeout 120 "$program" status --watch "$run" >"$scratch/watched" &
watcher=$!
sleep 0.5
end_run TERM
wait "$watcher"
check '--watch ends with the run' same 0 $?
check 'and showed it running' grep -q '  state       running' "$scratch/watched"
check 'and stopped' same '  state       stopped' "$(grep state "$scratch/watched" | tail -n 1)"
status 0 "$run"
shows '  state       stopped' '  time        [0-9:]+ spent, ([0-9]+ days )?[0-9:]+ left when it is resumed' \
    '  checkpoint  checkpoint-[0-9]+, [0-9]+ (second|minute)s? old' '  last event  stopped after step .*'
step=$(sed -n 's/^  step        \([0-9]*\) .*/\1/p' "$out")
check 'the checkpoint is that of the last step' grep -q "checkpoint-$step," "$out"

# ---- one that is killed ----

killed=$scratch/killed
start "$killed"
end_run KILL
printf '{"step":1000,"los' >>"$killed/metrics.jsonl"
status 0 "$killed"
shows '  state       dead: killed, or failed' '  step        [0-9]{1,3} of .*'

# ---- several; what cannot be read ----

status 0 "$done" "$run"
check 'an empty line between two' same 1 "$(grep -cx '' "$out")"
shows "$done" "$run"
status 0 "$done" "$run" --json
check 'two objects' same 2 "$(grep -c '"dir"' "$out")"
status 66 "$done" "$scratch/none" "$run"
shows "$done" "$run"
none="jambatune: $scratch/none: is not there; expected a folder, the output_dir of a run"
check 'the message' same "$none" "$(cat "$err")"
refuses 66 "$none" "$scratch/none"
refuses 66 "jambatune: $scratch: is no run's folder: it has neither metrics.jsonl nor run.json; expected the output_dir of a run" "$scratch"
status 66 "$scratch/none" --json
check 'no runs in the JSON' same '{ "runs": [] }' "$(tr -s ' \n' ' ' <"$out" | sed 's/ $//')"
echo nonsense >"$scratch/damaged.jsonl"
mkdir "$scratch/damaged" && mv "$scratch/damaged.jsonl" "$scratch/damaged/metrics.jsonl"
refuses 65 "jambatune: $scratch/damaged/metrics.jsonl:1: not valid JSON: column 8: invalid token near 'nonsense'" "$scratch/damaged"
head -3 "$done/metrics.jsonl" >>"$scratch/damaged/metrics.jsonl"
status 0 "$scratch/damaged"
shows "  log         1 damaged line is passed over; the first: $scratch/damaged/metrics.jsonl:1: not valid JSON: .*"
status 0 "$scratch/damaged" --json
shows ' *"damaged_lines": 1'
head -3 "$done/metrics.jsonl" >"$scratch/damaged/metrics.jsonl"
head -c 5000 /dev/zero >>"$scratch/damaged/metrics.jsonl"
status 0 "$scratch/damaged"
shows "  log         1 damaged line is passed over; the first: $scratch/damaged/metrics.jsonl:4: not valid JSON: .*"
head -c 5000 /dev/zero >"$scratch/damaged/metrics.jsonl"
refuses 65 "jambatune: $scratch/damaged/metrics.jsonl:1: not valid JSON: has a zero byte, at byte 0" "$scratch/damaged"
# Numbers that no run has: sums, differences and whole numbers of them are none.
mkdir "$scratch/extreme"
log=$scratch/extreme/metrics.jsonl
printf '{"step":1,"loss":-1.7e308}\n{"step":2,"loss":1.7e308,"tokens":1e308,"seconds":1e-300}\n' >"$log"
status 0 "$scratch/extreme"
shows '  loss        _# 1.*00 \(2 steps\)' '  speed       inf tokens/s, .* s a step'
for step in $(seq 60); do
    echo "{\"step\":$step,\"loss\":1.7e308,\"seconds\":1e300,\"eval_tokens\":1e300}"
done >"$log"
status 0 "$scratch/extreme"
shows '  loss        [_!]*![_!]* 1.*00 \(60 steps\)' '  time        \? spent'

# ---- sweeps ----

sweep=$scratch/sweep
mkdir -p "$sweep/refused" "$sweep/later"
cp -r "$done" "$sweep/done"
touch "$sweep/refused/run.lock" "$sweep/later/run.lock"
cat >"$sweep/sweep.json" <<'JSON'
{"format": 1, "runs": [
    {"run": "done", "status": "finished", "steps": 6, "error": null},
    {"run": "refused", "status": "failed", "steps": 0, "error": ["no room\u001b[31m\n  state       finished", "more"]},
    {"run": "silent", "status": "failed", "steps": 0, "error": null},
    {"run": "stopped", "status": "stopped", "steps": 0, "error": ["stopped by a signal"]},
    {"run": "later", "status": "waiting"},
    {"run": "removed", "status": "finished", "steps": 6}
]}
JSON
status 0 "$sweep"
check 'sweep: in its order' same "done refused silent stopped later removed" "$(sed -n "s|^$sweep/||p" "$out" | xargs)"
for run_state in 'refused|failed before it began: no room?[31m' 'silent|failed before it began' 'stopped|waiting' 'later|waiting' \
    'removed|gone: it ran, but its files are not there'; do
    check "sweep: $run_state" same "  state       ${run_state#*|}" "$(grep -FxA1 "$sweep/${run_state%|*}" "$out" | tail -n 1)"
done
check 'sweep: one finished' same 1 "$(grep -c '^  state       finished$' "$out")"
status 0 "$sweep" --json
check 'sweep: states in JSON' same '"finished", "failed", "failed" "waiting" "waiting" "gone"' \
    "$(sed -n 's/^      "state": //p' "$out" | tr '\n' ' ' | sed 's/ $//')"
check 'sweep: the error in JSON' same 1 "$(grep -cF '      "error": "no room\u001B[31m\n  state       finished"' "$out")"
check 'sweep: one error' same 1 "$(grep -c '"error"' "$out")"

# One that has begun to load, under a sweep that is alive: neither is over.
hold() { # FOLDER: holds its lock until $scratch/hold is gone
    touch "$1/run.lock" "$scratch/hold"
    flock "$1/run.lock" sh -c "while [ -e '$scratch/hold' ]; do sleep 0.1; done" &
    holder=$!
    while flock -n "$1/run.lock" true; do sleep 0.05; done
}
hold "$sweep/later"
status 0 "$sweep"
check 'a run that is loading' same '  state       running' "$(grep -FxA1 "$sweep/later" "$out" | tail -n 1)"
rm "$scratch/hold"
wait $holder
hold "$sweep"
timeout 60 "$program" status --watch "$sweep" >"$scratch/watched" &
watcher=$!
sleep 0.5
check '--watch stays with a sweep between two runs' kill -0 $watcher
rm "$scratch/hold"
wait $watcher
check '--watch ends with the sweep' same 0 $?
wait $holder

# A run in the sweep's folder itself; a sweep.json that is none of ours.
cp "$done/run.json" "$done/metrics.jsonl" "$sweep"
status 0 "$sweep"
check 'a run and a sweep: the run first' same "$sweep $sweep/done" "$(grep "^$sweep" "$out" | head -n 2 | xargs)"
for foreign in nonsense '[]' '{"runs": 5}' '{"runs": [{"run": "a"}]}' '{"format": 2, "runs": [{"run": "a"}]}' '{"runs": []}'; do
    echo "$foreign" >"$sweep/sweep.json"
    status 0 "$sweep"
    check "a run beside $foreign" same "$sweep" "$(grep "^$sweep" "$out")"
done
rm "$sweep/sweep.json" && mkdir "$sweep/sweep.json"
status 0 "$sweep"
check 'a run beside a folder of that name' same "$sweep" "$(grep "^$sweep" "$out")"
rmdir "$sweep/sweep.json"
none="is no sweep's table; expected \"format\": 1 and a list of \"runs\""
rm "$sweep/run.json" "$sweep/metrics.jsonl"
echo '{"format": 2, "runs": [{"run": "a"}]}' >"$sweep/sweep.json"
refuses 65 "jambatune: $sweep/sweep.json: $none" "$sweep"
echo '{"format": 1, "runs": {}}' >"$sweep/sweep.json"
refuses 65 "jambatune: $sweep/sweep.json: $none" "$sweep"
mkdir "$scratch/empty"
echo '{"runs": []}' >"$scratch/empty/sweep.json"
refuses 66 "jambatune: $scratch/empty: is no run's folder: it has neither metrics.jsonl nor run.json; expected the output_dir of a run" "$scratch/empty"

# A path as JSON spells it; what a terminal would obey does not come through.
strange=$scratch/$(printf 'a\tb\nc\302\233d\377')
cp -r "$done" "$strange"
status 0 "$strange" --json
check 'a strange path' grep -qF '/a\tb\nc\u009Bd?",' "$out"

usage='jambatune status DIR [DIR ...] [--json] [--watch]'
refuses 64 "jambatune: command line: names nothing to work on; usage: $usage"
refuses 64 'jambatune: command line: --watch: does not go with --json' "$done" --watch --json
refuses 64 "jambatune: command line: unknown option '--wach'; did you mean '--watch'?" "$done" --wach
"$program" status "$done" >/dev/full 2>"$err"
check 'a full disk' same "74: jambatune: stdout: writing failed: No space left on device" "$?: $(cat "$err")"

# ---- what a log may hold ----

odd=$scratch/odd
mkdir "$odd"
esc=$(printf '\\u001b[31m')
{
    echo '{"step":1,"loss":2.0,"seconds":0.5,"tokens":1000}'
    echo '{"step":2,"loss":"NaN","applied":false,"seconds":0.5,"tokens":1000}'
    echo '{"step":3,"loss":1.0,"seconds":0.5,"tokens":1000}'
    echo '{"step":3,"eval_loss":1.5,"seconds":3.0}'
    echo '{"step":4,"loss":"Infinity","seconds":0.5,"tokens":1000}'
    echo '{"step":4,"eval_loss":"NaN","seconds":3.0}'
    echo "{\"step\":4,\"event\":\"saved\",\"text\":\"${esc}red\",\"time\":\"today\"}"
} >"$odd/metrics.jsonl"
echo '{"n_step":1000000}' >"$odd/run.json"
status 0 "$odd"
shows '  step        4 of 1000000 \(0\.0 %\); 1 not applied, for their loss or gradient was not finite' \
    '  speed       2 000 tokens/s, 0\.5 s a step' '  time        0:08 spent, 23 days 3:33:12 left when it is resumed' \
    '  loss        #!_! inf \(4 steps\)' '  evaluation  nan at step 4; best 1\.5000 at step 3' \
    '  last event  saved after step 4: \?\[31mred, today'
status 0 "$odd" --json
shows ' +"loss": "Infinity",' ' +"loss": "NaN"' ' +"NaN",' ' +"text": "\\u001B\[31mred",'
: >"$odd/metrics.jsonl"
rm "$odd/run.json"
status 0 "$odd"
check 'an empty log' same "$odd
  state       dead: killed, or failed
  step        0" "$(cat "$out")"
seq 0 999 | sed 's/.*/{"step":&,"loss":&}/' >"$odd/metrics.jsonl"
status 0 "$odd"
shows '  loss        _{3}\.{6}:{5}-{6}={6}\+{5}\*{6}#{3} 999\.0000 \(400 steps\)'

end
