#!/usr/bin/env python3
"""The tables of tests/run-gpu.sh, from what jambatune printed.

    gpu_report.py ops MACHINE OPS.json [UNORDERED.json] --all FILE --json FILE
    gpu_report.py steps MACHINE STEPS.jsonl [--ops OPS.json] --text FILE --json FILE
    gpu_report.py curve REFERENCE.jsonl OTHER.jsonl --within X
    gpu_report.py seconds METRICS.jsonl

ops: `jambatune bench --ops --json`, by default and with deterministic: false. steps: one `jambatune bench --json` a
line. curve: two metrics.jsonl; the exit status says whether every step's losses are within X of each other.
Short tables go to standard output, whole ones to the files.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import sys


def table(head, rows):
    """Lines of a Markdown table, columns aligned; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in [head] + rows]
    width = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [all(isinstance(row[i], (int, float)) or not any(c.isalpha() for c in str(row[i])) for row in rows)
             for i in range(len(head))]

    def line(row):
        return "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(width, right)) + "|"
    return [line(cells[0]), rule] + [line(row) for row in cells[1:]]


def short(x, digits=3):
    return f"{x:.{digits}g}" if abs(x) < 1000 else f"{x:.0f}"


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def read_lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines() if line.strip()]


# ---- ops ----

def op_cells(op):
    rate = f"{op['gflops'] / 1e3:.0f} TFLOP/s" if op["bound"] == "flops" else f"{op['gb_per_second']:.0f} GB/s"
    return [op["op"], op["shape"], short(op["calls"]), short(op["recomputed"]), short(op["update"]), f"{op['us']:.1f}", rate,
            f"{op['floor_us']:.1f}", op["bound"], f"{op['ratio']:.2f}"]


HEAD = ["op", "shape", "calls", "recomputed", "update", "us", "rate", "floor us", "bound", "ratio"]


def by_op(facts):
    """Of each op in a recomputed step: shapes, ms of 1024 tokens, floor, their ratio, the worst shape's."""
    rows, share = [], 1024 / facts["tokens"]
    for name in dict.fromkeys(op["op"] for op in facts["ops"]):
        ops = [op for op in facts["ops"] if op["op"] == name and op["recomputed"] > 0]
        if not ops:
            continue
        took = sum(op["us"] * op["recomputed"] for op in ops) * share / 1e3
        floor = sum(op["floor_us"] * op["recomputed"] for op in ops) * share / 1e3
        worst = max(ops, key=lambda op: (op["us"] - op["floor_us"]) * op["recomputed"])
        rows.append((took, [name, len(ops), f"{took:.3f}", f"{floor:.3f}", f"{took / floor if floor else 0:.2f}",
                            worst["shape"], f"{worst['ratio']:.2f}"]))
    rows.sort(key=lambda row: -row[0])
    return table(["op", "shapes", "ms/1024 tok", "floor", "ratio", "costliest shape", "ratio"], [row for _, row in rows])


def published(facts, unordered):
    """Attention beside NVIDIA's numbers, in fixed order and not."""
    other = {(op["op"], op["shape"]): op["us"] for op in (unordered or {"ops": []})["ops"]}
    rows = []
    for op in facts["ops"]:
        if op["published_us"] > 0:
            loose = other.get((op["op"], op["shape"]), op["us"])
            rows.append([op["op"], op["shape"], f"{op['us']:.0f}", f"{loose:.0f}", f"{op['published_us']:.0f}",
                         f"{op['published_us'] / loose:.2f}"])
    return table(["op", "shape", "us", "unordered us", "NVIDIA, H200", "of NVIDIA's"], rows) if rows else []


def ceilings(facts):
    c = facts["ceilings"]
    return (f"{facts['device'] or facts['kernels']}, {facts['activations']}, chunk of {facts['tokens']} tokens, documents of "
            f"{facts['document']}: copy {c['copy_gb_per_second']:.0f} GB/s, products {c['peak_gflops'] / 1e3:.1f} "
            f"TFLOP/s, to the device {c['to_device_gb_per_second']:.1f} GB/s, back {c['to_host_gb_per_second']:.1f}")


def totals(facts):
    return table(["1024 tokens, checkpointing", "GEMMs ms", "(skinny)", "other ms", "all ms", "floor ms"],
                 [[t["gradient_checkpointing"], f"{t['gemm_ms']:.2f}", f"{t['skinny_gemm_ms']:.2f}",
                   f"{t['other_ms']:.2f}", f"{t['all_ms']:.2f}", f"{t['floor_ms']:.2f}"] for t in facts["totals"]])


