#!/usr/bin/env python3
"""Loads an adapter folder with the installed transformers and peft, as a user would, and reports what came of it.

    check_peft.py ADAPTER_DIR BASE_DIR [--ids 1,2,3] [--by-hand] [--compare FILE] [--bound X]

Prints one JSON object: the versions, the adapter's tensors that found no place ("unexpected"), the places that
found no tensor ("missing"), the warnings, and the float32 logits of the ids. --by-hand adds nothing through peft: it
writes W + s B A into a copy of the base checkpoint with numpy, from the two files of the adapter alone, and loads that
(a tied head with an adapter of its own is untied first). --compare prints the largest difference to the logits
of an earlier output instead of the logits, and --bound makes it an error to exceed X times the largest logit.

Run it with transformers 4.57.6 + peft 0.18.1 and with transformers 5.23.0 + peft 0.21.2: both must find a place for every
tensor and agree with each other and with the merge by hand.
"""

import argparse
import json
import pathlib
import re
import sys
import tempfile
import unittest.mock
import warnings

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file, save_file

PREFIX = "base_model.model."


def load_base(folder):
    major = int(transformers.__version__.split(".")[0])
    options = {"experts_implementation": "eager"} if major >= 5 else {"use_mamba_kernels": False}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def pattern_value(patterns, path, default):
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def merge_by_hand(adapter, base, out):
    """W + s B A for every pair of tensors, into a copy of the base checkpoint in out."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    weights = {}
    for file in sorted(base.glob("*.safetensors")):
        weights.update(load_file(file))
    base_config = json.loads((base / "config.json").read_text())
    if base_config.get("tie_word_embeddings"):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
        base_config["tie_word_embeddings"] = False
    for name in sorted(tensors):
        match = re.fullmatch(re.escape(PREFIX) + r"(.*)\.lora_(embedding_)?A(\.weight)?", name)
        if match is None:
            continue
        path = match[1]
        a, b = tensors[name].astype(np.float64), tensors[name.replace("A", "B")].astype(np.float64)
        rank = pattern_value(config["rank_pattern"], path, config["r"])
        alpha = pattern_value(config["alpha_pattern"], path, config["lora_alpha"])
        assert a.shape[0] == rank, (name, a.shape, rank)
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        delta = scale * (b @ a)
        key = path + ".weight"
        weights[key] = (weights[key] + (delta.T if match[2] else delta)).astype(np.float32)
    (out / "config.json").write_text(json.dumps(base_config))
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, out / "model.safetensors", {"format": "pt"})


def load_adapter(adapter, base):
    """The model with its adapter, as from_pretrained leaves it, and the keys that were left over on either side."""
    results, load = [], peft.PeftModel.load_adapter

    def load_and_note(*args, **options):
        results.append(load(*args, **options))
        return results[-1]

    # from_pretrained drops what load_adapter returns: the only place that names unexpected keys.
    with unittest.mock.patch.object(peft.PeftModel, "load_adapter", load_and_note):
        model = peft.PeftModel.from_pretrained(load_base(base), adapter).eval()
    missing = [key for key in results[0].missing_keys if "lora_" in key]
    return model, missing, list(results[0].unexpected_keys)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("--ids", default="1,5,9,2,7,7,3,0,4,8")
    parser.add_argument("--by-hand", action="store_true")
    parser.add_argument("--compare", type=pathlib.Path)
    parser.add_argument("--bound", type=float)
    args = parser.parse_args()
    if args.bound is not None and args.compare is None:
        parser.error("--bound needs --compare")
    ids = torch.tensor([[int(i) for i in args.ids.split(",")]])

    out = {"transformers": transformers.__version__, "peft": peft.__version__, "by_hand": args.by_hand}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if args.by_hand:
            with tempfile.TemporaryDirectory() as folder:
                merge_by_hand(args.adapter, args.base, pathlib.Path(folder))
                model = load_base(folder)
        else:
            model, out["missing"], out["unexpected"] = load_adapter(args.adapter, args.base)
    out["warnings"] = sorted({str(w.message).splitlines()[0][:200] for w in caught if "lora" in str(w.message).lower()
                              or "target" in str(w.message) or "adapter" in str(w.message)})
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0].double().numpy()
    if args.compare is None:
        out["logits"] = logits.tolist()
    else:
        other = np.array(json.loads(args.compare.read_text())["logits"])
        out["max_abs_difference"] = float(np.abs(logits - other).max())
        out["max_abs_logit"] = float(np.abs(other).max())
    json.dump(out, sys.stdout, indent=None if args.compare is None else 2)
    print()
    if args.bound is not None and not out["max_abs_difference"] <= args.bound * out["max_abs_logit"]:
        sys.exit(f"the logits differ by more than {args.bound} times the largest")
    if out.get("unexpected"):
        sys.exit("some tensors of the adapter have no place in this model")


if __name__ == "__main__":
    main()
