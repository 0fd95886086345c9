#!/usr/bin/env python3
"""Shows that adapters trained by jambatune load in the real libraries and compute the same there.

    interop.py --python4 PYTHON --python5 PYTHON [--program build/jambatune] [--out FILE] [--keep DIR] [CASE ...]

Run from the repository root; CASE is part of a case's name. --python4 is a Python with transformers 4.57.6 and
peft 0.18.1, --python5 one with transformers 5.23.0 and peft 0.21.2 (both from PyPI, CPU; this script itself needs
neither). The Markdown it prints, or writes to FILE, is tests/reference/INTEROP.md.

Per case: `jambatune train` on seeded random documents, `jambatune eval --logprobs` with and without the adapter, then the
adapter's folder through PeftModel.from_pretrained in both environments, float32, every document alone. The
log-probabilities of all targets must agree to BOUND, with no tensor left over, and the adapter must move them by more
than LEAST_MOVE, so that an adapter that is dropped cannot pass. transformers 4 also computes them in float64, which tells
whose rounding a difference is. Cases that transformers 5 is known not to take are there too: jambatune must say so in a
warning.
"""

import argparse
import dataclasses
import datetime
import json
import math
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

MODELS = pathlib.Path("tests/fixtures/models")
QUICKSTART = pathlib.Path("recipes/quickstart")
PUBLISHED = pathlib.Path("recipes/jamba-mini.yaml")
BOUND = 1e-4        # fails above; float32's own rounding is up to 1e-5 here
LOSS_BOUND = 1e-5   # of a mean over documents
LEAST_MOVE = 0.1
STEPS = 25
ALL_KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "x_proj", "out_proj", "gate_proj", "up_proj", "down_proj",
             "embed_tokens", "lm_head"]


@dataclasses.dataclass
class Case:
    name: str
    base: str
    keys: dict                  # of the recipe
    after: str = ""             # the case, or PEFT_MADE, that it continues from
    refused5: str = ""          # what the warning says, where transformers 5 cannot take it
    missing5: bool = False      # some fused parameter has no tensor: B stays 0 there


