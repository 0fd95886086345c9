#!/usr/bin/env python3
"""Holds our Jinja interpreter to jinja2 as transformers sets it up, on the chat templates of public packages.

    python3 tests/reference/jinja_conformance.py build/render_template FOLDER [-o tests/reference/JINJA.md]

FOLDER keeps the unpacked source packages of axolotl, trl, vllm and llama-cpp-python from PyPI (fetched by pip where they
are missing). Every .jinja and .jinja2 file in them is taken, and every string in their .py and .json files that looks like
a chat template. Each is rendered for the same generated conversations by transformers' own environment and by
render_template; both must give the same bytes and the same generation ranges, or both must fail, with the same text where
the template raised it. The result is Markdown: counts and hashes, no template's text.
Needs transformers (any version with utils/chat_template_utils.py), jinja2 and pip.
"""

import argparse
import ast
import collections
import datetime
import glob
import hashlib
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile

PACKAGES = ["axolotl", "trl", "vllm", "llama-cpp-python"]
N_CONVERSATION = 300
NOW = datetime.datetime(2024, 2, 3, 4, 5, 6)


# --- templates ---


def fetch(package, folder):
    """The package's sources below folder/package. pip also prepares metadata, which may well fail for want of build
    tools: what it had unpacked by then is left there by --no-clean."""
    place = os.path.join(folder, package)
    if not os.path.isdir(place):
        os.makedirs(place)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run(
            command + ["--no-clean", "-d", place, package],
            env={**os.environ, "TMPDIR": os.path.abspath(place)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        for archive in glob.glob(os.path.join(place, "*.tar.gz")):
            with tarfile.open(archive) as tar:
                tar.extractall(place, filter="data")
    for info in sorted(glob.glob(os.path.join(place, "**", "PKG-INFO"), recursive=True), key=len):
        fields = dict(line.split(": ", 1) for line in open(info, encoding="utf-8") if ": " in line and line[0] != " ")
        return os.path.dirname(info), fields["Version"].strip()
    sys.exit(f"{place}: has no source package of {package}")


def looks_like_template(text):
    return "{%" in text and "%}" in text and "message" in text and len(text) > 40


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        yield ("" if value[0].endswith("\n") else "\n").join(value)  # a template in lines
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)


def templates_of(root):
    """(name, text) of all templates below root."""
    for path in sorted(glob.glob(os.path.join(root, "**", "*"), recursive=True)):
        name = os.path.relpath(path, root)
        if not os.path.isfile(path) or os.path.islink(path):
            continue
        if path.endswith((".jinja", ".jinja2")):
            yield name, open(path, encoding="utf-8", newline="").read()
            continue
        if not path.endswith((".py", ".json")) or os.path.getsize(path) > 20_000_000:
            continue
        try:
            text = open(path, encoding="utf-8").read()
            if "{%" not in text:
                continue
            if path.endswith(".json"):
                found = list(strings_of(json.loads(text)))
            else:
                tree = ast.parse(text)
                formatted = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
                formatted |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # docstrings
                found = [
                    n.value
                    for n in ast.walk(tree)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in formatted
                ]
        except (SyntaxError, ValueError):
            continue
        for i, one in enumerate(t for t in found if looks_like_template(t)):
            yield f"{name}#{i + 1}", one


# --- conversations ---

WORDS = (
    "the quick brown fox Grüße 東京 naïve Ελλάς мир שלום مرحبا 🙂 👩‍👩‍👧 e\u0301 ﬁn ǅ ß İstanbul ΑΣ "
    "0 42 3.14 -7 1e9 null true None NaN"
).split()
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<|eot_id|>", "<|start_header_id|>", "<bos>", "<eos>",
    "<|startoftext|>", "<|bom|>", "<|eom|>", "<tool_call>", "</tool_call>", "<think>", "</think>", "<|endoftext|>", "<|end|>",
    "<start_of_turn>", "<end_of_turn>", "<|channel|>", "<|message|>", "[TOOL_CALLS]", "<image>",
]  # fmt: skip
ODD = [
    "", " ", "\n", "\t \n ", "  both ends  ", "line\nline\r\nline\rline\n\n", "tab\there", "quote \" ' ` \\ slash /",
    "<b>&amp; &lt;</b>", "{{ not_a_variable }} {% if x %}", "{'a': 1}", '{"a": [1, 2.50, null]}', "a" * 300, "\u00a0nbsp\u3000",
    "\u2028sep\u2029", "\x00nul"[1:], "\x7f\x1b[0m", "%s %d {} {0}", "<think>\nhidden\n</think>\n\nseen", "<think></think>",
    "</think> after", "a<think>b</think>c<think>d</think>e", "REASONING: x", "1", "0", "<|im_start|>user\ninjected<|im_end|>",
    "```python\nprint('x')\n```", "/no_think", "/think hi", "null", "[]", "…—–“”", "𝔘𝔫𝔦", "\ufeffbom",
]  # fmt: skip


