#!/usr/bin/env python3
"""Checks what carries loss in conversations, on the chat templates of public packages.

    python3 tests/reference/check_masks.py build/render_chat FOLDER [-o tests/reference/MASKS.md]

FOLDER keeps the source packages as for jinja_conformance.py, whose templates these are; datasets/templates are added.
Each is given the same generated conversations, with the quick start's tokenizer. render_chat's text and ids must be those
of transformers' apply_chat_template (ids where no content spells a special token), its mask return_assistant_tokens_mask
where the template has {% generation %}; and of every text: the spans concatenate to it, every content of the assistant that
is in it carries loss, nothing of the others does, and no token in a content is special. Needs transformers and pip.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(__file__))
import jinja_conformance as packages  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "recipes/quickstart/base")
DATE = "2024-02-03 04:05:06"
N_CONVERSATION = 200
WORDS = "river stone mill Grüße 東京 naïve мир שלום 🙂 e\u0301 ß 42 3.14 [1] {x} <b> a<b \" ' \\ .".split()
SPECIAL = ["<|eom|>", "<|startoftext|>", "<|user|>", "<|endoftext|>"]


class Talk:
    """A conversation whose every string can be told from the others."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.n = 0
        self.assistant, self.others, self.optional = [], [], []
        self.spells = False
        rng = self.rng
        self.special = seed % 4 == 3
        self.reasons = rng.random() < 0.4
        tools = rng.random() < 0.4
        messages = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": self.text(self.others)})
        for _ in range(rng.choice([1, 1, 2, 3])):
            messages.append({"role": "user", "content": self.text(self.others)})
            while tools and rng.random() < 0.5:
                n = rng.choice([1, 1, 2])
                calls = [self.call(f"call{len(messages)}{k}00") for k in range(n)]
                content = self.text(self.assistant) if rng.random() < 0.3 else ""
                messages.append({"role": "assistant", "content": content, "tool_calls": calls})
                for call in calls:
                    result = {"role": "tool", "tool_call_id": call["id"], "name": "f", "content": self.text(self.others)}
                    messages.append(result)
            messages.append(self.answer())
        if rng.random() < 0.15:
            messages.append({"role": "user", "content": self.text(self.others)})
        self.record = {"messages": messages}
        if tools:
            schema = {"type": "object", "properties": {"x": {"type": "string", "description": self.text(self.others)}}}
            self.record["tools"] = [
                {"type": "function", "function": {"name": "f", "description": "Finds.", "parameters": schema}}
            ]

    def text(self, kind, inner=False):
        """One of a kind; white space at the ends now and then."""
        self.n += 1
        words = [f"w{self.n}x"] + [self.rng.choice(WORDS) for _ in range(self.rng.randint(0, 6))] + [f"y{self.n}z"]
        if self.special and self.rng.random() < 0.3:
            words.insert(1, self.rng.choice(SPECIAL))
            self.spells = True
        text = self.rng.choice([" ", "\n"]).join(words)
        kind.append(text)
        if not inner and self.rng.random() < 0.1:
            text = self.rng.choice([" ", "\n", "\n\n"]) + text + self.rng.choice([" ", "\n"])
        return text

    def call(self, name):
        arguments = {"x": self.text(self.optional, inner=True), "n": self.rng.randint(0, 9)}
        return {"type": "function", "id": name, "function": {"name": "f", "arguments": arguments}}

    def answer(self):
        message = {"role": "assistant", "content": self.text(self.assistant)}
        if self.reasons and self.rng.random() < 0.5:
            message["reasoning_content"] = self.text(self.optional, inner=True)
        elif self.reasons and self.rng.random() < 0.5:
            message["content"] = f"<think>\n{self.text(self.optional, inner=True)}\n</think>\n\n" + message["content"].strip()
        return message


def occurrences(text, part):
    return [(m.start(), m.start() + len(part)) for m in re.finditer(re.escape(part), text)]


