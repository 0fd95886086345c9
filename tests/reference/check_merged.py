#!/usr/bin/env python3
"""Shows that merged checkpoints are plain models to the real libraries, and equal to merging in peft, bit for bit.

    check_merged.py --python4 PYTHON --python5 PYTHON [--program build/jambatune] [--out FILE] [CASE ...]

Run from the repository root; CASE is part of a case's name. --python4 is a Python with transformers 4.57.6 and
peft 0.18.1, --python5 one with transformers 5.23.0 and peft 0.21.2 (both from PyPI, CPU; this script itself needs
neither). The Markdown it prints, or writes to FILE, is tests/reference/MERGED.md.

Per case peft 0.18.1 makes an adapter of random A and B for a base of tests/fixtures/models, `jambatune export --to merged`
folds it in, and the folder is loaded with AutoModelForCausalLM alone, float32, every document by itself. Its
log-probabilities must agree to BOUND with `jambatune eval` on that folder and with `jambatune eval --adapter` on the base.

Then the same in bfloat16 against PeftModel.merge_and_unload, element by element.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import interop

BOUND = 1e-5
LEAST_MOVE = 0.1
DENSE = ["in_proj", "x_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL = DENSE + ["dt_proj", "router", "embed_tokens", "lm_head"]
RANKS = {"rank_pattern": {"x_proj": 2, r"experts\.1\.up_proj": 3, "layers.0.*in_proj": 16},
         "alpha_pattern": {"q_proj": 5, r"experts\.\d+\.down_proj": 3}}


@dataclasses.dataclass
class Case:
    name: str
    base: str                   # a folder of tests/fixtures/models, "quickstart", or "wide": made for this
    targets: list
    lora: dict = dataclasses.field(default_factory=dict)
    bits5: bool = False         # compared with the newer peft, too


CASES = [
    Case("dense, tied", "dense_mqa_tied", DENSE, bits5=True),
    Case("dense, tied, embedding", "dense_mqa_tied", DENSE + ["embed_tokens"], bits5=True),
    Case("dense, tied, head", "dense_mqa_tied", DENSE + ["lm_head"], bits5=True),
    Case("dense, tied, embedding and head", "dense_mqa_tied", DENSE + ["embed_tokens", "lm_head"], bits5=True),
    Case("dense, rsLoRA", "dense_mqa_tied", DENSE, {"r": 5, "use_rslora": True, "lora_alpha": 4}, bits5=True),
    Case("MoE", "moe_gqa_untied", DENSE, bits5=True),
    Case("MoE, every kind", "moe_gqa_untied", ALL),
    Case("MoE, rank pattern", "moe_gqa_untied", ALL, RANKS),
    Case("MoE, rsLoRA", "moe_gqa_untied", ALL, {"r": 5, "use_rslora": True, "lora_alpha": 4}),
    Case("MoE, odd sizes", "odd_sizes", ALL, {"r": 5}),
    Case("MoE, BF16 shards", "bf16_sharded", ALL),
    Case("projection biases", "proj_bias", ALL),
    Case("quotes, r 16", "quickstart", DENSE, {"r": 16}, bits5=True),
    Case("wide, r 16", "wide", ALL, {"r": 16}),
    Case("wide, r 64, rsLoRA", "wide", ALL, {"r": 64, "use_rslora": True}),
    Case("wide, r 128", "wide", ALL, {"r": 128}),
]
WIDE = dict(vocab_size=500, hidden_size=192, intermediate_size=336, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1,
            attn_layer_period=3, attn_layer_offset=1, mamba_d_state=16, mamba_dt_rank=12, use_mamba_kernels=False)


# ---------------------------------------------------------------- inside an environment

def work_base(task):
    """A base in bfloat16: of another's weights, or a new one in small shards."""
    import torch
    import transformers
    if task["base"] is None:
        torch.manual_seed(5)
        model = transformers.JambaForCausalLM(transformers.JambaConfig(**WIDE)).to(torch.bfloat16)
        model.save_pretrained(task["out"], max_shard_size="1MB")
        return {}
    options = {"use_mamba_kernels": False}
    model = transformers.AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.bfloat16, **options)
    model.save_pretrained(task["out"])
    return {}