def report_ops(args):
    facts = read(args.files[0])
    unordered = read(args.files[1]) if len(args.files) > 1 else None
    whole = table(HEAD, [op_cells(op) for op in facts["ops"]])
    left = [f"left out, too large: {o['op']} {o['shape']}, {o['needs_bytes'] / 1e9:.1f} GB" for o in facts["left_out"]]
    brief = ([args.machine, ceilings(facts), ""] + by_op(facts) + [""] + published(facts, unordered) + left + [""] +
             totals(facts) + [f"the optimizer's part of a step: {facts['update_ms']:.2f} ms"])
    pathlib.Path(args.all).write_text("\n".join(brief + [""] + whole) + "\n")
    shutil.copyfile(args.files[0], args.json)
    print("\n".join(brief))


# ---- steps ----

def gemm_floor(ops, policy):
    """Milliseconds of GEMMs of 1024 tokens, each timed alone; None where they were not measured."""
    for t in (ops or {"totals": []})["totals"]:
        if t["gradient_checkpointing"] == ("none" if policy == "none" else "layer"):
            return t["gemm_ms"]
    return None


def order(facts):
    return "in order" if facts["deterministic"] else "any order"


def step_cells(facts, ops):
    s = facts["step"]
    ms = 1e3 * s["seconds"] * 1024 / s["tokens"]
    gemm = gemm_floor(ops, s["recompute"])
    used = f"{s['used_bytes'] / 1e9:.2f}" if "used_bytes" in s else "-"
    ratio = f"{s['used_of_plan']:.3f}" if "used_of_plan" in s else "-"
    return [s["documents"], s["tokens"] // s["documents"], s["recompute"], order(facts), s["pass_tokens"], s["chunk_tokens"],
            f"{s['seconds']:.3f}", f"{s['tokens_per_second']:.0f}", f"{ms:.2f}", f"{gemm:.2f}" if gemm else "-",
            f"{ms / gemm:.2f}" if gemm else "-", f"{s['gemm_share']:.2f}", f"{s['memory_bytes'] / 1e9:.2f}", used, ratio]


def report_steps(args):
    steps = read_lines(args.files[0])
    ops = read(args.ops) if args.ops and pathlib.Path(args.ops).exists() else None
    head = ["documents", "of tokens", "recompute", "sums", "pass", "chunk", "s", "tok/s", "ms/1024", "GEMMs alone",
            "step/GEMMs", "GEMM share", "plan GB", "used GB", "used/plan"]
    lines = [args.machine] + table(head, [step_cells(step, ops) for step in steps])
    for step in steps:
        where = ", ".join(f"{op['op']} {100 * op['share']:.1f} %" for op in step["ops"][:8])
        lines.append(f"{step['step']['documents']} x {step['step']['tokens'] // step['step']['documents']}, "
                     f"{step['step']['recompute']}, {order(step)}: {where}")
    pathlib.Path(args.text).write_text("\n".join(lines) + "\n")
    shutil.copyfile(args.files[0], args.json)
    print("\n".join(lines))


# ---- runs ----

def losses(path):
    return [line["loss"] for line in read_lines(path) if "loss" in line]


def report_curve(args):
    a, b = losses(args.files[0]), losses(args.files[1])
    if len(a) != len(b) or not a:
        sys.exit(f"{args.files[0]} has {len(a)} steps, {args.files[1]} {len(b)}; expected the same")
    worst = max(range(len(a)), key=lambda i: abs(a[i] - b[i]))
    names = [pathlib.Path(path).parent.name for path in args.files]
    ok = abs(a[worst] - b[worst]) <= args.within
    print(f"{names[0]} against {names[1]}, {len(a)} steps: losses {a[0]:.4f} -> {a[-1]:.4f} and {b[0]:.4f} -> {b[-1]:.4f}; "
          f"furthest apart after step {worst + 1}: {abs(a[worst] - b[worst]):.2e} ({'within' if ok else 'NOT within'} "
          f"{args.within:g})")
    sys.exit(0 if ok else 1)


def report_seconds(args):
    seconds = [line["seconds"] for line in read_lines(args.files[0]) if "loss" in line]
    print(f"{statistics.median(seconds[1:] or seconds):.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, run, options in [("ops", report_ops, ["--all", "--json"]), ("steps", report_steps, ["--text", "--json"]),
                               ("curve", report_curve, []), ("seconds", report_seconds, [])]:
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        if options:
            part.add_argument("machine")
        part.add_argument("files", nargs="+")
        for option in options:
            part.add_argument(option, required=True)
        if name == "steps":
            part.add_argument("--ops")
        if name == "curve":
            part.add_argument("--within", type=float, required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