def text_of(rng):
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(ODD)
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 12))]
    if kind < 0.5:
        words.insert(rng.randint(0, len(words)), rng.choice(SPECIAL))
    return rng.choice([" ", " ", "\n", ", "]).join(words)


def json_value(rng, depth=0):
    kinds = ["text", "int", "float", "bool", "null", "list", "dict"]
    kind = rng.choice(kinds[:5] if depth > 2 else kinds)
    return {
        "text": lambda: text_of(rng),
        "int": lambda: rng.choice([0, 1, -1, 42, 2**40, -(2**53)]),
        "float": lambda: rng.choice([0.0, 1.0, -2.5, 0.1, 1e-7, 1e16, 3.0e22, 123456.789]),
        "bool": lambda: rng.random() < 0.5,
        "null": lambda: None,
        "list": lambda: [json_value(rng, depth + 1) for _ in range(rng.randint(0, 3))],
        "dict": lambda: {rng.choice(WORDS): json_value(rng, depth + 1) for _ in range(rng.randint(0, 3))},
    }[kind]()


def schema(rng, depth=0):
    kind = rng.choice(["string", "integer", "number", "boolean", "array", "object", "enum", "union"][: 8 if depth < 2 else 4])
    s = {"type": kind}
    if rng.random() < 0.6:
        s["description"] = text_of(rng)
    if kind == "array":
        s["items"] = schema(rng, depth + 1) if rng.random() < 0.9 else {}
    elif kind == "object":
        s["properties"] = {f"k{i}": schema(rng, depth + 1) for i in range(rng.randint(0, 3))}
        if rng.random() < 0.5:
            s["required"] = list(s["properties"])[:1]
    elif kind == "enum":
        s = {"type": "string", "enum": [text_of(rng) for _ in range(rng.randint(1, 3))]}
    elif kind == "union":
        s = rng.choice([{"anyOf": [schema(rng, 3), {"type": "null"}]}, {"type": ["string", "null"]}, {"oneOf": [schema(rng, 3)]}])
    if rng.random() < 0.2:
        s["default"] = json_value(rng, 2)
    if rng.random() < 0.1:
        s["nullable"] = rng.random() < 0.5
    return s


def tool(rng, i):
    function = {"name": rng.choice(["get_weather", "search", "add", "f-1", "π"]) + str(i)}
    if rng.random() < 0.9:
        function["description"] = text_of(rng)
    if rng.random() < 0.95:
        properties = {f"{rng.choice(['city', 'n', 'opts', 'ключ'])}{k}": schema(rng) for k in range(rng.randint(0, 4))}
        function["parameters"] = {"type": "object", "properties": properties}
        if rng.random() < 0.7:
            function["parameters"]["required"] = [k for k in properties if rng.random() < 0.5]
    if rng.random() < 0.2:
        function["return"] = {"type": "string", "description": text_of(rng)}
    if rng.random() < 0.1:
        function["strict"] = True
    return {"type": "function", "function": function} if rng.random() < 0.95 else function


def arguments(rng):
    value = {rng.choice(["city0", "n0", "x", "ключ"]): json_value(rng, 1) for _ in range(rng.randint(0, 3))}
    return value if rng.random() < 0.6 else json.dumps(value, ensure_ascii=rng.random() < 0.5)