def work_adapter(task):
    """Random A and B by peft, saved by peft. Small ones for the embedding, whose start is standard normal."""
    import peft
    import torch
    import check_peft
    torch.manual_seed(7)
    options = {"r": 4, "lora_alpha": 6, **task["lora"]}
    config = peft.LoraConfig(target_modules=task["targets"], init_lora_weights=False, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(check_peft.load_base(task["base"]), config)
    for name, parameter in model.named_parameters():
        if "lora_embedding" in name:
            parameter.data *= 0.2
    model.save_pretrained(task["out"], save_embedding_layers=False)
    return {}


def work_score(task):
    import check_peft
    return {"logprobs": interop.score(check_peft.load_base(task["base"]), task["documents"])}


def load_untied(base):
    """In bfloat16, the head a matrix of its own: peft adds to both uses of a tied one."""
    import torch
    import transformers
    four = transformers.__version__.startswith("4.")
    options = {"use_mamba_kernels": False} if four else {"experts_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, **options)
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    return model.eval()


def as_written(state, n_expert):
    """Fused experts of transformers 5 under the names of the files."""
    out = {}
    for name, tensor in state.items():
        head, fused, what = name.partition(".experts.")
        if not fused or what not in ("gate_up_proj", "down_proj"):
            out[name] = tensor
            continue
        for e in range(n_expert):
            parts = {"gate_proj": tensor[e].chunk(2)[0], "up_proj": tensor[e].chunk(2)[1]} if what == "gate_up_proj" else \
                {"down_proj": tensor[e]}
            for projection, part in parts.items():
                out[f"{head}.experts.{e}.{projection}.weight"] = part
    return out


def by_torch(base, adapter):
    """W + s B A of every pair as torch computes it in float32, rounded once; and with s B A rounded first."""
    import check_peft
    import torch
    from safetensors.torch import load_file
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors, once, twice = load_file(adapter / "adapter_model.safetensors"), {}, {}
    for name, a in tensors.items():
        if "_A" not in name:
            continue
        path = name.removeprefix(check_peft.PREFIX).partition(".lora_")[0]
        b = tensors[name.replace("_A", "_B")]
        rank = a.shape[0]
        alpha = check_peft.pattern_value(config["alpha_pattern"], path, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        delta = (b @ a) * scale
        key = path + ".weight"
        w = base[key] if key in base else base["model.embed_tokens.weight"]
        delta = delta.T if "embedding" in name else delta
        once[key], twice[key] = (w.float() + delta).to(torch.bfloat16), w + delta.to(torch.bfloat16)
    return once, twice


def work_bits(task):
    """Elements of merge_and_unload's tensors that differ from the merged folder's, and what explains them."""
    import peft
    import torch
    from safetensors.torch import load_file
    model = load_untied(task["base"])
    n_expert = model.config.num_experts
    before = as_written({k: v.clone() for k, v in model.state_dict().items()}, n_expert)
    merged = peft.PeftModel.from_pretrained(model, task["adapter"]).merge_and_unload()
    state = as_written(merged.state_dict(), n_expert)
    ours = {}
    for file in sorted(pathlib.Path(task["merged"]).glob("*.safetensors")):
        ours.update(load_file(file))
    once, twice = by_torch(before, pathlib.Path(task["pairs"]))
    assert set(state) == set(ours), sorted(set(state) ^ set(ours))
    apart = lambda x, y: int((x.contiguous().view(torch.int16) != y.contiguous().view(torch.int16)).sum())
    result = {"elements": 0, "changed": 0, "differ": 0, "by_torch": 0, "explained": 0, "tensors": []}
    for name, theirs in state.items():
        assert ours[name].shape == theirs.shape and ours[name].dtype == theirs.dtype, name
        if name not in once:
            assert apart(ours[name], theirs) == 0, name
            continue
        result["elements"] += theirs.numel()
        result["changed"] += apart(ours[name], before[name])
        result["by_torch"] += apart(ours[name], (twice if "embed_tokens" in name else once)[name])
        if apart(ours[name], theirs):
            result["differ"] += apart(ours[name], theirs)
            result["explained"] += apart(ours[name], theirs) if apart(twice[name], theirs) == 0 else 0
            result["tensors"].append(name)
    return result


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
    kinds = {"base": work_base, "adapter": work_adapter, "score": work_score, "bits": work_bits}
    results = [kinds[task["kind"]](task) for task in json.load(sys.stdin)]
    versions = {"transformers": transformers.__version__, "peft": peft.__version__,
                "torch": torch.__version__.partition("+")[0], "cpu": torch.backends.cpu.get_cpu_capability()}
    json.dump({"versions": versions, "results": results}, sys.stdout)


def ask(python, tasks):
    done = subprocess.run([python, "-B", __file__, "--work"], input=json.dumps(tasks), text=True, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{python}: exit code {done.returncode}; expected 0")
    return json.loads(done.stdout)


# ---------------------------------------------------------------- ours

def export(args, adapter, base, out):
    interop.jambatune(args.program, "export", adapter, "--to", "merged", "--base", base, out)


def prepare(args, folder):
    """The bases in bfloat16 and the adapters, made by transformers 4 and peft 0.18.1."""
    cases = [case for case in CASES if not args.cases or any(word in case.name for word in args.cases)]
    runs, tasks = [], []
    for base in sorted({case.base for case in cases}):
        source = None if base == "wide" else str(interop.model_folder(base))
        tasks.append({"kind": "base", "base": source, "out": str(folder / "bf16" / base)})
    for i, case in enumerate(cases):
        place = folder / str(i)
        place.mkdir()
        base = folder / "bf16" / "wide" if case.base == "wide" else interop.model_folder(case.base)
        runs.append({"case": case, "folder": place, "base": base, "bf16": folder / "bf16" / case.base})
        tasks.append({"kind": "adapter", "base": str(base), "targets": case.targets, "lora": case.lora,
                      "out": str(place / "adapter")})
    ask(args.python4, tasks)
    return runs


def run_case(args, run):
    """Everything of ours, and the tasks for both environments."""
    case, folder, base = run["case"], run["folder"], run["base"]
    adapter, merged = folder / "adapter", folder / "merged"
    documents = interop.make_documents(args, "moe_gqa_untied" if case.base == "wide" else case.base)
    data = folder / "data.jsonl"
    interop.write_lines(data, [{"input_ids": ids} for ids in documents])
    export(args, adapter, base, merged)
    export(args, adapter, run["bf16"], folder / "merged-bf16")
    words = [args.program, "eval", "--data", data]
    run["plain"], _ = interop.evaluate(folder / "plain", *words, f"base_model={base}")
    run["adapted"], _ = interop.evaluate(folder / "adapted", *words, f"base_model={base}", "--adapter", adapter)
    run["merged"], _ = interop.evaluate(folder / "ours", *words, f"base_model={merged}")
    score = {"kind": "score", "base": str(merged), "documents": documents}
    bits = {"kind": "bits", "base": str(run["bf16"]), "adapter": str(adapter), "merged": str(folder / "merged-bf16"),
            "pairs": str(adapter)}
    run["tasks4"], run["tasks5"] = [score, bits], [score]
    if case.bits5:
        five = folder / "adapter5"
        interop.jambatune(args.program, "export", adapter, "--to", "peft", "--engine", "transformers5", "--base", base, five)
        run["tasks5"].append({**bits, "adapter": str(five)})
    return run


def judge(run, verdict):
    """Faults, and the two rows of the page."""
    case, four, five = run["case"], run["answers4"], run["answers5"]
    stored_f32 = "bf16" not in case.base and case.base not in ("quickstart", "wide")
    row = {"case": case, "moved": interop.furthest(run["adapted"], run["plain"]),
           "folded": interop.furthest(run["merged"], run["adapted"]),
           "apart4": interop.furthest(run["merged"], four[0]["logprobs"]),
           "apart5": interop.furthest(run["merged"], five[0]["logprobs"]),
           "bits4": four[1], "bits5": five[1] if case.bits5 else None}
    verdict.need(row["moved"] > LEAST_MOVE, f"{case.name}: the adapter moves log-probabilities by {row['moved']:.2g} only")
    verdict.need(row["folded"] <= BOUND or not stored_f32, f"{case.name}: merged differs by {row['folded']:.2g}")
    for library in ("4", "5"):
        apart = row["apart" + library]
        verdict.need(apart <= BOUND, f"{case.name}: transformers {library} differs by {apart:.2g}")
    verdict.need(four[1]["differ"] == 0, f"{case.name}: {four[1]['differ']} elements differ from peft")
    verdict.need(four[1]["by_torch"] == 0, f"{case.name}: {four[1]['by_torch']} elements differ from torch's own sum")
    if case.bits5:
        verdict.need(five[1]["differ"] == five[1]["explained"], f"{case.name}: the newer peft differs without a reason")
    verdict.need(four[1]["changed"] > four[1]["elements"] / 4, f"{case.name}: hardly any element changes")
    row["stored"] = "F32" if stored_f32 else "BF16"
    return row


def compare(args, folder, verdict):
    runs = [run_case(args, run) for run in prepare(args, folder)]
    versions = []
    for library, python in (("4", args.python4), ("5", args.python5)):
        answer = ask(python, [task for run in runs for task in run["tasks" + library]])
        results = iter(answer["results"])
        for run in runs:
            run["answers" + library] = [next(results) for _ in run["tasks" + library]]
        versions.append(answer["versions"])
    return [judge(run, verdict) for run in runs], versions


# ---------------------------------------------------------------- the page

def print_page(out, args, rows, versions):
    four, five = versions
    v4, v5 = four["transformers"], five["transformers"]
    p = lambda line="": print(line, file=out)
    p(f"""# Merged checkpoints in the real libraries

{interop.jambatune(args.program, "--version").stdout.strip()} against {interop.name_of(four)} and {interop.name_of(five)}
(torch {four['torch']}, CPU with {four['cpu']}, one thread), {datetime.date.today()}. Made from the repository root by

    python3 tests/reference/check_merged.py --python4 PYTHON --python5 PYTHON --out tests/reference/MERGED.md

Each adapter is one of random A and B that peft {four['peft']} made and saved; `jambatune export --to merged` folded it in, and the
folder was loaded with `AutoModelForCausalLM`, without peft, and computed in float32. Differences are the largest of a
log-probability over all targets. "moves" is how far the adapter moves them, "folded" is merged against base and adapter,
both by `jambatune eval`: where the base is stored in BF16 that is the rounding of the merged weights to BF16.
""".rstrip())
    interop.print_table(p, ["case", "model", "stored", "moves", "folded", f"ours - {v4}", f"ours - {v5}"],
                        ["---"] * 3 + ["--:"] * 4,
                        [[r["case"].name, r["case"].base, r["stored"], f"{r['moved']:.2f}",
                          *interop.show(r, "folded", "apart4", "apart5")] for r in rows])
    p(f"""
## Bit for bit

The same adapters on these bases in bfloat16, against `PeftModel.from_pretrained(base).merge_and_unload()` in bfloat16 (a tied
head untied first: peft adds to both uses of a tied matrix). "elements" are those of the adapted tensors, "changed" those
whose bits the adapter changes; all other tensors are the base's. "from torch" counts those that differ from torch's own
W + s (B A) in float32, rounded once (of the embedding: with s (B A) rounded first).

peft {four['peft']} computes s (B A) in float32 and adds it to W in float32, rounding once, for every linear, experts included. Of the
embedding it rounds s (B A) to bfloat16 before it adds. So does the merged export, and all bits are equal. peft {five['peft']} does
the same but for fused experts (transformers 5), where it rounds s (B A) first as well: "explained" counts the elements of
tensors that are W plus the rounded s (B A) in every bit there.

B A is a sum of `rank` products. MKL's matrix product adds them one after the other, each with one rounding (fused
multiply-add), and so do we: on a processor without it, or past a rank of 128, where MKL splits the sum (and for the odd
row that several threads of it leave over), a last bit of float32 may differ, and of few elements the bfloat16.""")
    count = lambda bits, key: str(bits[key]) if bits else "-"
    interop.print_table(p, ["case", "model", "elements", "changed", f"differ from {four['peft']}", "from torch",
                            f"differ from {five['peft']}", "explained", "in"],
                        ["---"] * 2 + ["--:"] * 6 + ["---"],
                        [[r["case"].name, r["case"].base, count(r["bits4"], "elements"), count(r["bits4"], "changed"),
                          count(r["bits4"], "differ"), count(r["bits4"], "by_torch"), count(r["bits5"], "differ"),
                          count(r["bits5"], "explained"), where(r["bits5"])] for r in rows])


def where(bits):
    if not bits or not bits["differ"]:
        return ""
    return "experts" if all(".experts." in name for name in bits["tensors"]) else ", ".join(bits["tensors"][:3])


def main():
    if sys.argv[1:] == ["--work"]:
        return work()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--python4", required=True)
    parser.add_argument("--python5", required=True)
    parser.add_argument("--program", default="build/jambatune")
    parser.add_argument("--keep", type=pathlib.Path, help="leave adapters and checkpoints in this new folder")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    folder = args.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    verdict = interop.Verdict()
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
