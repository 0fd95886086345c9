#!/bin/bash
# Conversations as a user meets them: preview, validate, generate --chat and --json.
#
#     tests/cli/test_chat.sh build/jambatune       # from the repository's root
set -u
. tests/support/checks.sh
program=$1
base=recipes/quickstart/base
scratch=$(mktemp -d "${TMPDIR:-/tmp}/jambatune-chat.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
out=$scratch/stdout err=$scratch/stderr

run() { # ARGUMENT...: sets $code, fills $out and $err; stdin is $input
    printf '%s' "${input:-}" | "$program" "$@" >"$out" 2>"$err"
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

works() { # ARGUMENT...
    run "$@"
    check "exit code of: $*" same "0 " "$code $(cat "$err")"
}

shows() { # TEXT...: parts of the last stdout
    local text
    for text in "$@"; do
        check "'$text' in the output" grep -qF -- "$text" "$out"
    done
}

unset NO_COLOR

# ---- the data of each type ----

tools='[{"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}]'
call='{"type": "function", "function": {"name": "get_time", "arguments": {"city": "Oslo"}}}'
cat >"$scratch/text.jsonl" <<'DATA'
{"text": "The sun is up."}
DATA
cat >"$scratch/completion.jsonl" <<'DATA'
{"prompt": "The sun", "completion": " is up."}
DATA
cat >"$scratch/input_ids.jsonl" <<'DATA'
{"input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2]}
DATA
cat >"$scratch/chat.jsonl" <<DATA
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}
{"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": null, "tool_calls": [$call]}, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "At three."}], "tools": $tools}
DATA
for type in text completion input_ids chat; do
    cat >"$scratch/$type.yaml" <<RECIPE
base_model: $PWD/$base
chat_template: chatml
datasets:
  - path: $type.jsonl
    type: $type
shuffle: false
RECIPE
done

# ---- preview ----

preview() { # TYPE EXPECTED: what is shown of the first document, without its heading and the counts
    works preview "$scratch/$1.yaml" -n 1
    check "preview of $1" same "$2" "$(sed '1d;/^$/,$d' "$out")"
}
preview text '<|startoftext|>|[The][ sun][ is][ up][.][<|endoftext|>]'
preview completion '<|startoftext|>|The| sun|[ is][ up][.][<|endoftext|>]'
preview chat '<|startoftext|>|<|||im|_|st|art|||>|us|er|⏎|
H|i|<|||im|_|end|||>|⏎|
<|||im|_|st|art|||>|ass|ist|ant|⏎|
[Y][o][<][|][im][_][end][|][>]⏎|'
works preview "$scratch/input_ids.yaml" -n 1
shows 'document 1: ' 'input_ids.jsonl:1, 4 tokens, 2 carry loss' \
    'training    1 documents, 4 tokens, 2 of them carry loss'
check 'input_ids: what carries loss' grep -qxE '<\|startoftext\|>\|[^][]+\|\[[^]]+\]\[<\|endoftext\|>\]' "$out"

works preview "$scratch/chat.yaml"
shows 'document 2: ' '[A][t][ three][.][<][|][im][_][end][|][>]' '[<][to][ol][_][c][all][>]'
works preview "$scratch/text.yaml" --color
shows $'\e[1;32mThe\e[0m' 'training    1 documents'
NO_COLOR=1 works preview "$scratch/text.yaml"
shows '[The]'

printf '%s\n' '{"text": "a\tb\nc\u0007\u200b"}' >"$scratch/text.jsonl"
works preview "$scratch/text.yaml"
shows '[⇥]' '[⏎]' '[<0x07>]' '[<0xE2>][<0x80>][<0x8B>]'

# Counts: four documents, of which two are too long.
for n in 3 5 5 30; do
    printf '{"input_ids": [%s]}\n' "$(seq -s , 100 $((99 + n)))"
