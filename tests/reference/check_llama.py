#!/usr/bin/env python3
"""Shows that llama.cpp computes with our GGUF files what jambatune computes.

    check_llama.py [--program build/jambatune] [--out FILE] [--keep DIR] [CASE ...]

Run from the repository root by a Python with a packaged llama.cpp: a virtual environment with `pip install xllamacpp`
(PyPI; shown with 2026.10.11549). The Markdown it prints, or writes to FILE, is tests/reference/LLAMA.md.

Per case: `jambatune train` on seeded random documents, `jambatune export --to gguf` of the base and of the adapter, and
the log-probabilities of every target of every document from `jambatune eval --logprobs` and from llama.cpp: without
the adapter, with it, and with it at half scale. For half scale eval reads a copy of the adapter whose lora_alpha is
half. They must agree to BOUND, and the adapter must move them by more than LEAST_MOVE, so that one that does nothing
cannot pass.

llama.cpp runs as its own HTTP server inside xllamacpp: KV cache in F32 and flash attention off (its F16 path alone costs
1e-3). /completion takes token ids; with n_predict 1 and n_probs = vocabulary it reports the log-probabilities of all
tokens after a prefix, raw ones, whatever is sampled. It reports none when the sampled token shows no text, so one
ASCII token is biased up by 1000. A server's answers depend on its cache, so every prefix is computed anew.

Tokenizers are compared too: llama.cpp's /tokenize on our base against `jambatune tokenize`.
"""

import argparse
import dataclasses
import datetime
import json
import math
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import urllib.request

MODELS = pathlib.Path("tests/fixtures/models")
QUICKSTART = pathlib.Path("recipes/quickstart")
TOKENIZERS = pathlib.Path("tests/fixtures/tokenizers")
BOUND = 1e-4
LEAST_MOVE = 0.1
STEPS = 25
ALL_KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "x_proj", "dt_proj", "out_proj", "gate_proj", "up_proj",
             "down_proj"]


@dataclasses.dataclass
class Case:
    name: str
    base: str
    keys: dict               # of the recipe
    dtype: str = "f32"       # of the adapter's file
    bound: float = BOUND     # of the difference with the adapter


ALPHAS = {"out_proj": 5, r"layers\.3\..*(gate|up)_proj": 24}
RANKS = {"rank_pattern": {"x_proj": 2, r"layers\.2\..*in_proj": 3}, "alpha_pattern": ALPHAS}
EXPERT_RANKS = {"rank_pattern": {"x_proj": 2, r"experts\.\d+\.down_proj": 5}, "alpha_pattern": ALPHAS}
CASES = [
    Case("default targets, dense tied", "dense_mqa_tied", {}),
    Case("every kind, dense tied", "dense_mqa_tied", {"lora_target_modules": ALL_KINDS}),
    Case("rank and alpha patterns, dense tied", "dense_mqa_tied", RANKS),
    Case("rsLoRA, dense tied", "dense_mqa_tied", {"use_rslora": True}),
    Case("default targets, MoE", "moe_gqa_untied", {}),
    Case("every kind, embedding and head, MoE", "moe_gqa_untied",
         {"lora_target_modules": [*ALL_KINDS, "router", "embed_tokens", "lm_head"]}),
    Case("rank and alpha patterns, MoE", "moe_gqa_untied", EXPERT_RANKS),
    Case("rsLoRA, MoE", "moe_gqa_untied", {"use_rslora": True}),
    Case("rsLoRA and ranks that differ between experts", "moe_gqa_untied",
         {"use_rslora": True, "rank_pattern": {r"experts\.1\.up_proj": 3, r"experts\.2\.\w+": 7}}),
    Case("single experts", "moe_gqa_untied", {"lora_target_modules": r".*experts\.[02]\.(up|down)_proj"}),
    Case("default targets, odd sizes", "odd_sizes", {}),
    Case("default targets, BF16 shards", "bf16_sharded", {}),
    Case("default targets, F16 file, MoE", "moe_gqa_untied", {}, dtype="f16", bound=5e-3),
    Case("default targets, quotes", "quickstart", {}),
]


# ---------------------------------------------------------------- jambatune

