#!/usr/bin/env python3
"""Removes each barrier of the CUDA kernels in turn and expects a test to fail.

    tests/emulation/barriers.py [--only PATTERN] BUILD...

BUILD: folders configured by CMake (the target parity_tests is built first), tried in order until one of them finds
the removal: a plain one, where the tests run in four orders of threads, and one with -DTSAN=ON, where a missing
barrier is a data race. A barrier is a __syncthreads(), a __syncwarp() or a copies.wait() (async_copy.cuh) in
kernels/cuda/*.cu or *.cuh. One that no test misses is redundant or untested: the exit status is 1, and it should go,
or get its test. --only: files or places (norm.cu:77) that match.

The tests of a family (test_norm.c for norm.cu) run first; where there are none, or they all pass, all the others.
"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KERNELS = os.path.join(ROOT, "kernels", "cuda")
BARRIER = re.compile(r"__sync(?:threads|warp)\([^()]*\)|\b\w+\.wait\(\)")
MODULE = "jambatune_cuda_emulated.dir"
ORDERS = ["forward", "reversed", "random:1", "random:2"]
WHOLE = ["test_cuda_model", "test_cuda_train"]  # an op's barriers are for the op's own tests to find
TIMEOUT = 300


def without_comments(text):
    """The same text, comments blanked out, so that places stay."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def find_barriers():
    for name in sorted(os.listdir(KERNELS)):
        if name.endswith((".cu", ".cuh")):
            with open(os.path.join(KERNELS, name)) as f:
                text = f.read()
            for m in BARRIER.finditer(without_comments(text)):
                line = text.count("\n", 0, m.start()) + 1
                yield name, line, text[: m.start()] + "((void)0)" + text[m.end() :]


class Build:
    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        command = ["cmake", "--build", self.folder, "--target", "parity_tests"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(self.folder, "compile_commands.json")) as f:
            commands = [c for c in json.load(f) if MODULE in c.get("command", "")]
        self.commands = {c["file"]: c for c in commands}
        self.tsan = any("-fsanitize=thread" in c["command"] for c in commands)
        self.name = "tsan" if self.tsan else "plain"
        where = os.path.join(self.folder, "tests", "emulation")
        self.tests = sorted(t for t in os.listdir(where) if t.startswith("test_cuda_") and t not in WHOLE)
        self.tests = {t[len("test_cuda_") :]: os.path.join(where, t) for t in self.tests}
        if not self.commands or not self.tests:
            sys.exit(f"{folder}: no emulated module, or no tests")

    def object_of(self, entry):
        words = shlex.split(entry["command"])
        return os.path.join(entry["directory"], words[words.index("-o") + 1])

    def users(self, name):
        """The .cu files that a change of `name` reaches."""
        units = [f for f in self.commands if f.endswith(".cu")]
        if name.endswith(".cu"):
            return [f for f in units if os.path.basename(f) == name]
        return [f for f in units if name in includes_of(f)]

    def compile_users(self, name, text, folder):
        """Objects of the .cu files that the changed file reaches, by their source."""
        changed = os.path.join(folder, "kernels", "cuda", name)
        os.makedirs(os.path.dirname(changed))
        with open(changed, "w") as f:
            f.write(text)
        objects = {}
        for unit in self.users(name):
            entry = self.commands[unit]
            words = shlex.split(entry["command"])
            objects[unit] = os.path.join(folder, os.path.basename(unit) + ".o")
            words[words.index("-o") + 1] = objects[unit]
            source = changed if os.path.basename(unit) == name else unit
            words = [source if os.path.join(entry["directory"], w) == unit else w for w in words]
            words[1:1] = ["-I" + folder]
            subprocess.run([*words, "-w"], cwd=entry["directory"], check=True)
        return objects

    def link(self, objects, folder):
        """A module with these objects in the place of the build's."""
        linked = [objects.get(unit) or self.object_of(entry) for unit, entry in self.commands.items()]
        compiler = shlex.split(next(c for f, c in self.commands.items() if f.endswith(".cu"))["command"])[0]
        module = os.path.join(folder, "module.so")
        flags = ["-fsanitize=thread"] if self.tsan else ["-Wl,--no-undefined"]
        more = shlex.split(os.environ.get("LDFLAGS", ""))
        subprocess.run([compiler, *flags, "-shared", *linked, *more, "-lm", "-o", module], check=True)
        return module

    def finder(self, module, names):
        """The first test and order that fail with the module; None when all pass."""
        for name in names:
            for order in ["forward"] if self.tsan else ORDERS:
                env = dict(os.environ, JAMBATUNE_CUDA_MODULE=module, CUDA_EMULATION_ORDER=order)
                env["OMP_NUM_THREADS"] = "1"
                if self.tsan:
                    env.update(CUDA_EMULATION_SMALL="1", TSAN_OPTIONS="halt_on_error=1")
                try:
                    status = subprocess.run(
                        [self.tests[name]], env=env, cwd=ROOT, timeout=TIMEOUT,
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    ).returncode
                except subprocess.TimeoutExpired:
                    status = "timeout"
                if status != 0:
                    return f"{name}, {self.name} {order}"
        return None


def includes_of(path, seen=None):
    """Base names of what of kernels/cuda a file includes, directly or not."""
    seen = set() if seen is None else seen
    with open(path) as f:
        for name in re.findall(r'#include "kernels/cuda/([^"]+)"', f.read()):
            if name not in seen and os.path.exists(os.path.join(KERNELS, name)):
                seen.add(name)
                includes_of(os.path.join(KERNELS, name), seen)
    return seen


def families(build, name):
    """The names of tests, those of the file's own family first."""
    own = os.path.splitext(name)[0]
    first = [t for t in build.tests if t == own or t.startswith(own + "_")]
    return first, [t for t in build.tests if t not in first]


def search(builds, name, text):
    for build in builds:
        with tempfile.TemporaryDirectory() as folder:
            module = build.link(build.compile_users(name, text, folder), folder)
            for names in families(build, name):
                found = build.finder(module, names)
                if found:
                    return found
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("builds", nargs="+", metavar="BUILD")
    options = parser.parse_args()
    builds = [Build(folder) for folder in options.builds]
    for build in builds:
        with tempfile.TemporaryDirectory() as folder:
            found = build.finder(build.link({}, folder), build.tests)
        if found:
            sys.exit(f"{build.folder}: fails with all barriers: {found}")
    n, missed = 0, 0
    print(f"{'barrier':<28} {'seconds':>7}  found by")
    for name, line, text in find_barriers():
        place = f"{name}:{line}"
        if not re.search(options.only, place):
            continue
        start = time.monotonic()
        found = search(builds, name, text)
        n += 1
        missed += found is None
        print(f"{place:<28} {time.monotonic() - start:7.1f}  {found or 'NOTHING'}", flush=True)
    print(f"{n} barriers removed, {n - missed} found, {missed} not found")
    sys.exit(missed != 0 or n == 0)


if __name__ == "__main__":
    main()
