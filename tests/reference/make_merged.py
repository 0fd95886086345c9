#!/usr/bin/env python3
"""Golden lists of merged checkpoints: tests/fixtures/export/merged-<size>.txt.

    make_merged.py

Run from the repository root with transformers 4.57.6 (from PyPI, CPU). The models are those of tests/bench/jamba-3b.json and
jamba-52b.json, made without weights. A line per tensor, in order of names, with its type and shape; lm_head.weight is there
for the tied 3B, too.
"""
import json
import pathlib

import torch
import transformers

OUT = pathlib.Path("tests/fixtures/export")


def main():
    OUT.mkdir(exist_ok=True)
    for size in ("3b", "52b"):
        config = json.loads(pathlib.Path(f"tests/bench/jamba-{size}.json").read_text())
        with torch.device("meta"):
            model = transformers.JambaForCausalLM(transformers.JambaConfig(**config))
        state = model.state_dict()
        assert "lm_head.weight" in state
        lines = [f"{name} BF16 {'x'.join(map(str, state[name].shape))}" for name in sorted(state)]
        (OUT / f"merged-{size}.txt").write_text("\n".join(lines) + "\n")
        print(size, len(lines))


if __name__ == "__main__":
    main()