def content(rng, odd):
    kind = rng.random()
    if kind < 0.8 or not odd:
        return text_of(rng)
    parts = [{"type": "text", "text": text_of(rng)} for _ in range(rng.randint(1, 2))]
    if kind < 0.94:
        extra = [{"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "audio"}, {"type": "video"}]
        if rng.random() < 0.5:
            parts.insert(rng.randint(0, len(parts)), rng.choice(extra))
        return parts
    return rng.choice([None, "", [], parts, parts, {"a": 1}, 5, [text_of(rng)]])


def tool_calls(rng, ids):
    calls = []
    for _ in range(rng.choice([1, 1, 1, 2, 3, 0])):
        call = {"name": f"get_weather{rng.randint(0, 1)}", "arguments": arguments(rng)}
        if rng.random() < 0.85:
            call = {"type": "function", "function": call}
        if rng.random() < 0.8:
            call["id"] = rng.choice(["abcdefghi", "call_%d", "123456789"]).replace("%d", str(len(ids)))
            ids.append(call["id"])
        calls.append(call)
    return calls


def assistant(rng, ids, with_tools, odd):
    m = {"role": "assistant", "content": content(rng, odd)}
    if with_tools and rng.random() < 0.6:
        m["tool_calls"] = tool_calls(rng, ids)
        if rng.random() < 0.5:
            m["content"] = rng.choice([None, ""])
        if rng.random() < 0.1:
            del m["content"]
    for key in ["reasoning_content", "thinking", "reasoning"]:
        if rng.random() < 0.15:
            m[key] = rng.choice([text_of(rng), None, ""])
    if rng.random() < 0.1:
        m["weight"] = rng.randint(0, 1)
    return m


def result(rng, ids, odd):
    m = {"role": "tool", "content": content(rng, odd) if rng.random() < 0.8 else json.dumps(json_value(rng))}
    if rng.random() < 0.7:
        m["name"] = "get_weather0"
    if rng.random() < 0.7:
        m["tool_call_id"] = ids.pop(0) if ids else "call_0"
    return m


def messages(rng, with_tools, odd):
    out, ids = [], []
    if rng.random() < 0.5:
        out.append({"role": rng.choice(["system"] * 6 + ["developer"]), "content": content(rng, odd)})
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 5])):
        out.append({"role": "user", "content": content(rng, odd)})
        if rng.random() < 0.1:
            out[-1]["name"] = rng.choice(WORDS)
        out.append(assistant(rng, ids, with_tools, odd))
        while out[-1].get("tool_calls") and rng.random() < 0.9:
            for _ in out[-1]["tool_calls"]:
                out.append(result(rng, ids, odd))
            out.append(assistant(rng, ids, with_tools, odd))
            if out[-1].get("tool_calls") is None or rng.random() < 0.5:
                break
    if not out or rng.random() < 0.6:
        out.append({"role": "user", "content": content(rng, odd)})
    if not odd:
        return out
    if rng.random() < 0.15:  # out of order
        rng.shuffle(out)
    if rng.random() < 0.06:
        out.insert(rng.randint(0, len(out)), {"role": rng.choice(["narrator", "ipython", "", "User", "documents"]), "content": "x"})
    if rng.random() < 0.03:
        del out[rng.randint(0, len(out) - 1)]["content"]
    return out


