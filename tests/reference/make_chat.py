#!/usr/bin/env python3
"""Writes tests/fixtures/chat.json: conversations as transformers renders, tokenises and masks them.

    python3 tests/reference/make_chat.py

Five templates (our two by name, three made here: one plain, one that leaves past reasoning out, one with {% generation %}
and no special tokens), the quick start's tokenizer and those of tests/fixtures/tokenizers in turn. Needs transformers.
"""

import datetime
import json
import os

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOKENIZERS = ["recipes/quickstart/base"] + [f"tests/fixtures/tokenizers/{n}" for n in ["jamba", "llama", "metaspace", "split"]]
NOW = datetime.datetime(2025, 3, 9, 8, 5, 1)

TEMPLATES = {
    "jamba": None,
    "chatml": None,
    "plain": """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
<|user|>[{{ message.name }}] {{ message.content }}<|eom|>
    {%- elif message.role == 'assistant' %}
<|bom|>{{ message.content or '' }}
        {%- for call in message.tool_calls or [] %}
CALL {{ call.function.name }} {{ call.function.arguments | tojson }}
        {%- endfor %}
        {{- '<|eom|>' }}
    {%- else %}
<|user|>{{ message.role }}: {{ message.content }}<|eom|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|bom|>
{%- endif %}
""",
    "past": """{%- set ns = namespace(last=0) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{{- strftime_now('%d %b %Y') + '\\n' -}}
{%- for message in messages -%}
  {%- set reasoning = message.reasoning_content or '' -%}
  {%- set content = message.content or '' -%}
  {%- if '</think>' in content -%}
    {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip() -%}
    {%- set content = content.split('</think>')[-1].lstrip() -%}
  {%- endif -%}
  {{- '<|bom|>' + message.role + '\\n' -}}
  {%- if reasoning and loop.index0 > ns.last -%}
    {{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' -}}
  {%- endif -%}
  {{- content | trim -}}
  {%- for call in message.tool_calls or [] -%}
    {{- '<tool_calls>' + (call.function | tojson) + '</tool_calls>' -}}
  {%- endfor -%}
  {{- '<|eom|>\\n' -}}
{%- endfor -%}
{{- '<|bom|>assistant\\n' if add_generation_prompt else '' -}}
""",
    "marked": """{%- for message in messages %}
{%- if message.role == 'assistant' %}
### Answer:
{% generation %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %} [{{ call.function.name }}({{ call.function.arguments | tojson }})]
{%- endfor %}
{{- '\\n' }}{% endgeneration %}
{%- else %}
### {{ message.role | capitalize }}:
{{ message.content }}
{% endif %}
{%- endfor %}
""",
}

FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds a mill.",
        "parameters": {"type": "object", "properties": {"river": {"type": "string"}}, "required": ["river"]},
    },
}


