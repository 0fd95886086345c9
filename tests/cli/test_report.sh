#!/bin/bash
# `jambatune report` on real runs of the quick start's model: what is written where, what the page holds, what is refused.
#
#     tests/cli/test_report.sh build/jambatune         # from the repository's root
set -u
. tests/support/checks.sh
program=$(realpath "$1")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-report.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
out=$scratch/stdout err=$scratch/stderr

run() { # ARGUMENT...: sets $code, fills $out and $err
    timeout -k 10 200 "$program" "$@" >"$out" 2>"$err" </dev/null
    code=$?
}

refuses() { # CODE MESSAGE ARGUMENT...: prints nothing on stdout
    local expected=$1 message=$2
    shift 2
    run "$@"
    check "exit code of: $*" same "$expected" "$code"
    check "message of: $*" same "jambatune: $message" "$(cat "$err")"
    check "stdout of: $*" same "" "$(cat "$out")"
}

holds() { # FILE TEXT...
    local file=$1 text
    shift
    for text in "$@"; do
        check "'$text' in ${file##*/}" grep -qF -- "$text" "$file"
    done
}

train() { # FOLDER KEY=VALUE...: a short run
    local folder=$1
    shift
    run train recipes/quickstart/quickstart.yaml max_steps=6 evals_per_epoch=0 output_dir="$folder" "$@"
    check "train into ${folder##*/}" same 0 "$code"
}

# ---- one run ----

one=$scratch/one
train "$one" eval_steps=3 'sample_prompts=["</script><script>alert(1)"]' sample_max_tokens=4
run report "$one"
check 'report: exit code' same 0 "$code"
check 'report: where it is' same "jambatune: note: $one/report.html is written" "$(cat "$err")"
check 'report: stdout' same "" "$(cat "$out")"
page=$one/report.html
holds "$page" '<title>one</title>' 'finished</span> step 6 of 6' '<dt>best validation loss</dt>' '<b>Loss</b>' \
    '<b>Learning rate</b>' '<b>Gradient norm</b>' '<b>Speed</b>' '<b>Memory</b>' '<h2>Time per block</h2>' \
    '<h2>What was adapted</h2>' '<h2>Data</h2>' '<h2>Samples</h2>' '<h2>Recipe</h2>' '<h2>Events</h2>' \
    '<td dir="auto">command line: max_steps=6</td>' 'quickstart.yaml:' '&lt;/script&gt;&lt;script&gt;alert(1)'
check 'one script, ours' same 1 "$(grep -c '<script>' "$page")"
check 'nothing from elsewhere' same 0 "$(grep -cE 'https?:|@import| src=' "$page")"
check 'a small page' test "$(wc -c <"$page")" -lt 200000
if command -v python3 >/dev/null; then
    # It is well-formed XML, too, but for the doctype and what is in script and style.
    check 'well-formed' python3 -c '
import re, sys, xml.etree.ElementTree as tree
text = open(sys.argv[1], encoding="utf-8").read()
tree.fromstring(re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.S).split("\n", 1)[1])' "$page"
fi

# Made again it takes the place of the old one; and on the standard output it is the same.
cp "$page" "$scratch/before"
run report "$one" -o -
check 'report -o -: exit code' same "0 " "$code $(cat "$err")"
check 'the same page' cmp -s "$out" "$scratch/before"
run report "$one"
check 'again' same 0 "$code"
run report "$one/" -o "$scratch/other.html" --json
check 'report --json: exit code' same "0 " "$code $(cat "$err")"
holds "$out" '"name": "one"' '"state": "finished"' '"step": 6' '"n_step": 6' '"best_eval_loss": ' '"steps_not_applied": 0' \
    "\"report\": \"$scratch/other.html\""
check 'the page beside it' test -s "$scratch/other.html"
(cd "$one" && run report . -o - && grep -qF '<h1>one</h1>' "$out")
check 'a folder by another name' same 0 $?

# ---- several ----

train "$scratch/lora_r=2" lora_r=2
train "$scratch/lora_r=4" lora_r=4
(cd "$scratch" && run report lora_r=2 lora_r=4 one -o all.html --json && exit "$code")
check 'several: exit code' same 0 $?
holds "$scratch/all.html" '<h1>3 runs compared</h1>' '<h2>Runs, best first</h2>' '<h2>Where their recipes differ</h2>' \
    '<th scope="col">lora_r</th>' 'data-name="lora_r=2"' 'data-name="lora_r=4"' 'data-name="one"'
holds "$out" '"differences": {' '"lora_r": ['
check 'three runs' same 3 "$(grep -c '"state": ' "$out")"
mkdir "$scratch/deep" && cp -r "$one" "$scratch/deep/one"
run report "$one" "$scratch/deep/one" -o -
check 'two of one name' same 0 "$code"
holds "$out" "data-name=\"$one\"" "data-name=\"$scratch/deep/one\""

# ---- refusals ----

refuses 64 'command line: of several folders the report has no place of its own; name one: -o FILE.html' \
    report "$one" "$scratch/lora_r=2"
refuses 64 'command line: -o - and --json both print to the standard output; name a file with -o' report "$one" -o - --json
run report
check 'no folder: exit code' same 64 "$code"
check 'no folder: usage' grep -qF 'jambatune report DIR [DIR ...] [-o FILE.html] [--json]' "$err"
run report "$scratch/nowhere"
check 'a folder that is not there: exit code' same 66 "$code"
check 'a folder that is not there: its name' grep -qF "$scratch/nowhere" "$err"
echo 'precious' >"$scratch/notes.txt"
refuses 73 "$scratch/notes.txt: is there and is no report; remove it, or name another file with -o" \
    report "$one" -o "$scratch/notes.txt"
check 'what is no report stays' same precious "$(cat "$scratch/notes.txt")"
refuses 73 "$scratch: is a folder; expected the name of a file" report "$one" -o "$scratch"
run report "$one" -o "$scratch/no/such/folder/x.html"
check 'a folder for the page that is not there' test "$code" -ge 73 -a "$code" -le 74
if [ -e /dev/full ]; then
    "$program" report "$one" -o - >/dev/full 2>"$err"
    check 'a full disk: exit code' same 74 $?
fi
printf '{"step": 1' >"$scratch/lora_r=2/metrics.jsonl"
run report "$scratch/lora_r=2" -o -
check 'half a line is left out' same 0 "$code"
holds "$out" 'No step has been logged yet.'
echo '{"step": 1}' >"$scratch/lora_r=2/metrics.jsonl"
run report "$scratch/lora_r=2" -o -
check 'a line that is none of ours: exit code' same 0 "$code"
holds "$out" '1 line of the log is damaged and passed over; the first: ' "$scratch/lora_r=2/metrics.jsonl:1: "

end