def conversation(seed):
    rng = random.Random(seed)
    if seed < 90:  # plain ones, which most templates take, a part of them with contents in parts
        turns = [
            {"role": "user" if i % 2 == 0 else "assistant", "content": text_of(rng)} for i in range(rng.choice([1, 2, 3, 4, 5]))
        ]
        if seed % 2:
            turns.insert(0, {"role": "system", "content": text_of(rng)})
        if seed >= 60:
            for m in turns:
                m["content"] = [{"type": "text", "text": m["content"]}]
                if m["role"] == "user" and rng.random() < 0.4:
                    m["content"].append({"type": "image"})
        elif seed >= 55:  # rerankers
            turns = [{"role": role, "content": text_of(rng)} for role in ["system", "query", "document"][seed % 2 :]]
        v = {"messages": turns, "tools": None, "documents": None}
    else:
        with_tools, odd = rng.random() < 0.6, rng.random() < 0.5
        v = {"messages": messages(rng, with_tools, odd), "tools": None, "documents": None}
        if with_tools:
            v["tools"] = [tool(rng, i) for i in range(rng.choice([0, 1, 1, 2, 3]))]
        if rng.random() < 0.2:
            v["documents"] = [
                {"title": text_of(rng), "text": text_of(rng), **({"doc_id": i, "source": "s"} if rng.random() < 0.5 else {})}
                for i in range(rng.randint(0, 3))
            ]
    v["add_generation_prompt"] = rng.random() < 0.5
    if rng.random() < 0.95:
        v |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    options = {
        "enable_thinking": [True, False, None],
        "thinking": [True, False],
        "reasoning_effort": ["low", "high", "none", "medium"],
        "keep_thinking": [True, False],
        "preserve_thinking": [True, False],
        "clear_thinking": [True, False],
        "thinking_budget": [0, 512, -1],
        "date_string": ["26 Jul 2024"],
        "current_date": ["2024-02-03"],
        "builtin_tools": [["python"], ["browser", "python"], []],
        "custom_tools": [None, [tool(random.Random(7), 0)]],
        "tools_in_user_message": [True, False],
        "citations_mode": ["on", "off"],
        "citation_mode": ["fast", "accurate"],
        "knobs": [{"citation_mode": "fast", "is_json_mode": True}, {}],
        "controls": [{"length": "long", "originality": "abstractive"}, {}],
        "available_tools": [[tool(random.Random(8), 1)], []],
        "xml_tools": [["<x>"], []],
        "python_tools": [["def f(): pass"], []],
        "json_schema": [{"type": "object"}],
        "response_format": [None, {"type": "json"}],
        "model_identity": ["You are it."],
        "system_prompt": ["Be brief."],
        "generation_preamble": ["Sure"],
        "continue_final_message": [True, False],
        "add_vision_id": [True, False],
        "add_default_system_prompt": [True, False],
        "mode": ["chat", "edit"],
        "functions": ["[]", [tool(random.Random(9), 1)]],
        "datetime": ["2024-02-03"],
    }
    for key, values in options.items():
        if rng.random() < (0.5 if seed % 10 == 3 else 0.06):
            v[key] = rng.choice(values)
    return v


# --- both sides ---


def load_reference():
    from transformers.utils import chat_template_utils as module

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    module.datetime = Fixed
    return module


def reference(module, text, conversations):
    """Per conversation ("text", text, ranges), ("raised", message) or ("error", message); or one parse error."""
    import jinja2

    try:
        template = module._compile_jinja_template(text)
    except Exception as e:  # noqa: BLE001: whatever it is, it does not parse
        return f"{type(e).__name__}: {e}"
    results = []
    for variables in conversations:
        v = json.loads(json.dumps(variables))
        fixed = {k: v.pop(k) for k in ["messages", "tools", "documents", "add_generation_prompt"]}
        try:
            rendered, ranges = module._render_with_assistant_indices(template, **fixed, **v)
            results.append(("text", rendered, [list(r) for r in ranges]))
        except jinja2.exceptions.TemplateError as e:
            results.append(("raised" if type(e) is jinja2.exceptions.TemplateError else "error", str(e)))
        except Exception as e:  # noqa: BLE001
            results.append(("error", f"{type(e).__name__}: {e}"))
    return results


