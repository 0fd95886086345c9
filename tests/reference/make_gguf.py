#!/usr/bin/env python3
"""Writes tests/fixtures/export/gguf-*.txt: every tensor of a GGUF base and adapter of the 3B and of the 52B, by name,
type and shape (outermost first), sorted.

    make_gguf.py

Run from the repository root by a Python with `pip install gguf` (shown with 0.19.0): the names are those of its table for
the architecture "jamba", not of our own; the shapes are written out here from config.json.
"""

import json
import pathlib

import gguf

CONFIGS = {"3b": "tests/bench/jamba-3b.json", "52b": "tests/bench/jamba-52b.json"}
OUT = pathlib.Path("tests/fixtures/export")
RANK = {"3b": 16, "52b": 8}


def tensors(c):
    """(name in transformers, shape) of a checkpoint; experts stacked, as gguf-py's converter names them then."""
    h, i, e = c["hidden_size"], c["intermediate_size"], c["num_experts"]
    inner, state, rank = c["mamba_expand"] * h, c["mamba_d_state"], c["mamba_dt_rank"]
    kv = c["num_key_value_heads"] * h // c["num_attention_heads"]
    yield "model.embed_tokens", "weight", (c["vocab_size"], h)
    for n in range(c["num_hidden_layers"]):
        at = f"model.layers.{n}."
        yield at + "input_layernorm", "weight", (h,)
        if n % c["attn_layer_period"] == c["attn_layer_offset"]:
            for name, shape in (("q", (h, h)), ("k", (kv, h)), ("v", (kv, h)), ("o", (h, h))):
                yield f"{at}self_attn.{name}_proj", "weight", shape
        else:
            yield at + "mamba.in_proj", "weight", (2 * inner, h)
            yield at + "mamba.conv1d", "weight", (inner, c["mamba_d_conv"])
            yield at + "mamba.conv1d", "bias", (inner,)
            yield at + "mamba.x_proj", "weight", (rank + 2 * state, inner)
            yield at + "mamba.dt_proj", "weight", (inner, rank)
            yield at + "mamba.dt_proj", "bias", (inner,)
            yield at + "mamba.A_log", "", (inner, state)
            yield at + "mamba.D", "", (inner,)
            yield at + "mamba.out_proj", "weight", (h, inner)
            for name, size in (("dt", rank), ("b", state), ("c", state)):
                yield f"{at}mamba.{name}_layernorm", "weight", (size,)
        yield at + "pre_ff_layernorm", "weight", (h,)
        moe = e > 1 and n % c["expert_layer_period"] == c["expert_layer_offset"]
        if moe:
            yield at + "feed_forward.router", "weight", (e, h)
        for name, shape in (("gate", (i, h)), ("up", (i, h)), ("down", (h, i))):
            yield at + (f"mlp.experts.{name}_proj" if moe else f"feed_forward.{name}_proj"), "weight", \
                (e, *shape) if moe else shape
    yield "model.final_layernorm", "weight", (h,)
    if not c["tie_word_embeddings"]:
        yield "lm_head", "weight", (c["vocab_size"], h)


def main():
    OUT.mkdir(exist_ok=True)
    for size, path in CONFIGS.items():
        config = json.loads(pathlib.Path(path).read_text())
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.JAMBA, config["num_hidden_layers"])
        base, adapter = [], []
        for module, part, shape in tensors(config):
            name = names.get_name(module)
            assert name is not None, module
            name += "." + part if part else ""
            matrix = part == "weight" and len(shape) > 1 and "conv1d" not in module
            kind = "BF16" if matrix and "router" not in module else "F32"
            base.append((name, kind, shape))
            # The 3B: the default targets, without dt_proj. The 52B: everything that can be adapted.
            if matrix and (size == "52b" or not module.endswith(("dt_proj", "embed_tokens"))):
                a = (*shape[:-2], RANK[size], shape[-1]) if "embed" not in module else (shape[0], RANK[size])
                b = (*shape[:-1], RANK[size]) if "embed" not in module else (shape[1], RANK[size])
                adapter += [(name + ".lora_a", "F32", a), (name + ".lora_b", "F32", b)]
        for what, rows in (("base", base), ("adapter", adapter)):
            lines = sorted(f"{name} {kind} {'x'.join(map(str, shape))}\n" for name, kind, shape in rows)
            (OUT / f"gguf-{what}-{size}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
