#!/usr/bin/env python3
"""Checks our event files with TensorBoard itself.

    python3 tests/reference/check_tensorboard.py [--run OUTPUT_DIR] [-o tests/reference/TENSORBOARD.md]

Writes event files with finetune/train/tensorboard.c (by tests/reference/write_events.c, built here with cc): a whole run,
a run that was killed and resumed, one whose last record is torn at every length, a new run in an old folder. Each is
read by tensorboard's EventAccumulator (as scripts do), and by its server, once with the Python loader and once with the
data server it prefers, over HTTP as the page does. What is shown must be what was written last of every step, and nothing
else. --run: a folder that `jambatune train` wrote; its curves must be those of its metrics.jsonl.
Needs the tensorboard package.
"""

import argparse
import html
import itertools
import json
import math
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from tensorboard import version
from tensorboard.backend.event_processing import event_accumulator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = [
    "tests/reference/write_events.c",
    "finetune/train/tensorboard.c",
    "kernels/core/crc32c.c",
    "kernels/core/err.c",
    "kernels/core/file.c",
    "kernels/core/text.c",
]
checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        sys.exit(f"FAILED: {what}")


def single(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def same(a, b):
    """Of (step, value) lists; not a number equals itself."""
    key = lambda pairs: [(s, "nan" if math.isnan(v) else v) for s, v in pairs]
    return key(a) == key(b)


# ---- what the driver writes ----


def build(folder):
    program = os.path.join(folder, "write_events")
    flags = ["-std=c11", "-O1", "-Wall", "-D_POSIX_C_SOURCE=200809L", "-D_DEFAULT_SOURCE", "-I."]
    subprocess.run(["cc", *flags, *SOURCES, "-o", program, "-lm"], cwd=ROOT, check=True)
    return program


class Case:
    """A run's folder, and what it must show after the sessions that were written into it."""

    def __init__(self, program, logdir, name):
        self.program, self.name, self.folder = program, name, os.path.join(logdir, name)
        self.of_step, self.recipes = {}, []

    def session(self, number, resumed, last, kill=False):
        words = [self.program, self.folder, resumed, last, number] + ["kill"] * kill
        code = subprocess.run([str(w) for w in words], check=False).returncode
        check(code == (-9 if kill else 0), f"write_events ends with {code}")
        self.of_step = {s: n for s, n in self.of_step.items() if s <= resumed}
        self.of_step |= {s: number for s in range(resumed + 1, last + 1)}
        self.recipes = [s for s in self.recipes if s <= resumed] + [max(resumed, 0)]
        return self

    def files(self):
        runs = os.path.join(self.folder, "runs")
        return [os.path.join(runs, name) for name in sorted(os.listdir(runs))]

    def scalars(self):
        steps = sorted(self.of_step.items())
        odd = [math.nan, math.inf, -1.0]
        return {
            "train/loss": [(s, 1000.0 * n + s) for s, n in steps],
            "train/memory_bytes": [(s, single(1e11 + s)) for s, n in steps],
            "train/odd": [(s, odd[s % 3]) for s, n in steps],
            "eval/loss": [(s, 2000.0 * n + s) for s, n in steps if s % 10 == 0],
        }

    def texts(self):
        sample = "session {}, step {}: <b>*&`\n```\n  \u20ac"
        return {
            "recipe": [(s, "lora_r: 8\nseed: 1\n") for s in self.recipes],
            "samples/1": [(s, sample.format(n, s)) for s, n in sorted(self.of_step.items()) if s % 10 == 0],
        }


def write_cases(program, logdir):
    whole = Case(program, logdir, "whole").session(1, -1, 100)
    # As a killed run goes on: from its checkpoint, steps before those that were written last.
    resumed = Case(program, logdir, "resumed").session(1, -1, 57, kill=True).session(2, 40, 63, kill=True)
    resumed.session(3, 60, 100)
    again = Case(program, logdir, "new_in_an_old_folder").session(1, -1, 80).session(2, -1, 30)
    torn = Case(program, logdir, "torn_and_resumed").session(1, -1, 57, kill=True)
    tear(torn.files()[0], 5)
    torn.session(2, 40, 70)
    return [whole, resumed, again, torn]


def tear(path, n):
    os.truncate(path, os.path.getsize(path) - n)


# ---- scripts: EventAccumulator ----


def read_accumulator(folder):
    """Scalars and texts of a run, as a script reads them."""
    reader = event_accumulator.EventAccumulator(os.path.join(folder, "runs"), {"scalars": 0, "tensors": 0})
    reader.Reload()
    tags = reader.Tags()
    scalars = {t: [(e.step, e.value) for e in reader.Scalars(t)] for t in tags["scalars"]}
    texts = {t: [(e.step, e.tensor_proto.string_val[0].decode()) for e in reader.Tensors(t)] for t in tags["tensors"]}
    return scalars, texts


def check_accumulator(case):
    scalars, texts = read_accumulator(case.folder)
    check_scalars(scalars, case.scalars(), f"EventAccumulator, {case.name}")
    for tag, rows in case.texts().items():  # of texts it keeps what a resumed run made void, too
        last = dict(texts[tag])
        for step, text in rows:
            check(last[step] == as_code(text), f"EventAccumulator, {case.name}: {tag} is {texts[tag]}")


def as_code(text):
    return "\n".join("    " + line for line in text.split("\n"))


def check_scalars(scalars, expected, what):
    check(set(scalars) == set(expected), f"{what}: tags {sorted(scalars)}")
    for tag, rows in expected.items():
        check(same(scalars[tag], rows), f"{what}: {tag} is {scalars[tag]}, expected {rows}")


def check_torn(program, logdir):
    """A last record torn at every length: all before it is read, and a resumed run's file after it."""
    case = Case(program, logdir, "torn").session(1, -1, 7, kill=True)
    path = case.files()[0]
    size, lengths = os.path.getsize(path), []
    whole = sum(len(rows) for rows in read_accumulator(case.folder)[0].values())
    for n in range(1, 150):
        os.truncate(path, size - n)
        scalars, _ = read_accumulator(case.folder)
        lengths.append(sum(len(rows) for rows in scalars.values()))
    check(whole == 3 * 8 + 1 and lengths[0] == whole - 1, "the torn record alone is gone")
    check(all(a - b in (0, 1) for a, b in itertools.pairwise(lengths)) and lengths[-1] < lengths[0], "one by one")
    case.of_step = {s: n for s, n in case.of_step.items() if s <= 4}
    case.session(2, 4, 20)
    check_accumulator(case)


# ---- the page: the server over HTTP ----


class Server:
    def __init__(self, logdir, fast):
        words = ["--logdir", logdir, "--port", "0", "--load_fast", "true" if fast else "false"]
        words += ["--samples_per_plugin", "scalars=10000,text=1000", "--reload_interval", "1"]
        self.log = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "tensorboard.main", *words]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(600):
            self.log.seek(0)
            found = re.search(r"http://\S+?:(\d+)/", self.log.read())
            if found:
                break
            time.sleep(0.1)
        check(found, "tensorboard starts")
        self.url = f"http://localhost:{found[1]}/data/"

    def get(self, path, **query):
        address = self.url + path + "?" + urllib.parse.urlencode(query)
        with urllib.request.urlopen(address, timeout=20) as answer:
            return json.loads(answer.read())

    def shown(self, run):
        scalars, texts = {}, {}
        for tag in self.get("plugin/scalars/tags").get(run, {}):
            rows = self.get("plugin/scalars/scalars", run=run, tag=tag)
            scalars[tag] = [(int(step), float(value)) for _, step, value in rows]
        for tag in self.get("plugin/text/tags").get(run, []):
            rows = self.get("plugin/text/text", run=run, tag=tag)
            texts[tag] = [(int(row["step"]), row["text"]) for row in rows]
        return scalars, texts

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def check_server(cases, logdir, fast):
    server = Server(logdir, fast)
    try:
        for case in cases:
            check_page(server, case, "data server" if fast else "Python loader")
    finally:
        server.close()