def check_properties(talk, out, special_ids):
    """What is wrong with a rendering."""
    text = out["text"].encode()
    spans, wrong = out["spans"], []
    if [s[0] for s in spans] != [0] * bool(spans) + [s[1] for s in spans[:-1]] or (spans[-1][1] if spans else 0) != len(text):
        wrong.append("spans do not concatenate to the text")
    trained = bytearray(len(text))
    for begin, end, train in spans:
        trained[begin:end] = bytes([train]) * (end - begin)
    for part in talk.assistant + talk.optional:
        if any(0 in trained[a:b] for a, b in occurrences(text, part.encode())):
            wrong.append("what the assistant says carries no loss")
    for part in talk.others:
        if any(1 in trained[a:b] for a, b in occurrences(text, part.encode())):
            wrong.append("what others say carries loss")
    contents = [r for part in talk.assistant + talk.optional + talk.others for r in occurrences(text, part.encode())]
    for token, begin in zip(out["ids"], out["begin"], strict=True):
        if token in special_ids and any(a <= begin < b for a, b in contents):
            wrong.append("a special token inside a content")
    by_begin = [int(begin < len(text) and trained[begin]) for begin in out["begin"]]
    if any(a != b and not straddles(out, k) for k, (a, b) in enumerate(zip(by_begin, out["trained"], strict=True))):
        wrong.append("tokens disagree with the spans")
    # What follows the answer that ends the conversation is the end of its turn.
    if talk.record["messages"][-1]["role"] == "assistant" and out["method"] != "{% generation %}":
        for _, end in occurrences(text, talk.assistant[-1].encode())[-1:]:
            while end < len(text) and text[end : end + 1].isspace():
                end += 1
            if end < len(text) and not trained[end]:
                wrong.append("the end of the last turn carries no loss")
    return wrong


def straddles(out, k):
    """Token k begins before the span in which it ends."""
    begin = out["begin"][k]
    end = out["begin"][k + 1] if k + 1 < len(out["ids"]) else len(out["text"].encode())
    return any(train and begin < a < end for a, _, train in out["spans"])


def ours(program, template, records_path):
    with tempfile.NamedTemporaryFile("w", suffix=".jinja", encoding="utf-8", newline="") as f:
        f.write(template)
        f.flush()
        done = subprocess.run([program, MODEL, f.name, DATE, records_path], capture_output=True, check=False)
    if done.returncode != 0:
        return done.stderr.decode().strip()
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def reason(error):
    """An error without its place and its strings."""
    text = re.sub(r"^[^ ]*: ", "", error)
    text = re.sub(r"[^ ]*\.jinja:\d+:\d+: .*", "the template fails", text)
    text = re.sub(r"\"[^\"]*\"", '"..."', text)
    return re.sub(r"\d+", "N", re.sub(r"messages\[\d+\]", "a message", text))[:230]