def call(ident, river, n=1):
    arguments = {"river": river, "n": n}
    return {"id": ident, "type": "function", "function": {"name": "find", "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def says(text, **more):
    return {"role": "assistant", "content": text, **more}


CONVERSATIONS = [
    {"messages": [user("Where is the mill?"), says("By the river.")]},
    {"messages": [{"role": "system", "content": "Be brief."}, user("Où ça ?"), says("Là-bas, « ici ».")]},
    {"messages": [user("one"), says("two"), user("three"), says("four"), user("five")]},
    {"messages": [user("  both ends \n"), says("\n and here  "), user("again"), says("yes.")]},
    {"messages": [user("日本語 🙂"), says("e\u0301 und ß 👩\u200d👧"), user("<b>&amp; {{ x }}"), says('{"a": [1, 2.5, null]}')]},
    {
        "messages": [
            user("Which mill is there?"),
            says(None, tool_calls=[call("c1", "Aar")]),
            {"role": "tool", "name": "find", "tool_call_id": "c1", "content": '{"mill": "Lower"}'},
            says("The Lower Mill."),
        ],
        "tools": [FIND],
    },
    {
        "messages": [
            user("And both?"),
            says("Let me see.", tool_calls=[call("c1", "Reuß", 2), call("c2", "Limmat")]),
            {"role": "tool", "name": "find", "tool_call_id": "c1", "content": "Upper"},
            {"role": "tool", "name": "find", "tool_call_id": "c2", "content": "None"},
            says("Only one."),
            user("Thanks."),
            says("You are welcome."),
        ],
        "tools": [FIND],
    },
    {"messages": [user("Why?"), says("Because.", reasoning_content="Hm, causes."), user("So?"), says("Thus.", reasoning_content="Aha.")]},
    {"messages": [user("Think."), says("<think>\nlong thought\n</think>\n\nshort answer"), user("More."), says("<think>\nnew\n</think>\n\nfine")]},
    {
        "messages": [user("first"), says("alpha"), user("What do they say?"), says("That it rains.")],
        "documents": [{"title": "Almanac", "text": "Rain, then more rain."}, {"text": "No title.", "shelf_mark": 7}],
    },
    {"messages": [user("What is <|eom|> here?"), says("It is </s> no <|user|> mark <|endoftext|>.")]},
    {"messages": [user("x" * 300), says("y" * 300), user(""), says("")]},
]  # fmt: skip


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)


def said(messages, mine):
    """What the assistant says, or what the others do."""
    found = []
    for message in messages:
        if (message["role"] == "assistant") != mine:
            continue
        found += [part.strip() for part in (message["content"] or "").replace("<think>", "</think>").split("</think>")]
        found += list(strings(message.get("reasoning_content")))
        for one in message.get("tool_calls", []):
            found += list(strings(one["function"]["arguments"]))
    return [text for text in found if len(text) > 2]


def reference(tokenizer, template, record):
    try:
        out = tokenizer.apply_chat_template(
            record["messages"],
            tools=record.get("tools"),
            documents=record.get("documents"),
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        text = tokenizer.apply_chat_template(
            record["messages"],
            tools=record.get("tools"),
            documents=record.get("documents"),
            chat_template=template,
            tokenize=False,
        )
    except Exception as e:  # noqa: BLE001
        return {"fails": str(e)}
    has_mask = "{%- generation" in template or "{% generation" in template
    return {"text": text, "ids": out["input_ids"], "mask": out["assistant_masks"] if has_mask else None}


def open_tokenizer(folder):
    config = json.load(open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8"))
    named = {key: config.get(key) for key in ["bos_token", "eos_token", "unk_token", "pad_token"]}
    named = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items() if value}
    return PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"), **named)


def main():
    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    chat_template_utils.datetime = Fixed
    tokenizers = {}
    for folder in TOKENIZERS:
        tokenizers[folder] = open_tokenizer(os.path.join(ROOT, folder))
    cases = []
    for t, (name, text) in enumerate(TEMPLATES.items()):
        if text is None:
            text = open(os.path.join(ROOT, f"datasets/templates/{name}.jinja"), encoding="utf-8").read()
        for k, record in enumerate(CONVERSATIONS):
            folder = TOKENIZERS[(k + t) % len(TOKENIZERS)]
            tokenizer = tokenizers[folder]
            everything = json.dumps(record, ensure_ascii=False)
            specials = [a.content for a in tokenizer.added_tokens_decoder.values() if a.special]
            cases.append(
                {
                    "template": name,
                    "tokenizer": folder,
                    "record": record,
                    "assistant": said(record["messages"], True),
                    "others": said(record["messages"], False),
                    "spells_special": any(s in everything for s in specials),
                    **reference(tokenizer, text, record),
                }
            )
    fixture = {
        "date": NOW.strftime("%Y-%m-%d %H:%M:%S"),
        "templates": {name: text for name, text in TEMPLATES.items() if text is not None},
        "cases": cases,
    }
    path = os.path.join(ROOT, "tests/fixtures/chat.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\n")
        f.write(f'"date": {json.dumps(fixture["date"])},\n"templates": {json.dumps(fixture["templates"], indent=1)},\n"cases": [\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