def jambatune(program, *words):
    done = subprocess.run([program, *map(str, words)], text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"jambatune {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def model_folder(name):
    return QUICKSTART / "base" if name == "quickstart" else MODELS / name


def tokenize(program, base, file):
    return [json.loads(line)["input_ids"] for line in jambatune(program, "tokenize", base, file).splitlines()]


def make_documents(args, base):
    """Quotes for the quick start's model; else random ids, not uniform: something to learn."""
    if base == "quickstart":
        return tokenize(args.program, model_folder(base), QUICKSTART / "quotes.jsonl")[:8]
    vocab = json.loads((model_folder(base) / "config.json").read_text())["vocab_size"]
    rng = random.Random(base)
    return [[min(int(rng.expovariate(4 / vocab)), vocab - 1) for _ in range(n)] for n in (2, 3, 5, 9, 17, 24, 30, 33)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def train(args, case, folder, documents):
    write_lines(folder / "data.jsonl", [{"input_ids": ids} for ids in documents])
    recipe = {"base_model": str(model_folder(case.base).resolve()), "lora_r": 4, "lora_alpha": 16,
              "datasets": [{"path": "data.jsonl", "type": "input_ids"}], "shuffle": False,
              "micro_batch_size": len(documents), "max_steps": STEPS, "learning_rate": 2e-2,
              "lr_scheduler": "constant", "output_dir": "adapter", **case.keys}
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    jambatune(args.program, "train", folder / "recipe.yaml")
    return folder / "adapter"


def halve(adapter, out):
    """The same adapter at half its scale."""
    out.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["lora_alpha"] /= 2
    config["alpha_pattern"] = {key: alpha / 2 for key, alpha in config["alpha_pattern"].items()}
    (out / "adapter_config.json").write_text(json.dumps(config))
    (out / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    return out


def our_logprobs(args, case, folder, adapter=None):
    path = folder / "logprobs.jsonl"
    words = ["eval", f"base_model={model_folder(case.base)}", "--data", folder / "data.jsonl", "--logprobs", path]
    jambatune(args.program, *words, *(["--adapter", adapter] if adapter else []))
    return [json.loads(line)["logprobs"] for line in path.read_text().splitlines()]


def export_base(args, base, dtype, path):
    if not path.exists():
        jambatune(args.program, "export", "--gguf-base", model_folder(base), "--dtype", dtype, path)


def export_adapter(args, adapter, base, dtype, path):
    jambatune(args.program, "export", adapter, "--to", "gguf", "--dtype", dtype, "--base", model_folder(base), path)


# ---------------------------------------------------------------- llama.cpp, in a process of its own

class Engine:
    """xllamacpp's server; an assert in it ends that process, not this one."""

    def __init__(self, model, adapter=None):
        words = [sys.executable, __file__, "--serve", str(model), *([str(adapter)] if adapter else [])]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.DEVNULL)
        self.address = self.process.stdout.readline().strip()
        if not self.address.startswith("http"):
            sys.exit(f"{model}, {adapter}: llama.cpp does not load it")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)

    def post(self, path, body):
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def logprobs(self, documents, vocab, shown, scale=None):
        """log p of every token but the first, each document alone."""
        body = {"n_predict": 1, "n_probs": vocab, "temperature": 0, "cache_prompt": False, "logit_bias": [[shown, 1000]]}
        if scale is not None:
            body["lora"] = [{"id": 0, "scale": scale}]
        out = []
        for ids in documents:
            out.append([])
            for n in range(1, len(ids)):
                top = self.post("/completion", {"prompt": ids[:n], **body})["completion_probabilities"][0]["top_logprobs"]
                assert len(top) == vocab, len(top)
                out[-1].append(next(t["logprob"] for t in top if t["id"] == ids[n]))
        return out


def serve(model, adapter=None):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = params.cache_prompt = False
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


# ---------------------------------------------------------------- cases

def slug(name):
    return re.sub(r"\W+", "-", name).strip("-")


def furthest(a, b):
    assert [len(x) for x in a] == [len(x) for x in b], "another number of targets"
    apart = [abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q)]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf


