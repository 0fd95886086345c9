#!/usr/bin/env python3
"""Shows that exported and imported PEFT folders compute in the real libraries what the adapter computes here.

    check_export.py --python4 PYTHON --python5 PYTHON [--program build/jambatune] [--out FILE] [--keep DIR]

Run from the repository root; --python4 is a Python with transformers 4.57.6 and peft 0.18.1, --python5 one with
transformers 5.23.0 and peft 0.21.2 (both from PyPI, CPU; this script itself needs neither). The Markdown it prints, or
writes to FILE, is tests/reference/EXPORT.md.

Exports: each adapter is trained by `jambatune train`; its log-probabilities are those of `jambatune eval --logprobs`. Then
`jambatune export --to peft --engine E` for each engine, and the folders through PeftModel.from_pretrained, float32, every
document alone. Imports: adapters are trained by peft on transformers 5, which saves experts fused; `jambatune eval` with
them, and with what `jambatune import` makes of them, against the library that made them. No tensor may be left over.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

import interop

BOUND = 1e-5       # of a log-probability; float32's rounding is a few 1e-6 here
LEAST_MOVE = 0.1   # an adapter that is dropped must not pass
DENSE, MOE, ODD = "dense_mqa_tied", "moe_gqa_untied", "odd_sizes"
ALL = interop.ALL_KINDS
FUSED = ["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]


@dataclasses.dataclass
class Export:
    name: str
    base: str
    keys: dict
    refused5: str = ""   # what the export for transformers 5 says
    as_is5: bool = True  # the folder for vLLM is also one for transformers 5


EXPORTS = [
    Export("default targets, dense tied", DENSE, {}),
    Export("all kinds but dt_proj, dense tied", DENSE, {"lora_target_modules": ALL}),
    Export("default targets, MoE", MOE, {}),
    Export("all kinds but dt_proj, MoE", MOE, {"lora_target_modules": ALL + ["router"]}, as_is5=False),
    Export("ranks and alphas by pattern, dense tied", DENSE, {
        "rank_pattern": {"x_proj": 2, r"layers\.2\..*in_proj": 3}, "alpha_pattern": {"q_proj": 5, "out_proj": 11}}),
    Export("ranks and alphas by pattern, MoE", MOE, {
        "rank_pattern": {"x_proj": 2, r"experts\.1\.up_proj": 3, r"layers\.3\..*experts\.\d+\.down_proj": 5},
        "alpha_pattern": {"k_proj": 5, r"experts\.2\.gate_proj": 7}}),
    Export("rsLoRA, dense tied", DENSE, {"use_rslora": True}),
    Export("rsLoRA, MoE", MOE, {"use_rslora": True, "rank_pattern": {"q_proj": 3}}),
    Export("rsLoRA, MoE, odd sizes", ODD, {"use_rslora": True}),
    Export("single experts", MOE, {"lora_target_modules": r".*(experts\.[02]\.down_proj|q_proj|in_proj)"}),
    Export("gate_proj of one expert a layer", ODD, {"lora_target_modules": r".*(experts\.1\.gate_proj|o_proj)"}),
    Export("dropout, router by rank", MOE, {"lora_dropout": 0.1, "rank_pattern": {"router": 2}, "lora_target_modules":
                                            ["router", "gate_proj", "up_proj", "down_proj"]}, as_is5=False),
    Export("dt_proj", MOE, {"lora_target_modules": ["dt_proj", "in_proj"]},
           refused5="dt_proj: transformers from 5.15 on ignores", as_is5=False),
]


@dataclasses.dataclass
class Import:
    name: str
    base: str
    lora: dict  # of peft.LoraConfig


IMPORTS = [
    Import("experts and attention", MOE, {"target_modules": ["q_proj", "v_proj"], "target_parameters": FUSED}),
    Import("down_proj listed first", MOE, {"target_modules": ["in_proj"], "target_parameters": FUSED[::-1]}),
    Import("gate_up_proj alone", MOE, {"target_modules": ["q_proj"], "target_parameters": FUSED[:1]}),
    Import("down_proj alone", ODD, {"target_modules": ["o_proj"], "target_parameters": FUSED[1:]}),
    Import("experts alone", ODD, {"target_modules": [], "target_parameters": FUSED}),
    Import("embedding and head, with their copies", MOE, {"target_modules": ["embed_tokens", "lm_head", "x_proj"],
                                                          "target_parameters": FUSED}),
    Import("ranks and alphas by pattern", MOE, {
        "target_modules": ["q_proj", "in_proj"], "target_parameters": ["gate_up_proj", "experts.down_proj"],
        "rank_pattern": {"gate_up_proj": 6, r"layers\.3.*experts\.down_proj": 3, "in_proj": 2},
        "alpha_pattern": {r"layers\.1\..*gate_up_proj": 5, "q_proj": 3}}),
    Import("rsLoRA", ODD, {"target_modules": ["q_proj"], "target_parameters": FUSED, "use_rslora": True}),
    Import("router as a parameter", MOE, {
        "target_modules": ["out_proj"], "target_parameters": FUSED + ["feed_forward.router.weight"]}),
]


# ---------------------------------------------------------------- inside an environment

def work_make(task):
    """An adapter as peft trains and saves it."""
    import check_peft
    import peft
    import torch
    torch.manual_seed(5)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **task["lora"]})
    model = peft.get_peft_model(check_peft.load_base(task["base"]), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    documents = [torch.tensor([ids]) for ids in task["documents"] if len(ids) > 1]
    for step in range(12):
        for ids in documents[step % 3::3]:
            model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(task["adapter"])
    return {}


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
            results.append({"score": interop.work_score, "make": work_make}[task["kind"]](task))
        except (ValueError, RuntimeError) as error:
            results.append({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
    versions = {"transformers": transformers.__version__, "peft": peft.__version__,
                "torch": torch.__version__.partition("+")[0]}
    json.dump({"versions": versions, "results": results}, sys.stdout)


def ask(python, tasks):
    """Results of named tasks, by name."""
    done = subprocess.run([python, __file__, "--work"], input=json.dumps(list(tasks.values())), text=True,
                          stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"{python}: exit code {done.returncode}; expected 0")
    answer = json.loads(done.stdout)
    return answer["versions"], dict(zip(tasks, answer["results"]))


# ---------------------------------------------------------------- jambatune

def evaluate(args, folder, name, base, adapter=None):
    words = [args.program, "eval", f"base_model={interop.model_folder(base)}", "--data", folder / "data.jsonl"]
    return interop.evaluate(folder / name, *words, *(["--adapter", adapter] if adapter else []))[0]


def export(args, adapter, engine, out, base):
    """None, or what it says when it refuses."""
    words = [args.program, "export", adapter, "--to", "peft", "--engine", engine, "--base", interop.model_folder(base), out]
    done = subprocess.run([str(w) for w in words], text=True, capture_output=True)
    if done.returncode not in (0, 65):
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stderr if done.returncode == 65 else None


def prepare_export(args, case, folder):
    """Trains and exports; the case's numbers, and the folders to score in each library."""
    folder.mkdir()
    documents = interop.make_documents(args, case.base)
    recipe = interop.Case(case.name, case.base, {"learning_rate": 8e-3, "max_steps": 12, **case.keys})
    adapter, _, _ = interop.train(args, recipe, folder, documents)
    run = {"case": case, "documents": documents, "ours": evaluate(args, folder, "adapter", case.base, adapter),
           "base": evaluate(args, folder, "base", case.base), "score4": {}, "score5": {}, "refused": {}}
    for engine in ("vllm", "transformers5", "transformers4"):
        out = folder / engine
        refused = export(args, adapter, engine, out, case.base)
        if refused:
            run["refused"][engine] = refused
            continue
        run["score4"][engine] = out
        if engine == "transformers5" or (engine == "vllm" and case.as_is5):
            run["score5"][engine] = out
    return run


