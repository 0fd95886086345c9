#!/usr/bin/env python3
"""Golden schedules and AdamW steps: tests/fixtures/schedules.json and tests/fixtures/adamw.json.

    make_optim.py            (from the repository root)

Needs torch (any 2.x) and transformers 4.57.6. Everything is computed in float64 and written with all digits.

schedules.json  list of {name, warmup, total, rate, rates}: rates[i] is the rate that optimizer step i (from 0)
                is taken with, by transformers.get_scheduler over a base rate of `rate`.
adamw.json      list of {name, betas, eps, weight_decay, rates, start, steps}: a vector `start` under
                torch.optim.AdamW; step i takes steps[i].grad at rates[i] and leaves params, exp_avg, exp_avg_sq.
"""
import json
import math
import os

import torch
from transformers import get_scheduler

OUT = "tests/fixtures"
RATE = 3e-4
PAIRS = [(0, 1), (0, 2), (0, 10), (1, 7), (3, 10), (5, 50), (9, 10), (10, 10), (7, 101)]
SCHEDULES = {
    "constant": [(0, total) for total in (1, 10)],
    "constant_with_warmup": PAIRS + [(12, 10)],
    "linear": PAIRS + [(12, 10)],
    "cosine": PAIRS + [(12, 10)],
}
# Gradients from nothing to huge; element 0 never has one, so that only weight decay moves it.
MAGNITUDES = [0.0, 1e-12, 1e-9, 1e-4, 0.03, 1.0, 40.0, 1e6]
CONSTANT, WARM = [1e-3] * 6, [0.0, 5e-4, 1e-3, 8e-4, 3e-4, 0.0]
ADAMW = [
    dict(name="defaults", rates=CONSTANT, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    dict(name="no decay", rates=CONSTANT, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    dict(name="changing rate", rates=WARM, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    dict(name="tiny epsilon", rates=CONSTANT, betas=(0.9, 0.999), eps=1e-30, weight_decay=0.01),
    dict(name="large epsilon", rates=CONSTANT, betas=(0.9, 0.999), eps=2.5, weight_decay=0.01),
    dict(name="large rate", rates=[10.0] * 6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    dict(name="decay past zero", rates=[3.0] * 6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5),
    dict(name="other betas", rates=CONSTANT, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.01),
    dict(name="no momentum", rates=CONSTANT, betas=(0.0, 0.5), eps=1e-6, weight_decay=0.01),
]


def schedule(name, warmup, total, rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return dict(name=name, warmup=warmup, total=total, rate=rate, rates=rates)


def adamw(case, generator):
    size = len(MAGNITUDES)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    param = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([param], lr=1.0, betas=case["betas"], eps=case["eps"],
                                  weight_decay=case["weight_decay"])
    steps = []
    for i, rate in enumerate(case["rates"]):
        grad = torch.tensor(MAGNITUDES, dtype=torch.float64)
        grad *= torch.randn(size, generator=generator, dtype=torch.float64)
        if i == 3:
            grad.zero_()  # a step without gradients: the moments decay, the parameters still move
        optimizer.param_groups[0]["lr"] = rate
        param.grad = grad
        optimizer.step()
        state = optimizer.state[param]
        steps.append(dict(grad=grad.tolist(), params=param.tolist(), exp_avg=state["exp_avg"].tolist(),
                          exp_avg_sq=state["exp_avg_sq"].tolist()))
    assert all(math.isfinite(value) for step in steps for value in step["params"])
    return dict(case, start=start.tolist(), steps=steps)


def write(path, entries):
    """One line for each entry: readable, and a changed case is a changed line."""
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    print(f"{path}: {len(entries)} cases, {os.path.getsize(path)} bytes")


def main():
    write(f"{OUT}/schedules.json", [schedule(name, warmup, total, RATE) for name, pairs in SCHEDULES.items()
                                    for warmup, total in pairs])
    generator = torch.Generator().manual_seed(20)
    write(f"{OUT}/adamw.json", [adamw(case, generator) for case in ADAMW])


if __name__ == "__main__":
    main()