def check_page(server, case, loader):
    scalars = {}
    for _ in range(60):  # it loads in the background
        scalars, texts = server.shown(case.name + "/runs")
        if all(same(scalars.get(tag, []), rows) for tag, rows in case.scalars().items()):
            break
        time.sleep(0.5)
    check_scalars(scalars, case.scalars(), f"{loader}, {case.name}")
    for tag, rows in case.texts().items():
        check(
            [s for s, _ in rows] == [s for s, _ in texts[tag]], f"{loader}, {case.name}: steps of {tag}: {texts[tag]}"
        )
        for (_, text), (_, page) in zip(rows, texts[tag]):
            code = re.fullmatch(r"<pre><code>(.*?)\n?</code></pre>", page, re.DOTALL)
            check(
                code and html.unescape(code[1]) == text.rstrip("\n"),
                f"{loader}, {case.name}: {tag} is shown as {page!r}",
            )


# ---- a run of the program ----


def check_run(folder):
    """The curve of each number in metrics.jsonl that has one of its name."""
    logged = {}
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            prefix = "train/" if "loss" in line else "eval/" if "eval_loss" in line else None
            for key, value in line.items() if prefix else ():
                if isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity"):
                    logged.setdefault(prefix + key.replace("eval_", ""), {})[line["step"]] = float(value)
    scalars, texts = read_accumulator(folder)
    found = sorted(set(scalars) & set(logged))
    check("train/loss" in found, f"train/loss is one of {sorted(scalars)}")
    for tag in found:
        steps = [s for s, _ in scalars[tag]]
        expected = {s: v for s, v in logged[tag].items() if s in set(steps)}
        check(steps == sorted(expected), f"{tag}: steps {steps}, expected {sorted(expected)}")
        for step, value in scalars[tag]:
            want = expected[step]
            close = math.isclose(value, want, rel_tol=1e-6, abs_tol=1e-30) or str(value) == str(single(want))
            check(close, f"{tag}: step {step} is {value}, expected {want}")
    steps = [s for s, _ in scalars["train/loss"]]
    check(steps == sorted(logged["train/loss"]), "train/loss has every step")
    return f"{len(found)} curves ({', '.join(f'`{t}`' for t in found)}), {len(steps)} steps, texts " + ", ".join(
        f"`{t}`" for t in sorted(texts)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="append", default=[], help="the output_dir of a run")
    parser.add_argument("-o", "--out", help="writes the result there, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jambatune-events-") as scratch:
        logdir = os.path.join(scratch, "logdir")
        program = build(scratch)
        cases = write_cases(program, logdir)
        for case in cases:
            check_accumulator(case)
        for fast in (False, True):
            check_server(cases, logdir, fast)
        check_torn(program, scratch)
        runs = [check_run(folder) for folder in arguments.run]
    text = RESULT.format(
        checks=checks,
        version=version.VERSION,
        python=platform.python_version(),
        date=time.strftime("%Y-%m-%d"),
        steps="; ".join(f"{c.name} {len(c.of_step)} steps" for c in cases),
        runs="".join(f"\n- A run of `jambatune train`: {run}." for run in runs),
    )
    print(text, end="")
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as out:
            out.write(text)


RESULT = """# Our event files in TensorBoard

Written by `tests/reference/check_tensorboard.py`; it says what is compared.

- tensorboard {version}, Python {python}; {date}.
- {checks} checks, none failed.
- Folders: {steps}.
- Read by EventAccumulator, and over HTTP from the server with its Python loader and with its data server: of every step
  the value that was written last and no other, not-a-number and infinities included; texts letter by letter, as blocks
  of code. (Of texts EventAccumulator keeps those that a resumed run made void, too; what was written last is last.)
- A file cut by 1 to 149 bytes: each whole record is read, and after it the file of the resumed run.{runs}
"""


if __name__ == "__main__":
    main()