def prepare_import(args, case, folder, made):
    adapter, out = made, folder / "imported"
    interop.jambatune(args.program, "import", adapter, out, "--base", interop.model_folder(case.base))
    refused = export(args, out, "transformers5", folder / "five", case.base)
    if refused:
        sys.exit(f"{case.name}: {refused}")
    ours = evaluate(args, folder, "read", case.base, adapter)
    return {"case": case, "ours": ours, "imported": evaluate(args, folder, "again", case.base, out),
            "base": evaluate(args, folder, "base", case.base), "out": out, "five": folder / "five"}


# ---------------------------------------------------------------- judging

def judge(row, key, ours, result, verdict, may_miss=False):
    place = f"{row['case'].name}: {key}"
    if "error" in result:
        verdict.need(False, f"{place}: {result['error']}")
        return
    row[key] = interop.furthest(ours, result["logprobs"])
    verdict.need(row[key] <= BOUND, f"{place}: differs by {row[key]:.2g}")
    verdict.need(not result["unexpected"] and (may_miss or not result["missing"]),
                 f"{place}: {len(result['unexpected'])} + {len(result['missing'])} keys left over")


def judge_export(run, results, verdict):
    case = run["case"]
    row = {"case": case, "moved": interop.furthest(run["ours"], run["base"])}
    verdict.need(row["moved"] > LEAST_MOVE, f"{case.name}: moves by {row['moved']:.2g} only")
    verdict.need(bool(case.refused5) == ("transformers5" in run["refused"]), f"{case.name}: refused {run['refused']}")
    verdict.need(case.refused5 in run["refused"].get("transformers5", ""), f"{case.name}: refused otherwise")
    for major in "45":
        for engine in run["score" + major]:
            judge(row, engine + major, run["ours"], results[major][case.name, engine], verdict)
    return row