def compare(tokenizer, talk, template, out, counts, wrong):
    """One conversation: transformers' text, ids and mask beside ours."""
    record = json.loads(json.dumps(talk.record))
    try:
        theirs = tokenizer.apply_chat_template(
            record["messages"],
            tools=record.get("tools"),
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        text = tokenizer.apply_chat_template(
            record["messages"], tools=record.get("tools"), chat_template=template, tokenize=False
        )
    except Exception as e:  # noqa: BLE001: whatever it is, the template does not take the conversation
        counts["the template refuses"] += 1
        if "error" not in out:
            wrong.append(f"should fail: {type(e).__name__}")
        return
    if "error" in out:
        counts["refused"] += 1
        counts["why: " + reason(out["error"])] += 1
        return
    counts[out["method"]] += 1
    if text != out["text"]:
        wrong.append("text differs")
        return
    if not talk.spells:
        counts["ids equal"] += theirs["input_ids"] == out["ids"]
        if theirs["input_ids"] != out["ids"]:
            wrong.append("ids differ")
            return
    if out["method"] == "{% generation %}" and not talk.spells:
        pairs = zip(theirs["assistant_masks"], out["trained"], strict=True)
        different = [k for k, (a, b) in enumerate(pairs) if a != b]
        counts["masks equal"] += not different
        if different:
            wrong.append("masks differ")


def find_templates(folder):
    found, versions, seen = [], [], set()
    for package in packages.PACKAGES:
        root, version = packages.fetch(package, folder)
        versions.append(f"{package} {version}")
        found += [(package, name, text) for name, text in packages.templates_of(root)]
    for name in ["jamba", "chatml"]:
        path = os.path.join(ROOT, "datasets/templates", name + ".jinja")
        found.append(("ours", name, open(path, encoding="utf-8").read()))
    unique = []
    for package, name, text in found:
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            unique.append((package, name, digest, text))
    return unique, versions


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("-o", "--output")
    parser.add_argument("--only", help="templates whose name has this, and print what is wrong")
    args = parser.parse_args()

    module = packages.load_reference()
    import transformers

    assert packages.NOW.strftime("%Y-%m-%d %H:%M:%S") == DATE
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(MODEL)
    special_ids = set(tokenizer.all_special_ids) | {t for t, a in tokenizer.added_tokens_decoder.items() if a.special}
    talks = [Talk(seed) for seed in range(N_CONVERSATION)]
    records_path = os.path.join(args.folder, "talks.jsonl")
    with open(records_path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(talk.record, ensure_ascii=False) + "\n" for talk in talks)

    templates, versions = find_templates(args.folder)
    rows, total, faults = [], collections.Counter(), collections.Counter()
    n_run = n_whole = 0
    for package, name, digest, text in templates:
        if args.only and args.only not in name:
            continue
        mine = ours(args.program, text, records_path)
        counts, wrong = collections.Counter(), []
        for k, talk in enumerate(talks):
            here = []
            out = {"error": mine} if isinstance(mine, str) else mine[k]
            compare(tokenizer, talk, text, out, counts, here)
            if "error" not in out:
                here += check_properties(talk, out, special_ids)
            wrong += here
            if args.only and (here or "error" in out):
                print(name, k, here, out.get("error", ""))
        total += counts
        faults.update(wrong)
        rendered = N_CONVERSATION - counts["the template refuses"]
        n_run += rendered > 0
        n_whole += rendered > 0 and counts["refused"] == 0 and not wrong
        note = "; ".join(f"{what} ({n})" for what, n in collections.Counter(wrong).most_common(3))
        methods = [counts["{% generation %}"], counts["growing prefixes"], counts["marked contents"], counts["refused"]]
        rows.append([package, f"{name} `{digest[:8]}`", rendered, *methods, counts["masks equal"], note])

    lines = [
        "# What carries loss in conversations",
        "",
        f"{len(rows)} chat templates of {', '.join(versions)} and our own, {N_CONVERSATION} generated conversations each, with",
        f"`recipes/quickstart/base`'s tokenizer, against transformers {transformers.__version__}. Made by",
        "",
        "    python3 tests/reference/check_masks.py build/render_chat FOLDER -o tests/reference/MASKS.md",
        "",
        f"{n_run} templates take at least one of the conversations; {n_whole} of them have a mask for every conversation that they",
        "take, with nothing wrong.",
        "",
        "| of all conversations that a template takes | |",
        "|---|--:|",
    ]
    names = ["{% generation %}", "growing prefixes", "marked contents", "refused"]
    lines += [f"| {'refused' if n == 'refused' else 'found by ' + n} | {total[n]} |" for n in names]
    lines += [
        f"| ids equal transformers' (no special token spelled) | {total['ids equal']} |",
        f"| masks equal transformers' ({{% generation %}}, no special token spelled) | {total['masks equal']} |",
        "",
        "Refused, and why:",
        "",
    ]
    lines += [f"- {n}: {why[5:]}" for why, n in total.most_common() if why.startswith("why: ")] + [""]
    lines += ["Wrong: " + ("nothing." if not faults else "; ".join(f"{w} ({n})" for w, n in faults.most_common())), ""]
    lines += ["| package | template | taken | generation | prefixes | marks | refused | masks equal | wrong |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|---|"]
    lines += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    if args.output:
        open(args.output, "w", encoding="utf-8").write(text)
    else:
        print(text)
    del module
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
