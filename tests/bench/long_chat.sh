#!/usr/bin/env bash
# How long it takes to find what carries loss in long conversations, by a template without {% generation %}; Markdown on
# standard output. Rendering every beginning of a conversation would take time by the square of its length.
#
#     tests/bench/long_chat.sh [JAMBATUNE]        # from the repository's root; some seconds
set -euo pipefail
jambatune=${1:-build/jambatune}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-long-chat.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/plain.jinja" <<'TEMPLATE'
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
TEMPLATE
echo "| turns | tokens | seconds, the least of 5 |"
echo "|--:|--:|--:|"
for turns in 30 125 500 2000; do
    python3 - "$turns" >"$scratch/data.jsonl" <<'PYTHON'
import json
import random
import sys

rng = random.Random(1)
words = "the quick brown fox jumps over a lazy dog while seven wizards brew some tea and talk".split()
talk = []
for _ in range(int(sys.argv[1])):
    for role, n in ("user", 20), ("assistant", 30):
        talk.append({"role": role, "content": " ".join(rng.choice(words) for _ in range(n))})
print(json.dumps({"messages": talk}))
PYTHON
    python3 - <<PYTHON
import json
import subprocess
import time

recipe = """base_model: $PWD/recipes/quickstart/base
chat_template: plain.jinja
datasets: [{path: data.jsonl, type: chat}]
sequence_len: 1000000
"""
open("$scratch/r.yaml", "w").write(recipe)
least = 1e9
for _ in range(5):
    begin = time.monotonic()
    out = subprocess.run(["$jambatune", "preview", "$scratch/r.yaml", "--json", "-n", "0"], stdout=subprocess.PIPE, check=True).stdout
    least = min(least, time.monotonic() - begin)
print(f"| $turns | {json.loads(out)['tokens']:,} | {least:.3f} |")
PYTHON
done