def judge_import(run, four, five, verdict):
    case = run["case"]
    row = {"case": case, "moved": interop.furthest(run["ours"], run["base"]),
           "same": run["ours"] == run["imported"]}
    verdict.need(row["moved"] > LEAST_MOVE, f"{case.name}: moves by {row['moved']:.2g} only")
    verdict.need(row["same"], f"{case.name}: what was imported is another adapter")
    judge(row, "maker", run["ours"], five[case.name, "made"], verdict)
    # Where only gate_up_proj was trained down_proj has to be listed with it, and has no tensors.
    alone = case.lora["target_parameters"] == FUSED[:1]
    judge(row, "out5", run["ours"], five[case.name, "imported"], verdict, may_miss=alone)
    judge(row, "out4", run["ours"], four[case.name, "imported"], verdict)
    return row


# ---------------------------------------------------------------- the page

def print_page(out, args, exports, imports, versions):
    four, five = versions
    v4, v5 = four["transformers"], five["transformers"]
    version = interop.jambatune(args.program, "--version").stdout.strip()
    p = lambda line="": print(line, file=out)
    p(f"""# Exported and imported adapters in the real libraries

{version} against {interop.name_of(four)} and {interop.name_of(five)} (torch {five['torch']}, CPU, float32),
{datetime.date.today()}. Made from the repository root by

    python3 tests/reference/check_export.py --python4 PYTHON --python5 PYTHON --out tests/reference/EXPORT.md

Numbers are the largest difference of a log-probability over all targets, to `jambatune eval` with the adapter as it was
trained; "moves" is how far the adapter moves them. The bound is {BOUND:g}. No tensor was left over, and no place without
one but where said.

## Exports (`jambatune export --to peft --engine ...`)

A column is an export, and the library that read it. The folder for vLLM has one rank and one scale for all, and no
pattern that vLLM would have to honour.""")
    columns = [("vllm4", f"vllm, in {v4}"), ("vllm5", f"vllm, in {v5}"), ("transformers55", f"transformers5, in {v5}"),
               ("transformers54", f"transformers5, in {v4}"), ("transformers44", f"transformers4, in {v4}")]
    interop.print_table(p, ["case", "model", "moves"] + [title for _, title in columns], ["---", "---"] + ["--:"] * 6,
                        [[r["case"].name, r["case"].base, f"{r['moved']:.2f}"] + interop.show(r, *[k for k, _ in columns])
                         for r in exports])
    p(f"""
Not there: with `router` the folder for vLLM names it as a module, which transformers 5 refuses to wrap; the one for
transformers 5 names its matrix as a parameter. An adapter on dt_proj is refused for transformers 5, which would ignore it.

## Imports (`jambatune import`)

Adapters trained and saved by peft {five['peft']} on transformers {v5}, experts fused. "maker" compares `jambatune eval
--adapter` of the folder as peft saved it with the library that made it; "same" is whether the imported folder's
log-probabilities equal those exactly; then the imported folder in transformers {v4}, and what `jambatune export --engine
transformers5` makes of it in {v5}.""")
    interop.print_table(p, ["case", "model", "moves", "maker", "same", f"imported, in {v4}", f"exported again, in {v5}"],
                        ["---", "---", "--:", "--:", "---", "--:", "--:"],
                        [[r["case"].name, r["case"].base, f"{r['moved']:.2f}"] + interop.show(r, "maker") +
                         ["yes" if r["same"] else "no"] + interop.show(r, "out4", "out5") for r in imports])
    p("""
Where gate_up_proj alone was trained, transformers 5 has a place without a tensor after the import: down_proj, which has to
be listed with it and whose B stays 0.""")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python4", required="--work" not in sys.argv)
    parser.add_argument("--python5", required="--work" not in sys.argv)
    parser.add_argument("--program", default="build/jambatune")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or pathlib.Path(scratch)
        root.mkdir(exist_ok=True)
        verdict = interop.Verdict()
        exports = [prepare_export(args, case, root / f"export{i}") for i, case in enumerate(EXPORTS)]
        tasks4, tasks5, makes, documents = {}, {}, {}, {}
        for run in exports:
            base = interop.model_folder(run["case"].base)
            for tasks, folders in ((tasks4, run["score4"]), (tasks5, run["score5"])):
                for engine, folder in folders.items():
                    tasks[run["case"].name, engine] = interop.score_task(base, run["documents"], folder)
        for i, case in enumerate(IMPORTS):
            folder = root / f"import{i}"
            folder.mkdir()
            documents[case.name] = interop.make_documents(args, case.base)
            interop.write_lines(folder / "data.jsonl", [{"input_ids": ids} for ids in documents[case.name]])
            makes[case.name] = {"kind": "make", "base": str(interop.model_folder(case.base)), "lora": case.lora,
                                "documents": documents[case.name], "adapter": str(folder / "made")}
        for name, result in ask(args.python5, makes)[1].items():
            if result:
                sys.exit(f"{name}: {result}")
        imports = []
        for i, case in enumerate(IMPORTS):
            run = prepare_import(args, case, root / f"import{i}", root / f"import{i}" / "made")
            imports.append(run)
            base = interop.model_folder(case.base)
            tasks5[case.name, "made"] = interop.score_task(base, documents[case.name], root / f"import{i}" / "made")
            tasks4[case.name, "imported"] = interop.score_task(base, documents[case.name], run["out"])
            tasks5[case.name, "imported"] = interop.score_task(base, documents[case.name], run["five"])
        versions4, four = ask(args.python4, tasks4)
        versions5, five = ask(args.python5, tasks5)
        rows = [judge_export(run, {"4": four, "5": five}, verdict) for run in exports]
        import_rows = [judge_import(run, four, five, verdict) for run in imports]
        with open(args.out, "w") if args.out else sys.stdout as out:
            print_page(out, args, rows, import_rows, (versions4, versions5))
    for fault in verdict.faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if verdict.faults else 0)


if __name__ == "__main__":
    main()
