#!/usr/bin/env python3
"""Trains a benchmark recipe with transformers and peft, and prints what it took as one JSON object.

    peer.py RECIPE [--steps N] [--dtype fp32|bf16] [--threads N] [--experts eager|grouped_mm|batched_mm]
            [--recompute]

Reads the same recipe (tests/bench/tiny.yaml, small.yaml) and the same data as `jambatune train`. Written for
transformers 5.23.0, peft 0.21.2, mambapy 1.2.0 and a torch of 2.9 or later; CPU only. Nothing is saved.

What is trained is what jambatune trains. transformers 5 keeps the experts of a layer as two parameters,
gate_up_proj (experts, 2 I, H) and down_proj (experts, H, I), which peft adapts through target_parameters. Gate and
up share one adapter there: it gets rank 2r, and the half of its B that would mix the two stays zero, which leaves
exactly two adapters of rank r an expert.

fp32 is float32 throughout; bf16 has the frozen weights in bfloat16, the adapter in float32 and runs under
autocast, as transformers' Trainer does with bf16=True. The scan is mambapy's: the default, a loop over the
tokens, takes ten times as long.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import statistics
import sys
import time

STARTED = time.perf_counter()
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

import importlib.metadata  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

IMPORTED = time.perf_counter()
EXPERTS = "feed_forward.experts."


def read_recipe(path):
    path = pathlib.Path(path)
    recipe = yaml.safe_load(path.read_text())
    recipe["config"] = path.parent / recipe["base_model"].removeprefix("random:")
    recipe["data"] = path.parent / recipe["datasets"][0]["path"]
    return recipe


def read_documents(path, per_step):
    """Batches of per_step documents, which must be of one length: nothing here pads."""
    with open(path) as file:
        rows = [json.loads(line)["input_ids"] for line in file]
    if len({len(row) for row in rows}) != 1:
        sys.exit(f"{path}: the documents differ in length; expected one length")
    return torch.tensor(rows).split(per_step)


def build_base(recipe, args):
    config = transformers.JambaConfig.from_pretrained(str(recipe["config"]))
    config.use_mambapy = True
    config.use_cache = False
    torch.manual_seed(recipe["seed"])
    options = {"experts_implementation": args.experts} if args.experts else {}
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, **options)


def add_adapter(base, recipe):
    r, alpha = recipe["lora_r"], recipe["lora_alpha"]
    gate_up = EXPERTS + "gate_up_proj"
    return get_peft_model(base, LoraConfig(
        task_type="CAUSAL_LM", r=r, lora_alpha=alpha, lora_dropout=0.0,
        target_modules=recipe["lora_target_modules"],
        target_parameters=[gate_up, EXPERTS + "down_proj"],
        rank_pattern={gate_up: 2 * r}, alpha_pattern={gate_up: 2 * alpha}))


def separate_gate_and_up(model, r):
    """Keeps the mixing half of each gate_up B at the zero it starts from; returns how many numbers that is.

    B is (2 I, 2 r experts), rank-major: seen as (gate or up, I, rank half, r experts), gate uses the first half of
    the ranks and up the second.
    """
    frozen = 0
    for module in model.modules():
        if getattr(module, "parameter_name", None) != "gate_up_proj":
            continue
        weight = module.lora_B["default"].weight
        keep = torch.zeros_like(weight)
        blocks = keep.view(2, weight.shape[0] // 2, 2, weight.shape[1] // 2)
        blocks[0, :, 0] = 1
        blocks[1, :, 1] = 1
        weight.register_hook(lambda grad, keep=keep: grad * keep)
        frozen += int((keep == 0).sum())
    return frozen


def train(model, batches, recipe, args):
    """Trains on each batch once; the losses, and the seconds of each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=float(recipe["learning_rate"]),
                                  weight_decay=recipe["weight_decay"])
    losses, seconds = [], []
    for ids in batches:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def peak_of_process():
    """VmHWM; unlike ru_maxrss it does not begin with the peak of the process that started this one."""
    match = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return int(match[1]) * 1024


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, help="steps in all, the warm-up included (the recipe's max_steps)")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, help="the recipe's threads")
    parser.add_argument("--experts", help="experts_implementation (transformers' choice)")
    parser.add_argument("--recompute", action="store_true", help="with gradient checkpointing")
    return parser.parse_args()


def main():
    args = parse_arguments()
    recipe = read_recipe(args.recipe)
    torch.set_num_threads(args.threads or recipe["threads"])
    n_step = args.steps or recipe["max_steps"]
    batches = read_documents(recipe["data"], recipe["micro_batch_size"])[:n_step]
    if n_step < 2 or len(batches) < n_step:
        sys.exit(f"{recipe['data']}: {len(batches)} steps of documents, asked for {n_step}; expected at least 2")

    base = build_base(recipe, args)
    parameters = sum(p.numel() for p in base.parameters())
    model = add_adapter(base, recipe)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trainable -= separate_gate_and_up(model, recipe["lora_r"])
    if args.recompute:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    loaded, memory_loaded = time.perf_counter(), peak_of_process()
    losses, seconds = train(model, batches, recipe, args)

    median = statistics.median(seconds[1:])
    packages = ["torch", "transformers", "peft", "mambapy"]
    print(json.dumps({
        "parameters": parameters,
        "trainable": trainable,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "experts": base.config._experts_implementation,
        "seconds": seconds,
        "seconds_per_step": median,
        "tokens_per_second": batches[0].numel() / median,
        "losses": losses,
        "import_seconds": IMPORTED - STARTED,
        "load_seconds": loaded - IMPORTED,
        "rss_loaded": memory_loaded,
        "peak_rss": peak_of_process(),
        "ru_maxrss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }))


if __name__ == "__main__":
    main()