def ours(program, text, conversations_path):
    with tempfile.NamedTemporaryFile("w", suffix=".jinja", encoding="utf-8", newline="") as f:
        f.write(text)
        f.flush()
        done = subprocess.run([program, conversations_path, f.name], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{program} failed: {done.stderr.decode()}")
    return json.loads(done.stdout)


def in_bytes(text, ranges):
    return [[len(text[:at].encode()) for at in r] for r in ranges]


def without_place(message):
    parts = message.split(":", 3)
    return parts[3].strip() if len(parts) == 4 else message


def compare(theirs, mine):
    """Counts, and what differed: [(conversation, what)]."""
    counts, different = collections.Counter(), []
    if isinstance(theirs, str) or isinstance(mine, dict):
        if isinstance(theirs, str) and isinstance(mine, dict):
            counts["neither parses"] = 1
        elif isinstance(mine, dict):
            different.append((-1, "refused: " + without_place(mine["error"])))
        else:
            different.append((-1, "should not parse: " + theirs))
        return counts, different
    for i, (t, m) in enumerate(zip(theirs, mine, strict=True)):
        if t[0] == "text" and "text" in m:
            if t[1] != m["text"]:
                different.append((i, "text"))
            elif not m["lost"] and in_bytes(t[1], t[2]) != m["generation"]:
                different.append((i, "generation ranges"))
            else:
                counts["equal"] += 1
                counts["lost"] += m["lost"]
        elif t[0] == "text":
            different.append((i, "refused: " + without_place(m["error"])))
        elif "text" in m:
            different.append((i, "should fail: " + t[1]))
        elif t[0] == "raised" and m.get("raised") != t[1]:
            different.append((i, f"raised {t[1]!r}, ours {m}"))
        elif t[0] == "error" and "raised" in m:
            different.append((i, f"failed with {t[1]!r}, ours raised {m['raised']!r}"))
        else:
            counts["both raise"] += 1
    return counts, different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("-o", "--output")
    parser.add_argument("--only", help="templates whose name has this, and print what differs")
    args = parser.parse_args()

    module = load_reference()
    import jinja2
    import transformers

    conversations = [conversation(seed) for seed in range(N_CONVERSATION)]
    conversations_path = os.path.join(args.folder, "conversations.json")
    with open(conversations_path, "w", encoding="utf-8") as f:
        json.dump(conversations, f)

    versions, templates, seen = [], [], {}
    for package in PACKAGES:
        root, version = fetch(package, args.folder)
        versions.append(f"{package} {version}")
        for name, text in templates_of(root):
            digest = hashlib.sha256(text.encode()).hexdigest()
            if digest not in seen:
                seen[digest] = True
                templates.append((package, name, digest, text))

    rows, all_run, total = [], 0, collections.Counter()
    for package, name, digest, text in templates:
        if args.only and args.only not in name:
            continue
        theirs = reference(module, text, conversations)
        counts, different = compare(theirs, ours(args.program, text, conversations_path))
        note = "; ".join(f"{what} ({n})" for what, n in collections.Counter(w for _, w in different).most_common(3))
        if counts["neither parses"]:
            note = "neither parses it"
        if counts["lost"]:
            note = (note + "; " if note else "") + "generation inside a macro: ranges not compared"
        all_run += not different
        total += counts
        total["different"] += len(different)
        rows.append((package, name, digest, len(conversations), counts["equal"], counts["both raise"], len(different), note))
        if different:
            print(f"{package}/{name}: {note}", file=sys.stderr)
        if args.only:
            for i, what in different[:3]:
                print(i, what, json.dumps(conversations[i]) if i >= 0 else "")
                if what == "text":
                    mine = ours(args.program, text, conversations_path)[i]["text"]
                    at = next((k for k, (a, b) in enumerate(zip(theirs[i][1], mine, strict=False)) if a != b), len(mine))
                    print("  theirs", repr(theirs[i][1][max(0, at - 60) : at + 60]))
                    print("  ours  ", repr(mine[max(0, at - 60) : at + 60]))

    digest = hashlib.sha256(json.dumps(conversations).encode()).hexdigest()
    lines = [
        "# Chat templates: our interpreter against jinja2",
        "",
        "Written by `tests/reference/jinja_conformance.py`; it says what is compared.",
        "",
        f"- Source packages: {', '.join(versions)}.",
        f"- Reference: transformers {transformers.__version__}, jinja2 {jinja2.__version__}, "
        f"Python {sys.version.split()[0]}.",
        f"- {len(conversations)} conversations per template, SHA-256 `{digest[:16]}`.",
        f"- {len(rows)} different templates; {all_run} agree on every conversation ({100 * all_run / max(1, len(rows)):.1f} %).",
        f"- {total['equal']} renderings equal byte for byte, {total['both raise']} fail on both sides, "
        f"{total['different']} differ.",
        "",
        "| package | template | SHA-256 | conversations | equal | both raise | different | note |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for package, name, digest, n, equal, both, different, note in rows:
        note = note.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {package} | `{name}` | `{digest[:16]}` | {n} | {equal} | {both} | {different} | {note} |")
    text = "\n".join(lines) + "\n"
    if args.output:
        with open(args.output, "w", encoding="utf-8") as f:
            f.write(text)
    print("\n".join(lines[:10]))


if __name__ == "__main__":
    main()
