#!/usr/bin/env python3
"""Trains the benchmark recipes with jambatune and with peer.py, one after the other, and prints a Markdown table.

    compare.py [--precision fp32|bf16] [--program build/jambatune] [RECIPE ...]     (default: tiny small)

Run from the repository root with the peer's Python, as tests/bench/run.sh does. Data, adapters and the raw output of
both programs go to build/bench/.

Both are measured by the same means: wall time and peak resident memory of the whole process by wait4 (its floor is
this script's own size, about 20 MB), seconds a step as the median of the steps after the first, as each program
reports them. What is left of the wall time without the steps is start-up, with ours the plan and the adapter's writing,
with the peer the imports.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import yaml

import make_data

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path("build/bench")
MIB = 1024 * 1024


def load_recipe(name):
    recipe = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    config = HERE / recipe["base_model"].removeprefix("random:")
    return recipe, json.loads(config.read_text())


def make_documents(name, recipe, config):
    count = recipe["micro_batch_size"] * recipe["max_steps"]
    make_data.write(WORK / f"{name}.jsonl", count, recipe["sequence_len"], config["vocab_size"])


def run_measured(command, log):
    """Its standard output, wall seconds and peak resident bytes; the output stays in LOG.out and LOG.err."""
    out, err = pathlib.Path(f"{log}.out"), pathlib.Path(f"{log}.err")
    with out.open("w") as out_file, err.open("w") as err_file:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out_file, stderr=err_file)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}; expected 0\n{err.read_text()[-2000:]}")
    return out.read_text(), seconds, usage.ru_maxrss * 1024


def count_adapter(folder):
    """Numbers in adapter_model.safetensors, from its header alone."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def summary(seconds, tokens, wall, peak, trainable):
    median = statistics.median(seconds[1:])
    return {"seconds": median, "first": seconds[0], "tokens_per_second": tokens / median, "peak": peak,
            "outside": wall - sum(seconds), "trainable": trainable}


def measure_ours(name, recipe, config, args):
    out = WORK / name
    (out / "metrics.jsonl").unlink(missing_ok=True)
    command = [args.program, "train", str(HERE / f"{name}.yaml"), f"output_dir={out}"]
    if args.precision == "bf16":
        copy = WORK / f"{name}-bf16.json"
        copy.write_text(json.dumps({**config, "dtype": "bfloat16"}))
        command += ["precision=bf16", f"base_model=random:{copy}"]
    _, wall, peak = run_measured(command, WORK / f"{name}.jambatune")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if "loss" in line]
    if len(seconds) != recipe["max_steps"]:
        sys.exit(f"{out}/metrics.jsonl: {len(seconds)} steps; expected {recipe['max_steps']}")
    tokens = recipe["micro_batch_size"] * recipe["sequence_len"]
    return summary(seconds, tokens, wall, peak, count_adapter(out))


def measure_peer(name, recipe, args):
    command = [sys.executable, str(HERE / "peer.py"), str(HERE / f"{name}.yaml"), "--dtype", args.precision]
    out, wall, peak = run_measured(command, WORK / f"{name}.peer")
    report = json.loads(out.splitlines()[-1])
    tokens = recipe["micro_batch_size"] * recipe["sequence_len"]
    return report, summary(report["seconds"], tokens, wall, peak, report["trainable"])


def machine():
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    isa = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", cpuinfo)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {', '.join(isa) or 'no AVX2'}, "
            f"{memory / 1024 ** 3:.0f} GiB")


def table_rows(name, recipe, parameters, ours, peer):
    shape = f"{recipe['micro_batch_size']} x {recipe['sequence_len']}"
    label = f"{name}, {parameters / 1e6:.1f} M parameters, {ours['trainable']:,} trained, {shape} tokens a step"

    def row(what, key, form, higher_is_better=False):
        a, b = ours[key], peer[key]
        ratio = a / b if higher_is_better else b / a
        return f"| {what} | {form(a)} | {form(b)} | {ratio:.1f} x |"

    def seconds(x):
        return f"{x:.3f} s" if x < 10 else f"{x:.1f} s"

    return [
        f"| **{label}** | | | |",
        row("seconds a step (median)", "seconds", seconds),
        row("first step", "first", seconds),
        row("tokens a second", "tokens_per_second", lambda x: f"{x:,.0f}", higher_is_better=True),
        row("peak resident memory", "peak", lambda x: f"{x / MIB:,.0f} MiB"),
        row("the process without its steps", "outside", seconds),
    ]


def measure(name, args):
    recipe, config = load_recipe(name)
    make_documents(name, recipe, config)
    print(f"{name}: jambatune ...", file=sys.stderr, flush=True)
    ours = measure_ours(name, recipe, config, args)
    print(f"{name}: the peer ...", file=sys.stderr, flush=True)
    report, peer = measure_peer(name, recipe, args)
    if ours["trainable"] != peer["trainable"]:
        sys.exit(f"{name}: jambatune trains {ours['trainable']} numbers, the peer {peer['trainable']}; "
                 "expected the same adapter")
    return report, table_rows(name, recipe, report["parameters"], ours, peer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--program", default="build/jambatune")
    args = parser.parse_args()
    names = args.recipes or ["tiny", "small"]
    for name in names:
        if not (HERE / f"{name}.yaml").exists():
            sys.exit(f"{name}: not a benchmark; expected tiny or small")
    WORK.mkdir(parents=True, exist_ok=True)

    load = os.getloadavg()[0]
    rows = []
    for name in names:
        report, new = measure(name, args)
        rows += new
    versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    options = (["--precision bf16"] if args.precision == "bf16" else []) + args.recipes
    print(f"Machine: {machine()}; load average before the run {load:.2f}.  ")
    print(f"Command: `{' '.join(['tests/bench/run.sh', 'PYTHON'] + options)}`, {args.precision}, "
          f"{report['threads']} threads, on {datetime.date.today()}.  ")
    print(f"Peer: {versions}, `use_mambapy=True`, {report['experts']} experts.\n")
    print("| | jambatune | transformers + peft | better by |\n|---|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