done >"$scratch/input_ids.jsonl"
count() { # STRATEGY KEY VALUE...: of preview --json
    works preview "$scratch/input_ids.yaml" --json sequence_len=4 excess_length_strategy="$1"
    shift
    while [ $# -gt 0 ]; do
        check "count of $1" grep -qxE " *\"$1\": $2,?" "$out"
        shift 2
    done
}
count truncate records 4 documents 4 tokens 15 trained_tokens 11 longest 4 truncated 3 tokens_cut 28
count drop documents 1 tokens 3 trained_tokens 2 dropped_too_long 3 truncated 0
count split documents 11 split 3 pieces 10 targets_cut 9
works preview "$scratch/input_ids.yaml" sequence_len=4
shows '3 records cut to sequence_len, 28 tokens lost' '2 to 3               1 ' '4 to 7               3 #'

# A page: its tags and text, by their characters.
page() { # FILE: well-formed, and nothing in it is markup but ours
    local tags='html|head|title|style|body|h1|h2|p|b|i|pre|table|tr|th|td|div'
    local void='<meta [^<>]*/>|<!DOCTYPE html>' tag
    local text
    text=$(sed -E "s#<($tags)( (lang|title|class|style)=\"[^\"<>]*\")*>##g;s#</($tags)>##g;s#$void##g" "$1")
    check 'no < or > outside tags' same "" "$(grep -E '[<>]' <<<"$text")"
    check 'no bare &' same "" "$(grep -E '&([^alg q]|$)' <<<"$text")"
    for tag in ${tags//|/ }; do
        check "each <$tag> has its end" same "$(grep -oE "<$tag[ >]" "$1" | wc -l)" \
            "$(grep -oF "</$tag>" "$1" | wc -l)"
    done
    check 'no script' bash -c "! grep -qi '<script\|http' '$1'"
}
cat >"$scratch/text.jsonl" <<'DATA'
{"text": "</pre><script>alert(\"1\")</script> & <b title='x'>\u0000\u001b[31m\nend"}
{"text": "]]> <!-- <|im_end|> é 漢"}
DATA
mkdir "$scratch/a&<b>"
cp "$scratch"/text.* "$scratch/a&<b>"
works preview "$scratch/a&<b>/text.yaml" --html "$scratch/page.html"
shows 'training    2 documents'
check 'the documents are not on stdout' same 0 "$(grep -c startoftext "$out")"
check 'some page' [ "$(wc -c <"$scratch/page.html")" -gt 2000 ]
page "$scratch/page.html"
check 'both documents' same 2 "$(grep -c '^<h2>document ' "$scratch/page.html")"
check 'width of a phone' grep -q 'name="viewport" content="width=device-width' "$scratch/page.html"
check 'dark and light' grep -q 'prefers-color-scheme: dark' "$scratch/page.html"
check 'control characters shown' grep -q '&lt;0x1B&gt;' "$scratch/page.html"
check 'what carries loss' grep -q '<b title="2" class="special">&lt;|endoftext|&gt;</b>' "$scratch/page.html"
check 'what does not' grep -q '<i title="1" class="special">&lt;|startoftext|&gt;</i>' "$scratch/page.html"
refuses 73 "$scratch/none/page.html: cannot be created: No such file or directory" \
    preview "$scratch/text.yaml" --html "$scratch/none/page.html"
refuses 73 "$scratch/text.jsonl: is there and no HTML page, and is left alone; give another name" \
    preview "$scratch/text.yaml" --html "$scratch/text.jsonl"
refuses 73 "$scratch: is a folder; expected a file, such as $scratch/preview.html" \
    preview "$scratch/text.yaml" --html "$scratch"
refuses 64 "command line: the name of what to write is empty" preview "$scratch/text.yaml" --html ""
works preview "$scratch/text.yaml" --html "$scratch/page.html"
refuses 64 "command line: --n: '-1' is out of range; expected a whole number of at least 0" \
    preview "$scratch/text.yaml" -n -1
refuses 64 "command line: --n: needs a value; expected --n N" preview "$scratch/text.yaml" -n
refuses 64 "command line: unknown option '-m'; options are spelled out, as in '--help'" \
    preview "$scratch/text.yaml" -m 1
refuses 64 "command line: unknown option '--htm'; did you mean '--html'?" preview "$scratch/text.yaml" --htm
refuses 64 "command line: names nothing to work on; usage: jambatune preview RECIPE [-n N] [key=value ...]" preview

# ---- validate ----

works validate "$scratch/chat.yaml"
shows '(chat): 2 records, 2 documents, ' ' with loss; the longest has ' 'nothing found wrong'
counted=$(sed -n 's/.*documents, \([0-9]*\) tokens, \([0-9]*\) with loss; .*/\1 \2/p' "$out")
works preview "$scratch/chat.yaml" --json
check 'validate and preview agree' same "$counted" \
    "$(sed -n 's/.*"tokens": \([0-9]*\),/\1/p;s/.*"trained_tokens": \([0-9]*\),/\1/p' "$out" | paste -sd' ')"
works validate "$scratch/chat.yaml" sequence_len=60
shows ' records cut to sequence_len' ' tokens lost by that'

run validate recipes/chat-tools.yaml
check 'the shipped recipe' same 0 "$code"
shows '(chat): 390 records, 390 documents, ' 'nothing found wrong'

# ---- generate --json ----

model=base_model=$base
chatml=chat_template=chatml
few='--greedy --max-new-tokens 8'
cat >"$scratch/ask.jsonl" <<DATA
{"messages": [{"role": "user", "content": "Hi"}]}
{"messages": [{"role": "user", "content": "When?"}], "tools": $tools, "documents": [{"title": "a", "text": "b"}]}
DATA
works generate $model $chatml $few --json "$scratch/ask.jsonl" --message
check 'a message a line' same 2 "$(grep -cE '^\{"role":"assistant","content":".*"\}$' "$out")"
both=$(cat "$out")
printf '{\n  "messages": [\n    {"role": "user", "content": "Hi"}\n  ]\n}\n' >"$scratch/one.json"
works generate $model $chatml $few --json "$scratch/one.json" --message
check 'each is answered by itself' same "$(head -1 <<<"$both")" "$(cat "$out")"
works generate $model $chatml $few --json "$scratch/one.json"
check 'the text is the content' same "$(head -1 <<<"$both" | sed 's/.*"content":"//;s/"}$//')" \
    "$(sed 's/^ *//' "$out")"
works generate $model chat_template=jamba $few --json "$scratch/ask.jsonl" --message
check 'by the other template' same 2 "$(wc -l <"$out")"
works generate $model $chatml --seed 3 --max-new-tokens 8 --json "$scratch/ask.jsonl"
drawn=$(cat "$out")
works generate $model $chatml --seed 3 --max-new-tokens 8 --json "$scratch/ask.jsonl"
check 'the same seed, the same answers' same "$drawn" "$(cat "$out")"

refuses 66 "$scratch/one.json: $base has no chat template, neither chat_template.jinja nor \"chat_template\" in tokenizer_config.json; set chat_template to a template's file, to 'jamba' (<|bom|> ... <|eom|>) or to 'chatml' (<|im_start|> ... <|im_end|>)" \
    generate $model --json "$scratch/one.json"
refuses 66 "$scratch/none.jsonl: no such file or folder; expected a JSONL or JSON file, or a folder of them (a data set of the hub must be downloaded first)" \
    generate $model $chatml --json "$scratch/none.jsonl"
echo '{"messages": [{"role": "bot", "content": "x"}]}' >"$scratch/bad.jsonl"
run generate $model $chatml --json "$scratch/bad.jsonl"
check 'a bad role' same 65 "$code"
check 'a bad role is named' grep -qF "jambatune: $scratch/bad.jsonl: messages[0]: \"role\" is \"bot\"" "$err"
head -1 "$scratch/chat.jsonl" >"$scratch/answered.jsonl"
refuses 65 "$scratch/answered.jsonl: its last message is the assistant's, so there is nothing to answer; expected a user's or a tool's last" \
    generate $model $chatml --json "$scratch/answered.jsonl"
echo '{{ raise_exception("only in verse") }}' >"$scratch/verse.jinja"
run generate $model "chat_template=$scratch/verse.jinja" --json "$scratch/ask.jsonl"
check 'what a template raises' same 65 "$code"
check 'what a template raises is told' grep -q "^jambatune: $scratch/ask.jsonl:1: .*only in verse" "$err"

# ---- generate --chat ----

input=$'Hi\n\nAnd you?\r\n'
works generate $model $chatml $few --chat --system 'Be brief.'
check 'an answer to each line that is not empty' same 2 "$(wc -l <"$out")"
input=''
works generate $model $chatml $few --chat
check 'no question, no answer' same "" "$(cat "$out")"
echo "$tools" >"$scratch/tools.json"
echo '[{"title": "a", "text": "b"}]' >"$scratch/documents.json"
input='Hi'
works generate $model chat_template=jamba $few --chat --tools "$scratch/tools.json" --documents "$scratch/documents.json"
check 'with tools and documents' same 1 "$(wc -l <"$out")"
input=$'a\xff\n'
refuses 65 'stdin:1: is longer than 16 MiB or no text; expected a line of UTF-8' generate $model $chatml --chat
head -c 17000000 /dev/zero | tr '\0' a >"$scratch/long"
"$program" generate $model $chatml --chat <"$scratch/long" >"$out" 2>"$err"
check 'a line without end' same '65 jambatune: stdin:1: is longer than 16 MiB or no text; expected a line of UTF-8' "$? $(cat "$err")"

# A model that calls two tools, and the results of both typed in: the template takes neither for the user's.
cat >"$scratch/calls.jinja" <<'TEMPLATE'
{%- for m in messages -%}
{%- if m.role == 'user' and m.content in ['3', '4'] %}{{ raise_exception('a result as a question') }}{% endif -%}
{%- if m.role == 'tool' and [m.name, m.content] not in [['f', '3'], ['g', '4']] %}{{ raise_exception('whose result?') }}{% endif -%}
{{ m.role[0] }}:{{ m.content if m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %};
{%- endfor %}{% if add_generation_prompt %}a:{% endif %}
TEMPLATE
cat >"$scratch/calls.jsonl" <<'DATA'
{"messages": [{"role": "user", "content": "the time"}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}, {"function": {"name": "g", "arguments": {}}}]}, {"role": "tool", "name": "f", "content": "3"}, {"role": "tool", "name": "g", "content": "4"}, {"role": "assistant", "content": "three four"}]}
DATA
cat >"$scratch/calls.yaml" <<RECIPE
base_model: $PWD/$base
chat_template: calls.jinja
datasets: [{path: calls.jsonl, type: chat}]
lora_r: 16
lora_alpha: 32
lora_target_modules: [in_proj, x_proj, out_proj, gate_proj, up_proj, down_proj, embed_tokens, lm_head]
micro_batch_size: 1
learning_rate: 1e-2
max_steps: 60
output_dir: calls
RECIPE
input=''
run train "$scratch/calls.yaml"
check 'training on calls' same 0 "$code"
talk=(generate "$scratch/calls.yaml" --adapter "$scratch/calls" --chat --temperature 0 --max-new-tokens 100)
calls='<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": "g", "arguments": {}}</tool_call>'
input=$'the time\n3\n4\n'
works "${talk[@]}"
check 'results typed in are results' same "$calls
three four" "$(cat "$out")"
input=$'the time\n3\n'
works "${talk[@]}"
check 'no answer before all results are there' same "$calls" "$(cat "$out")"
input=$'the time\n4\n3\n'
run "${talk[@]}"
check 'results go to the calls in their order' same '65 jambatune: stdin:3: the chat template refuses it: "whose result?"' "$code $(cat "$err")"

input='Hi'
refuses 65 "$scratch/one.json: is an object; expected a list of objects for --tools" \
    generate $model $chatml --chat --tools "$scratch/one.json"
refuses 66 "$scratch/none.json: No such file or directory" \
    generate $model $chatml --chat --documents "$scratch/none.json"
refuses 66 "--chat: $base has no chat template, neither chat_template.jinja nor \"chat_template\" in tokenizer_config.json; set chat_template to a template's file, to 'jamba' (<|bom|> ... <|eom|>) or to 'chatml' (<|im_start|> ... <|im_end|>)" \
    generate $model --chat
refuses 64 'command line: --prompt: does not go with --chat; leave one out' generate $model --chat --prompt x
refuses 64 'command line: --prompt: does not go with --json; leave one out' generate $model --json x --prompt x
refuses 64 'command line: --chat: does not go with --json; leave one out' generate $model --json x --chat
refuses 64 'command line: --system: goes with --chat only' generate $model --system x
refuses 64 'command line: --tools: goes with --chat only' generate $model --tools x
refuses 64 'command line: --documents: goes with --chat only' generate $model --json x --documents x
refuses 64 'command line: --message: goes with --json FILE only' generate $model --message

end