def shown_token(base):
    """A token that shows as plain text."""
    path = model_folder(base) / "tokenizer.json"
    return json.loads(path.read_text())["model"]["vocab"]["a"] if path.exists() else 10


def run_case(args, case, work, faults):
    folder = work / slug(case.name)
    folder.mkdir()
    documents = make_documents(args, case.base)
    adapter = train(args, case, folder, documents)
    base_file, adapter_file = work / f"{case.base}.gguf", folder / "adapter.gguf"
    export_base(args, case.base, "f32", base_file)
    export_adapter(args, adapter, case.base, case.dtype, adapter_file)
    vocab = json.loads((model_folder(case.base) / "config.json").read_text())["vocab_size"]
    how = {"vocab": vocab, "shown": shown_token(case.base)}
    ours = {"base": our_logprobs(args, case, folder), "whole": our_logprobs(args, case, folder, adapter),
            "half": our_logprobs(args, case, folder, halve(adapter, folder / "half"))}
    with Engine(base_file) as engine:
        theirs = {"base": engine.logprobs(documents, **how)}
    with Engine(base_file, adapter_file) as engine:
        theirs["whole"] = engine.logprobs(documents, **how)
        theirs["half"] = engine.logprobs(documents, **how, scale=0.5)
        theirs["off"] = engine.logprobs(documents, **how, scale=0)
    ours["off"] = ours["base"]
    row = {"case": case, "moves": furthest(ours["whole"], ours["base"]), "bytes": adapter_file.stat().st_size,
           "targets": sum(map(len, ours["base"])), **{k: furthest(ours[k], theirs[k]) for k in theirs}}
    for key in theirs:
        bound = case.bound if key in ("whole", "half") else BOUND
        if not row[key] <= bound:
            faults.append(f"{case.name}: {key}: differs by {row[key]:.2g}; expected at most {bound:g}")
    if not row["moves"] > LEAST_MOVE:
        faults.append(f"{case.name}: the adapter moves log-probabilities by {row['moves']:.2g} only")
    return row


# ---------------------------------------------------------------- tokenizers

ODD_TEXTS = ["A", " a", "  two  spaces ", "lines\n\n\nand\ttabs\r\n", "\n", "\n\n a\n b \n", "naïve café, 東京, 🦙🦙 x²", "12345.678 + 90",
             "<|startoftext|>", "<0x0A>", "▁▁a ▁", "a,b,,c", " " * 40 + "x", "<tool_calls>[]</tool_calls>", "\u0000\u0001 \u007f"]


def make_texts(rng):
    """The quotes, odd ones, and soups of what the tokenizers' own cases are made of."""
    texts = [json.loads(line)["text"] for line in (QUICKSTART / "quotes.jsonl").read_text().splitlines()] + ODD_TEXTS
    alphabet = "abcdefghijklmnopqrstuvwxyz  \n\n\t,.-'\"0123456789ABCéß東🦙▁<|>"
    for _ in range(400):
        texts.append("".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 60))))
        words = " ".join(rng.choice(texts[:50]).split()[:rng.randrange(1, 5)])
        texts.append(words + rng.choice(["\n", " ", "  ", ""]) + words[::-1])
    return [t for t in texts if "\u0000" not in t]


def run_tokenizer(args, name, folder, work, faults):
    """A base with that tokenizer: any tiny model with as many rows will do."""
    file = work / f"tokenizer-{slug(name)}.gguf"
    jambatune(args.program, "export", "--gguf-base", folder, "--dtype", "f32", file)
    texts = make_texts(random.Random(name))
    write_lines(work / "texts.jsonl", [{"text": text} for text in texts])
    ours, different = tokenize(args.program, folder, work / "texts.jsonl"), 0
    end = ours[0][-1]
    with Engine(file) as engine:
        for text, ids in zip(texts, ours):
            got = engine.post("/tokenize", {"content": text, "add_special": True, "parse_special": False})["tokens"]
            if got != (ids[:-1] if ids[-1] == end else ids):
                different += 1
                if different == 1:
                    faults.append(f"{name}: {text!r}: {got}, expected {ids}")
    return name, len(texts), sum(map(len, ours)), different


