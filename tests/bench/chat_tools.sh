#!/bin/bash
# What recipes/chat-tools.yaml teaches: the share of held-out questions that the quick start model answers
# with a valid tool call of the right name, before and after.
#
#     tests/bench/chat_tools.sh [JAMBATUNE]        # from the repository's root; some minutes
#
# A call is valid when `generate --json FILE --message` reads it as "tool_calls": JSON in the template's tags
# and nothing else. Needs python3 to count.
set -euo pipefail
jambatune=${1:-build/jambatune}
recipe=recipes/chat-tools.yaml
questions=recipes/chat-tools/test.jsonl
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-chat-tools.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

measure() { # NAME GENERATE_OPTION...
    local name=$1
    shift
    "$jambatune" generate $recipe --json $questions --message --greedy --max-new-tokens 100 "$@" \
        >"$scratch/answers" </dev/null
    python3 - "$name" "$scratch/answers" $questions <<'PYTHON'
import json
import sys

name, answers, questions = sys.argv[1:]
answers = [json.loads(line) for line in open(answers)]
expected = [json.loads(line)["expected"] for line in open(questions)]
assert len(answers) == len(expected) > 0
valid = named = right = 0
for answer, call in zip(answers, expected):
    calls = answer.get("tool_calls", [])
    valid += bool(calls)
    named += len(calls) == 1 and calls[0]["function"]["name"] == call["name"]
    right += len(calls) == 1 and calls[0]["function"] == call
n = len(expected)
print(f"{name:7} {n} questions: {valid} valid calls ({valid / n:.0%}), {named} of the right tool "
      f"({named / n:.0%}), {right} with the right arguments ({right / n:.0%})")
PYTHON
}

date -u +%Y-%m-%d
grep -m1 'model name' /proc/cpuinfo || true
nproc
measure before
start=$(date +%s)
"$jambatune" train $recipe output_dir="$scratch/out" </dev/null 2>"$scratch/log" || {
    cat "$scratch/log" >&2
    exit 1
}
grep '^validation loss' "$scratch/log"
echo "trained in $(($(date +%s) - start)) s"
measure after --adapter "$scratch/out"
