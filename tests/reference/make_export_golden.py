#!/usr/bin/env python3
"""Golden lists of exported PEFT folders: tests/fixtures/export/peft-<engine>-<size>.txt.

    make_export_golden.py

Run from the repository root with transformers 4.57.6 and peft 0.18.1 (from PyPI, CPU). The models are those of
tests/bench/jamba-3b.json and jamba-52b.json, made without weights. Every linear, the embedding and the head are adapted
(for transformers 5 all but dt_proj, which it does not apply), at one rank and alpha: so an export for vLLM must look.

Each file: the JSON of adapter_config.json, an empty line, then a line per adapted module, in order of names: the names of
its two tensors as PEFT itself saves them, the letter in braces, and the shapes of A and B.
"""
import json
import pathlib
import re

import peft
import torch
import transformers

OUT = pathlib.Path("tests/fixtures/export")
RANK, ALPHA = 16, 32
TARGETS = ["embed_tokens", "in_proj", "x_proj", "dt_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "router", "q_proj",
           "k_proj", "v_proj", "o_proj", "lm_head"]
FUSED = ["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]


def tensors_of(config, targets):
    """Names and shapes as peft saves them, without the copies of base matrices."""
    with torch.device("meta"):
        model = transformers.JambaForCausalLM(config)
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora, low_cpu_mem_usage=True)
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def config_of(base, moe, engine, targets):
    """adapter_config.json: the keys that every PEFT knows, and those by which transformers 5 finds what is fused."""
    named_apart = engine == "transformers5" and moe
    config = {
        "alpha_pattern": {FUSED[0]: 2 * ALPHA} if moe else {}, "auto_mapping": None, "base_model_name_or_path": base,
        "bias": "none", "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
        "loftq_config": {}, "lora_alpha": ALPHA, "lora_bias": False, "lora_dropout": 0.0, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": RANK,
        "rank_pattern": {FUSED[0]: 2 * RANK} if moe else {}, "revision": None,
        "target_modules": [t for t in targets if not (t == "router" and (named_apart or not moe))],
        "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False, "use_rslora": False,
    }
    if moe:
        config["target_parameters"] = FUSED + (["feed_forward.router.weight"] if named_apart else [])
    return json.dumps(config, indent=2, sort_keys=True)


def main():
    OUT.mkdir(exist_ok=True)
    for name in ("jamba-3b", "jamba-52b"):
        config = transformers.JambaConfig(**json.loads(pathlib.Path(f"tests/bench/{name}.json").read_text()))
        moe = config.num_experts > 1
        for engine in ("vllm", "transformers5"):
            targets = [t for t in TARGETS if engine == "vllm" or t != "dt_proj"]
            tensors = tensors_of(config, targets)
            lines = []
            for a in sorted(n for n in tensors if "_A" in n):
                b = re.sub("_A", "_B", a)
                shapes = ["x".join(map(str, tensors[n])) for n in (a, b)]
                lines.append(" ".join([a.replace("_A", "_{A,B}")] + shapes))
            assert 2 * len(lines) == len(tensors)
            text = config_of(name, moe, engine, targets) + "\n\n" + "\n".join(lines) + "\n"
            size = name.removeprefix("jamba-")
            (OUT / f"peft-{engine}-{size}.txt").write_text(text)
            print(name, engine, len(lines))


if __name__ == "__main__":
    main()