def tokenizer_bases(work):
    """Folders with a model and a tokenizer: the quick start's, and a fixture tokenizer beside random weights."""
    yield "quick start", QUICKSTART / "base"
    folder = work / "jamba-tokenizer"
    make_random_base(folder, TOKENIZERS / "jamba")
    yield "tests/fixtures/tokenizers/jamba", folder


def make_random_base(folder, tokenizer):
    """dense_mqa_tied with more rows in its embedding."""
    import struct
    folder.mkdir()
    source = MODELS / "dense_mqa_tied"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((tokenizer / file).read_bytes())
    data = json.loads((tokenizer / "tokenizer.json").read_text())
    rows = max([*data["model"]["vocab"].values(), *(t["id"] for t in data["added_tokens"])]) + 10
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = rows
    (folder / "config.json").write_text(json.dumps(config))
    raw = (source / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header, body = json.loads(raw[8:8 + size]), raw[8 + size:]
    name, at, out, new = "model.embed_tokens.weight", 0, b"", {}
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        piece = body[begin:end]
        if key == name:
            tensor["shape"][0] = rows
            piece = (piece * rows)[:rows * tensor["shape"][1] * 4]
        new[key] = {**tensor, "data_offsets": [at, at + len(piece)]}
        at, out = at + len(piece), out + piece
    text = json.dumps(new).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + out)


# ---------------------------------------------------------------- the page

def print_table(p, head, align, rows):
    p("| " + " | ".join(head) + " |")
    p("|" + "|".join(align) + "|")
    for row in rows:
        p("| " + " | ".join(row) + " |")


def print_page(out, args, rows, tokenizers):
    import importlib.metadata
    version = jambatune(args.program, "--version").strip()
    p = lambda line="": print(line, file=out)
    p(f"""# Adapters in llama.cpp

{version} against llama.cpp as packaged by xllamacpp {importlib.metadata.version("xllamacpp")} (CPU), {datetime.date.today()}.
Made from the repository root by

    python3 tests/reference/check_llama.py --out tests/reference/LLAMA.md

Each adapter was trained by `jambatune train` for {STEPS} steps on a model of `tests/fixtures/models` (quotes: on
`recipes/quickstart/base`). Base (F32) and adapter were exported as GGUF and loaded into llama.cpp; every prefix of every
document was scored. Numbers are the largest difference of a target's log-probability between llama.cpp and `jambatune
eval`: without an adapter, with it, with it at half scale, and with it loaded but switched off. "moves" is how far the
adapter moves them. All must be below {BOUND:g} (F16: {max(c.bound for c in CASES):g}).
""")
    print_table(p, ["case", "model", "file", "bytes", "targets", "moves", "base", "adapter", "half scale", "off"],
                ["---"] * 3 + ["--:"] * 7,
                [[r["case"].name, r["case"].base, r["case"].dtype, str(r["bytes"]), str(r["targets"]), f"{r['moves']:.2f}",
                  *(f"{r[k]:.1e}" for k in ("base", "whole", "half", "off"))] for r in rows])
    p("""
## Tokenizers

The same texts (quotes, odd ones, random soups) through `jambatune tokenize` and through llama.cpp's `/tokenize` with our
GGUF base: the ids must be the same.
""")
    print_table(p, ["tokenizer", "texts", "tokens", "texts with other ids"], ["---", "--:", "--:", "--:"],
                [[name, str(n), str(tokens), str(different)] for name, n, tokens, different in tokenizers])


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--program", default="build/jambatune")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path)
    args = parser.parse_args()
    faults, wanted = [], [c for c in CASES if not args.cases or any(w in c.name for w in args.cases)]
    with tempfile.TemporaryDirectory() as folder:
        work = args.keep or pathlib.Path(folder)
        work.mkdir(exist_ok=True)
        rows = [run_case(args, case, work, faults) for case in wanted]
        tokenizers = [] if args.cases else [run_tokenizer(args, n, f, work, faults) for n, f in tokenizer_bases(work)]
    with open(args.out, "w") if args.out else sys.stdout as out:
        print_page(out, args, rows, tokenizers)
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
