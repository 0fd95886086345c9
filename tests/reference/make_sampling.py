#!/usr/bin/env python3
"""Golden sampling distributions: tests/fixtures/sampling.json.

    make_sampling.py         (from the repository root)

Needs torch (any 2.x) and transformers 4.57.6.

sampling.json   list of {name, temperature, top_k, top_p, logits, p}: p is the softmax of logits after
                transformers' TemperatureLogitsWarper, TopKLogitsWarper (top_k > 0) and TopPLogitsWarper (top_p < 1),
                in that order, in float64; null stands for a logit of minus infinity. Equal logits are met only by
                top-k: what top-p does with them depends on torch's unstable sort.
"""
import json
import math

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

OUT = "tests/fixtures/sampling.json"
SETTINGS = [  # temperature, top_k, top_p
    (1.0, 0, 1.0), (0.5, 0, 1.0), (3.0, 0, 1.0), (1e-3, 0, 1.0),
    (1.0, 1, 1.0), (1.0, 5, 1.0), (1.0, 1000, 1.0), (0.7, 12, 1.0),
    (1.0, 0, 0.0), (1.0, 0, 0.3), (1.0, 0, 0.9), (1.0, 0, 0.999), (2.0, 0, 0.95),
    (1.0, 8, 0.5), (0.8, 20, 0.95), (1.7, 3, 0.99), (1.0, 1, 0.1),
]  # fmt: skip


def logit_sets():
    generator = torch.Generator().manual_seed(11)
    normal = (4 * torch.randn(40, generator=generator)).float()
    flat = (0.01 * torch.randn(33, generator=generator)).float()
    masked = normal.clone()
    masked[::3] = -math.inf
    peaked = normal.clone()
    peaked[17] = 60.0
    return {"normal": normal, "nearly flat": flat, "with minus infinity": masked, "one far above": peaked,
            "one token": torch.tensor([-3.25])}  # fmt: skip


def distribution(logits, temperature, top_k, top_p):
    steps = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k > 0:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    return steps(None, logits.double()[None])[0].softmax(-1)


def case(name, logits, setting):
    p = distribution(logits, *setting)
    numbers = [x if math.isfinite(x) else None for x in logits.tolist()]
    return dict(name=name, temperature=setting[0], top_k=setting[1], top_p=setting[2], logits=numbers, p=p.tolist())


def main():
    cases = [case(name, logits, s) for name, logits in logit_sets().items() for s in SETTINGS]
    ties = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, -1.0])
    cases += [case("ties", ties, (1.0, k, 1.0)) for k in range(1, 8)]
    with open(OUT, "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(f"{OUT}: {len(cases)} cases")


if __name__ == "__main__":
    main()
