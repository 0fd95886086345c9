#!/usr/bin/env python3
"""A checkpoint of random BF16 values for a config.json, and an adapter for it: to time the merged export.

    make_checkpoint.py CONFIG.JSON OUT [--rank 16] [--shard-bytes 5000000000]

Writes OUT/base (shards and index, as transformers does) and OUT/adapter (every target that train takes by default, F32).
The values repeat after 64 MiB, so writing is all it takes; needs nothing but Python.
"""

import argparse
import json
import pathlib
import random
import struct

PATTERN = 64 << 20


def values(n_byte, rng, keep, base):
    """n_byte random bytes, of each element the bits of keep; the others are base's: numbers about as large as weights."""
    width = len(keep)
    n = n_byte // width
    bits = int.from_bytes(rng.randbytes(n * width), "little") & int.from_bytes(keep * n, "little")
    return (bits | int.from_bytes(base * n, "little")).to_bytes(n * width, "little")


def shapes(c):
    """Names and shapes of a Jamba's tensors, in the order of its layers."""
    h, di, i = c["hidden_size"], c["mamba_expand"] * c["hidden_size"], c["intermediate_size"]
    n, r, kv = c["mamba_d_state"], c["mamba_dt_rank"], h // c["num_attention_heads"] * c["num_key_value_heads"]
    mlp = {"gate_proj": (i, h), "up_proj": (i, h), "down_proj": (h, i)}
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for layer in range(c["num_hidden_layers"]):
        parts = {"input_layernorm.weight": (h,), "pre_ff_layernorm.weight": (h,)}
        if layer % c["attn_layer_period"] == c["attn_layer_offset"]:
            for name, out in (("q_proj", h), ("k_proj", kv), ("v_proj", kv), ("o_proj", h)):
                parts[f"self_attn.{name}.weight"] = (out, h)
        else:
            parts |= {"mamba.A_log": (di, n), "mamba.D": (di,), "mamba.in_proj.weight": (2 * di, h),
                      "mamba.conv1d.weight": (di, 1, c["mamba_d_conv"]), "mamba.conv1d.bias": (di,),
                      "mamba.x_proj.weight": (r + 2 * n, di), "mamba.dt_proj.weight": (di, r), "mamba.dt_proj.bias": (di,),
                      "mamba.out_proj.weight": (h, di), "mamba.dt_layernorm.weight": (r,),
                      "mamba.b_layernorm.weight": (n,), "mamba.c_layernorm.weight": (n,)}
        if c["num_experts"] > 1 and layer % c["expert_layer_period"] == c["expert_layer_offset"]:
            parts["feed_forward.router.weight"] = (c["num_experts"], h)
            for e in range(c["num_experts"]):
                parts |= {f"feed_forward.experts.{e}.{name}.weight": shape for name, shape in mlp.items()}
        else:
            parts |= {f"feed_forward.{name}.weight": shape for name, shape in mlp.items()}
        for name, shape in parts.items():
            yield f"model.layers.{layer}.{name}", shape
    yield "model.final_layernorm.weight", (h,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], h)


def n_bytes(shape, size):
    for d in shape:
        size *= d
    return size


def write_tensors(path, tensors, dtype, size, pattern):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n_bytes(shape, size)]}
        at += n_bytes(shape, size)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        while at > 0:
            at -= out.write(pattern[:min(at, len(pattern))])


def write_base(folder, config, tensors, limit, rng):
    shards, room = [[]], limit
    for tensor in tensors:
        size = n_bytes(tensor[1], 2)
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    pattern = values(PATTERN, rng, b"\xff\x80", b"\x00\x3c")
    where = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        where |= {tensor: name for tensor, _ in shard}
        write_tensors(folder / name, shard, "BF16", 2, pattern)
    total = sum(n_bytes(shape, 2) for _, shape in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_adapter(folder, base, tensors, rank, rng):
    targets = ["in_proj", "x_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    pairs = []
    for name, shape in tensors:
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in targets:
            pairs.append((f"base_model.model.{module}.lora_A.weight", (rank, shape[1])))
            pairs.append((f"base_model.model.{module}.lora_B.weight", (shape[0], rank)))
    pattern = values(PATTERN, rng, b"\xff\xff\xff\x80", b"\x00\x00\x00\x3c")
    write_tensors(folder / "adapter_model.safetensors", pairs, "F32", 4, pattern)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank,
              "lora_alpha": 2 * rank, "target_modules": targets, "lora_dropout": 0.0, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    tensors, rng = list(shapes(config)), random.Random(1)
    for name in ("base", "adapter"):
        (args.out / name).mkdir(parents=True)
    write_base(args.out / "base", config, tensors, args.shard_bytes, rng)
    write_adapter(args.out / "adapter", args.out / "base", tensors, args.rank, rng)


if __name__ == "__main__":
    main()