PEFT_MADE = "made by peft"
CASES = [
    Case("default targets, dense", "dense_mqa_tied", {}),
    Case("default targets, MoE", "moe_gqa_untied", {}),
    Case("default targets, MoE, odd sizes", "odd_sizes", {}),
    Case("default targets, MoE, BF16 shards", "bf16_sharded", {}),
    Case("default targets, projection biases", "proj_bias", {}),
    Case("default targets, quotes", "quickstart", {}),
    Case("all kinds but dt_proj and router, dense tied", "dense_mqa_tied", {"lora_target_modules": ALL_KINDS}),
    Case("all kinds but dt_proj and router, MoE", "moe_gqa_untied", {"lora_target_modules": ALL_KINDS}),
    Case("the published recipe's targets", "moe_gqa_untied", {"lora_target_modules": "published", "lora_alpha": 8}),
    Case("layers 1 and 2, dense", "dense_mqa_tied", {"lora_layers_to_transform": [1, 2]}),
    Case("layers 2 and 3, MoE", "moe_gqa_untied", {"lora_layers_to_transform": [2, 3]}),
    Case("attention only", "moe_gqa_untied", {"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
    Case("Mamba only, by regex", "moe_gqa_untied", {"lora_target_modules": r".*\.mamba\.(in|x|out)_proj"}),
    Case("gate, up and down, MoE", "moe_gqa_untied", {"lora_target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    Case("gate and up, MoE", "moe_gqa_untied", {"lora_target_modules": ["gate_proj", "up_proj"]}, missing5=True),
    Case("down, MoE", "moe_gqa_untied", {"lora_target_modules": ["down_proj"]}),
    Case("experts only, by regex", "odd_sizes", {"lora_target_modules": r".*\.experts\.\d+\..*"}),
    Case("dense MLPs only, by regex", "moe_gqa_untied", {"lora_target_modules": r".*feed_forward\.(gate|up|down)_proj"}),
    Case("rank_pattern, dense", "dense_mqa_tied", {"rank_pattern": {"x_proj": 2, r"layers.2.*in_proj": 3},
                                                   "alpha_pattern": {"q_proj": 5, "layers.3.mamba.out_proj": 24}}),
    Case("rank_pattern, MoE", "moe_gqa_untied", {
        "rank_pattern": {"x_proj": 2, r"layers\.1\..*experts\.\d+\.(gate|up)_proj": 3, r"experts\.\d+\.down_proj": 5},
        "alpha_pattern": {"k_proj": 5, r"layers\.3\..*experts\.\d+\.(gate|up)_proj": 7}}),
    Case("use_rslora, dense", "dense_mqa_tied", {"use_rslora": True}),
    Case("dropout, MoE", "moe_gqa_untied", {"lora_dropout": 0.1}),
    Case("continued from the published targets", "moe_gqa_untied", {}, after="the published recipe's targets"),
    Case("continued from rank_pattern, MoE", "moe_gqa_untied", {}, after="rank_pattern, MoE"),
    Case("continued from an adapter of peft", "moe_gqa_untied", {}, after=PEFT_MADE),
    Case("every kind, dense", "dense_mqa_tied", {"lora_target_modules": ALL_KINDS + ["dt_proj"]}, refused5="dt_proj:"),
    Case("every kind, MoE", "moe_gqa_untied", {"lora_target_modules": ALL_KINDS + ["dt_proj", "router"]},
         refused5="router:"),
    Case("use_rslora, MoE", "moe_gqa_untied", {"use_rslora": True}, refused5="experts with rsLoRA:"),
    Case("ranks that differ between experts", "moe_gqa_untied", {"rank_pattern": {r"experts\.1\.up_proj": 3}},
         refused5="experts of layer"),
    Case("single experts", "moe_gqa_untied", {"lora_target_modules": r".*experts\.[02]\.down_proj"},
         refused5="experts of layer"),
]


# ---------------------------------------------------------------- inside an environment

def score(model, documents):
    """log p of every token but the first, each document alone."""
    import torch
    out = []
    with torch.no_grad():
        for ids in documents:
            ids = torch.tensor([ids])
            logprobs = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
            out.append(logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist())
    return out


def work_score(task):
    import check_peft
    missing, unexpected = [], []
    if task["adapter"] is None:
        model = check_peft.load_base(task["base"])
    else:
        model, missing, unexpected = check_peft.load_adapter(task["adapter"], task["base"])
    logprobs = score_wide(model, task["documents"]) if task.get("wide") else score(model, task["documents"])
    return {"missing": missing, "unexpected": unexpected, "logprobs": logprobs}


def score_wide(model, documents):
    import make_models
    import torch
    with make_models.widen(torch.float64):
        return score(model.double(), documents)


def work_make(task):
    """An adapter as peft trains and saves it: experts as modules, base_layer copies of embedding and head."""
    import check_peft
    import peft
    import torch
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=ALL_KINDS, lora_dropout=0.05, task_type="CAUSAL_LM",
                             rank_pattern={"x_proj": 2}, alpha_pattern={"q_proj": 3})
    model = peft.get_peft_model(check_peft.load_base(task["base"]), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    documents = [torch.tensor([ids]) for ids in task["documents"] if len(ids) > 1]
    for step in range(15):
        for ids in documents[step % 3::3]:
            model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(task["adapter"])
    return {}


def work_tokenize(task):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(task["base"])
    return {"ids": [tokenizer(text).input_ids + [tokenizer.eos_token_id] for text in task["texts"]]}


def work():
    """Tasks as JSON on standard input, their results on standard output."""
    import warnings

    import peft
    import torch
    import transformers
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    results = []
    for task in json.load(sys.stdin):
        try:
            results.append({"score": work_score, "make": work_make, "tokenize": work_tokenize}[task["kind"]](task))
        except (ValueError, RuntimeError) as error:
            results.append({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
    versions = {"transformers": transformers.__version__, "peft": peft.__version__,
                "torch": torch.__version__.partition("+")[0]}
    json.dump({"versions": versions, "results": results}, sys.stdout)


def score_task(base, documents, adapter=None, **more):
    return {"kind": "score", "base": str(base), "documents": documents, "adapter": adapter and str(adapter), **more}


def ask(python, tasks):
    done = subprocess.run([python, __file__, "--work"], input=json.dumps(tasks), text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{python}: exit code {done.returncode}; expected 0")
    return json.loads(done.stdout)


# ---------------------------------------------------------------- jambatune

def jambatune(program, *words):
    done = subprocess.run([program, *map(str, words)], text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"jambatune {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done


def model_folder(name):
    return QUICKSTART / "base" if name == "quickstart" else MODELS / name


def make_documents(args, base):
    """Quotes for the quickstart's model. Else random ids, not uniform: something to learn; one is a single token."""
    if base == "quickstart":
        lines = jambatune(args.program, "tokenize", model_folder(base), QUICKSTART / "quotes.jsonl").stdout.splitlines()
        return [json.loads(line)["input_ids"] for line in lines[:24]]
    vocab = json.loads((model_folder(base) / "config.json").read_text())["vocab_size"]
    rng = random.Random(base)
    lengths = [1, 2, 3] + [rng.randrange(4, 40) for _ in range(21)]
    return [[min(int(rng.expovariate(4 / vocab)), vocab - 1) for _ in range(n)] for n in lengths]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def published_targets():
    block = re.search(r"^lora_target_modules:\n((?:  - \w+\n)+)", PUBLISHED.read_text(), re.M)
    return re.findall(r"- (\w+)", block[1])


def evaluate(run, *words):
    """Our log-probabilities of every document's targets."""
    path = run.parent / (run.name + ".logprobs")
    jambatune(*words, "--logprobs", path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["logprobs"] for line in lines], [line["tokens"] for line in lines]


def train(args, case, folder, documents):
    """One recipe from its file to an adapter; what it warned of and the loss of its first step."""
    out = folder / "adapter"
    keys = dict(case.keys)
    if keys.get("lora_target_modules") == "published":
        keys["lora_target_modules"] = published_targets()
    if case.after:
        keys["lora_model_dir"] = str(folder.parent / slug(case.after) / "adapter")
    else:
        keys = {"lora_r": 8 if "lora_alpha" in keys else 4, "lora_alpha": 16, **keys}
    recipe = {"base_model": str(model_folder(case.base).resolve()), "datasets": [{"path": "data.jsonl", "type": "input_ids"}],
              "shuffle": False, "micro_batch_size": len(documents), "max_steps": STEPS, "learning_rate": 2e-2,
              "lr_scheduler": "constant", "output_dir": "adapter", **keys}
    write_lines(folder / "data.jsonl", [{"input_ids": ids} for ids in documents])
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    said = jambatune(args.program, "train", folder / "recipe.yaml").stderr
    warnings = "\n".join(line for line in said.splitlines() if "warning: " in line)
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    return out, warnings, first["loss"]


def count_parameters(adapter):
    data = (adapter / "adapter_model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


# ---------------------------------------------------------------- comparing

def slug(name):
    return re.sub(r"\W+", "-", name).strip("-")


def furthest(a, b):
    """Largest difference; without a bound where one is not finite."""
    assert [len(x) for x in a] == [len(x) for x in b], "another number of targets"
    apart = [abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q)]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf


def mean_loss(logprobs):
    flat = [-x for document in logprobs for x in document]
    return sum(flat) / len(flat)


def run_case(args, case, folder):
    """Everything of ours, and the tasks for the environments."""
    folder.mkdir()
    base, documents = model_folder(case.base), make_documents(args, case.base)
    start = folder.parent / slug(case.after) / "adapter" if case.after else None
    if case.after == PEFT_MADE:
        ask(args.python4, [{"kind": "make", "base": str(base), "documents": documents, "adapter": str(start)}])
    adapter, warnings, first_loss = train(args, case, folder, documents)
    words = [args.program, "eval", f"base_model={base}", "--data", folder / "data.jsonl"]
    tasks = {"adapter": score_task(base, documents, adapter), "base": score_task(base, documents)}
    if start is not None:
        tasks["start"] = score_task(base, documents, start)
    return {"case": case, "tasks": tasks, "wide": score_task(base, documents, adapter, wide=True),
            "logprobs": evaluate(folder, *words, "--adapter", adapter)[0], "base": evaluate(folder, *words)[0],
            "warnings": warnings, "first_loss": first_loss, "parameters": count_parameters(adapter)}


class Verdict:
    """Collects what is wrong instead of stopping at the first."""

    def __init__(self):
        self.faults = []

    def need(self, ok, what):
        if not ok:
            self.faults.append(what)


def judge_case(run, four, five, verdict):
    """The row of a case from the results of its tasks, by their names."""
    case, ours = run["case"], run["logprobs"]
    row = {"case": case, "parameters": run["parameters"], "moved": furthest(ours, run["base"])}
    verdict.need(row["moved"] > LEAST_MOVE, f"{case.name}: the adapter moves log-probabilities by {row['moved']:.2g} only")
    for name, result in (("base4", four["base"]), ("base5", five["base"])):
        row[name] = furthest(run["base"], result["logprobs"])
        verdict.need(row[name] <= BOUND, f"{case.name}: the base alone differs by {row[name]:.2g}")
    judge_library(row, "4", ours, four["adapter"], verdict)
    if "apart4" in row and "error" not in four["wide"]:
        row["wide"] = furthest(ours, four["wide"]["logprobs"])
        row["wide4"] = furthest(four["adapter"]["logprobs"], four["wide"]["logprobs"])
    if case.refused5:
        verdict.need(case.refused5 in run["warnings"], f"{case.name}: no warning of '{case.refused5}'")
        row["outcome5"] = five["adapter"].get("error") or f"off by {furthest(ours, five['adapter']['logprobs']):.1f}"
    else:
        verdict.need("transformers" not in run["warnings"], f"{case.name}: warns of transformers without need")
        judge_library(row, "5", ours, five["adapter"], verdict)
        if "apart4" in row and "apart5" in row:
            row["apart45"] = furthest(four["adapter"]["logprobs"], five["adapter"]["logprobs"])
    if case.after:
        row["first"] = abs(run["first_loss"] - mean_loss(four["start"]["logprobs"]))
        row["start45"] = furthest(four["start"]["logprobs"], five["start"]["logprobs"])
        verdict.need(row["first"] <= LOSS_BOUND, f"{case.name}: the first step's loss is off by {row['first']:.2g}")
    return row


def judge_library(row, major, ours, result, verdict):
    place = f"{row['case'].name}: transformers {major}"
    if "error" in result:
        verdict.need(False, f"{place}: {result['error']}")
        return
    unexpected, missing = len(result["unexpected"]), len(result["missing"])
    row["apart" + major], row["left" + major] = furthest(ours, result["logprobs"]), f"{unexpected} + {missing}"
    verdict.need(row["apart" + major] <= BOUND, f"{place}: differs by {row['apart' + major]:.2g}")
    may_miss = major == "5" and row["case"].missing5
    verdict.need(unexpected == 0 and (missing == 0 or may_miss), f"{place}: {unexpected} + {missing} keys left over")


# ---------------------------------------------------------------- text

ODD_TEXTS = ["A", "  two  spaces ", "lines\n\n\nand\ttabs\r\n", "naïve café, 東京, 🦙🦙 x²", "12345.678 + 90"]


def compare_text(args, folder, verdict):
    """Text records through the base's own tokenizer, base alone: ids, and loss."""
    base = QUICKSTART / "base"
    quotes = [json.loads(line)["text"] for line in (QUICKSTART / "quotes.jsonl").read_text().splitlines()[:40]]
    texts = quotes + ODD_TEXTS
    data = folder / "text.jsonl"
    write_lines(data, [{"text": text} for text in texts])
    ours, tokens = evaluate(folder / "text", args.program, "eval", f"base_model={base}", "--data", data)
    rows = []
    for python in (args.python4, args.python5):
        answer = ask(python, [{"kind": "tokenize", "base": str(base), "texts": texts}])
        ids = answer["results"][0]["ids"]
        same = [document[1:] for document in ids] == tokens
        verdict.need(same, f"text: transformers {answer['versions']['transformers']} has other token ids")
        scored = ask(python, [score_task(base, ids)])["results"][0]
        apart = abs(mean_loss(ours) - mean_loss(scored["logprobs"]))
        verdict.need(apart <= LOSS_BOUND, f"text: the loss is off by {apart:.2g}")
        rows.append((answer["versions"]["transformers"], len(texts), sum(map(len, ids)), same, mean_loss(ours), apart,
                     furthest(ours, scored["logprobs"]) if same else math.nan))
    return rows


# ---------------------------------------------------------------- the page

def name_of(versions):
    return f"transformers {versions['transformers']} + peft {versions['peft']}"


def print_table(p, head, align, rows):
    p()
    p("| " + " | ".join(head) + " |")
    p("|" + "|".join(align) + "|")
    for row in rows:
        p("| " + " | ".join(row) + " |")


def show(row, *keys):
    return [f"{row[key]:.1e}" if key in row else "-" for key in keys]


def print_page(out, args, rows, text_rows, versions):
    four, five = versions
    v4, v5 = four["transformers"], five["transformers"]
    version = jambatune(args.program, "--version").stdout.strip()
    p = lambda line="": print(line, file=out)
    p(f"""# Adapters in the real libraries

{version} against {name_of(four)} and {name_of(five)} (torch {five['torch']}, CPU, float32),
{datetime.date.today()}. Made from the repository root by

    python3 tests/reference/interop.py --python4 PYTHON --python5 PYTHON --out tests/reference/INTEROP.md

Each adapter was trained by `jambatune train` for {STEPS} steps on a model of `tests/fixtures/models` (quotes: on
`recipes/quickstart/base`), and its folder loaded with `PeftModel.from_pretrained`; every document was scored alone.
Differences are the largest of a log-probability over all targets; "moves" is how far the adapter moves them. float64 is
transformers {v4} with every operation in double: those two columns tell whose rounding a difference is. "left over" counts
the tensors without a place + the places without a tensor, in {v4} and in {v5}.""")
    taken = [r for r in rows if "outcome5" not in r]
    print_table(p, ["case", "model", "parameters", "moves", f"ours - {v4}", f"ours - {v5}", f"{v4} - {v5}",
                    "ours - float64", f"{v4} - float64", "left over"], ["---"] * 2 + ["--:"] * 7 + ["---"],
                [[r["case"].name, r["case"].base, str(r["parameters"]), f"{r['moved']:.2f}",
                  *show(r, "apart4", "apart5", "apart45", "wide", "wide4"), f"{r.get('left4')}, {r.get('left5')}"]
                 for r in taken])
    if any(r["case"].missing5 for r in taken):
        p("""
"gate and up" leaves places without a tensor in transformers 5: `down_proj` has to be listed with `gate_up_proj` there,
and its B stays 0.""")
    p("\nThe models alone, without an adapter:")
    print_table(p, ["model", f"ours - {v4}", f"ours - {v5}"], ["---", "--:", "--:"],
                [[name, *show(r, "base4", "base5")] for name, r in {r["case"].base: r for r in rows}.items()])
    print_continued(p, [r for r in rows if "first" in r], v4, v5)
    print_refused(p, [r for r in rows if "outcome5" in r], v4, v5)
    print_text(p, text_rows)


def print_continued(p, rows, v4, v5):
    if not rows:
        return
    p(f"""
## Continuing (`lora_model_dir`)

The loss of the first step, which is that of the adapter as it was found, against the mean over the same documents in
transformers {v4} with that adapter; and how far the two libraries are apart on it. peft's own adapter was trained by
peft on transformers {v4}, experts, embedding and head included, and saved with its copies of their matrices;
transformers {v5} drops its experts without an error. Continued and written by jambatune, it is the same in both
(above).""")
    print_table(p, ["case", "first loss: ours - " + v4, f"start: {v4} - {v5}"], ["---", "--:", "--:"],
                [[r["case"].name, *show(r, "first", "start45")] for r in rows])


def print_refused(p, rows, v4, v5):
    if not rows:
        return
    p("""
## What transformers 5 does not take

`jambatune train` warns of each of these; transformers 4 honours them.""")
    print_table(p, ["case", "model", "parameters", "moves", f"ours - {v4}", "left over", v5],
                ["---"] * 2 + ["--:"] * 3 + ["---"] * 2,
                [[r["case"].name, r["case"].base, str(r["parameters"]), f"{r['moved']:.2f}", *show(r, "apart4"),
                  r.get("left4", "-"), shorten(r["outcome5"])] for r in rows])


def shorten(message):
    """The first sentence, without sets, whose order is another each time."""
    return re.split(r"[.,] ", re.sub(r" \{.*?\}", "", message).replace("|", "/"))[0]


def print_text(p, rows):
    if not rows:
        return
    p("""
## Text

The quickstart's base alone on text records (quotes, and texts with odd characters): `jambatune eval` against
`AutoTokenizer` with the end-of-text token added, and the model.""")
    print_table(p, ["transformers", "documents", "tokens", "token ids", "loss", "its difference", "of a log-probability"],
                ["---", "--:", "--:", "---", "--:", "--:", "--:"],
                [[version, str(n_doc), str(n_tok), "same" if same else "DIFFERENT", f"{loss:.6f}", f"{apart:.1e}",
                  f"{worst:.1e}"] for version, n_doc, n_tok, same, loss, apart, worst in rows])


def choose_cases(names):
    """Those whose name has one of the words in it, and what they continue from."""
    chosen = [case for case in CASES if not names or any(name in case.name for name in names)]
    needed = {case.after for case in chosen}
    return [case for case in CASES if case in chosen or case.name in needed]


def compare(args, folder, verdict):
    runs = [run_case(args, case, folder / slug(case.name)) for case in choose_cases(args.cases)]
    answers = [ask(args.python4, [task for run in runs for task in (*run["tasks"].values(), run["wide"])]),
               ask(args.python5, [task for run in runs for task in run["tasks"].values()])]
    results4, results5 = (iter(answer["results"]) for answer in answers)
    rows = []
    for run in runs:
        four = {name: next(results4) for name in (*run["tasks"], "wide")}
        five = {name: next(results5) for name in run["tasks"]}
        rows.append(judge_case(run, four, five, verdict))
    text_rows = [] if args.cases else compare_text(args, folder, verdict)
    return rows, text_rows, [answer["versions"] for answer in answers]


def main():
    if sys.argv[1:] == ["--work"]:
        return work()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--python4", required=True)
    parser.add_argument("--python5", required=True)
    parser.add_argument("--program", default="build/jambatune")
    parser.add_argument("--keep", type=pathlib.Path, help="leave recipes and adapters in this new folder")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    folder = args.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    verdict = Verdict()
    try:
        page = compare(args, folder, verdict)
    finally:
        if args.keep is None:
            shutil.rmtree(folder)
    with args.out.open("w") if args.out else sys.stdout as out:
        print_page(out, args, *page)
    if verdict.faults:
        sys.exit("\n".join(verdict.faults))


if __name__ == "__main__":
    main()
