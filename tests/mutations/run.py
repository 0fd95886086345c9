#!/usr/bin/env python3
"""Shows that every term of every backward is tested: removes or changes them one at a time and expects a test to fail.

    tests/mutations/run.py                     all of tests/mutations/mutations.txt; prints tests/mutations/RESULTS.md
    tests/mutations/run.py kernels/cpu/scan.c  those of some files

Works on a copy of the tree in build/mutations, built in double, where the gradient checks are. A mutation's tests run
in the order of TESTS, quickest first, until one fails. The exit code is 0 when every mutation was killed or is listed
as equivalent with its reason.

A section of the list, then a mutation a line:

    == kernels/cpu/norm.c rmsnorm_backward         file, function
    old => new                                     old stands once in the function; whitespace does not matter
    old #2 => new                                  the second of several
    old => new ! reason                            no test can tell: equivalent
"""
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORK = os.path.join(ROOT, "build", "mutations")
TREE, BUILD = os.path.join(WORK, "tree"), os.path.join(WORK, "tree", "build", "double")
LIST = os.path.join(ROOT, "tests", "mutations", "mutations.txt")
TIMEOUT = 120  # seconds of a test; a mutation may loop for ever

MODEL = ["model_golden", "model_head", "model_invariance", "model_gradients"]
ROWS, SEQUENCE, NUMBERS, LINEAR = ["ops_rows"], ["ops_sequence"], ["ops_numbers"], ["unit_lora_linear"]
TESTS = {
    "kernels/cpu/act.c": ROWS + NUMBERS + LINEAR + MODEL,
    "kernels/cpu/embed.c": LINEAR + MODEL,
    "kernels/cpu/conv1d.c": SEQUENCE + MODEL,
    "kernels/cpu/scan.c": SEQUENCE + MODEL,
    "kernels/cpu/attention.c": SEQUENCE + ["ops_attention"] + MODEL,
    "kernels/cpu/moe.c": ROWS + NUMBERS + MODEL,
    "kernels/cpu/cast.c": NUMBERS,
    "kernels/cpu/random.c": NUMBERS,
    "kernels/cpu/optim.c": ROWS + NUMBERS + ["train_optim"],
    "finetune/train/optim.c": ["train_optim"],
    "lora/linear.c": LINEAR + MODEL,
    "lora/embed.c": LINEAR + MODEL,
}


def tests_of(file):
    return TESTS.get(file, ROWS + MODEL if file.startswith("kernels/") else MODEL)


class Mutation:
    def __init__(self, file, function, line):
        self.file, self.function = file, function
        body, _, self.equivalent = line.partition(" ! ")
        self.old, arrow, self.new = (part.strip() for part in body.partition("=>"))
        if not arrow:
            sys.exit(f"{LIST}: no '=>' in: {line}")
        which = re.search(r"\s#(\d+)$", self.old)
        self.which = int(which.group(1)) if which else None
        if which:
            self.old = self.old[:which.start()]

    def describe(self):
        which = f" (the {self.which}.)" if self.which else ""
        return f"`{self.old}`{which} -> `{self.new or 'nothing'}`"

    def applied(self, text):
        """The file's text with the mutation, or an explanation of why it does not apply."""
        begin, end = function_span(text, self.function)
        if begin is None:
            return None, f"no function {self.function}"
        pattern = r"\s*".join(re.escape(token) for token in re.findall(r"\w+|[^\w\s]", self.old))
        found = [m for m in re.finditer(r"(?<!\w)" + pattern if self.old[0].isalnum() else pattern, text[begin:end])]
        if (self.which is None and len(found) != 1) or (self.which or 1) > len(found):
            return None, f"found {len(found)} times in {self.function}"
        m = found[(self.which or 1) - 1]
        return text[:begin + m.start()] + self.new + text[begin + m.end():], None


def function_span(text, name):
    m = re.search(r"^\w[^;{}=\n]*\b" + re.escape(name) + r"\)?\s*\([^;{]*\)\s*\{", text, re.M)
    if m is None:
        return None, None
    return m.start(), text.index("\n}\n", m.start())


def read_list(files):
    mutations, file, function = [], None, None
    for line in open(LIST, encoding="utf-8"):
        line = line.rstrip("\n")
        if not line.strip() or line.startswith("# "):
            continue
        if line.startswith("== "):
            file, function = line[3:].split()
        elif not files or file in files:
            mutations.append(Mutation(file, function, line))
    return mutations


def run(command, timeout=None):
    env = dict(os.environ, OMP_WAIT_POLICY="passive", OMP_NUM_THREADS="2")
    done = subprocess.run(command, cwd=TREE, env=env, timeout=timeout, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def copy_tree():
    """Sources are written only where they differ, so that a second run builds little."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, check=True,
                            stdout=subprocess.PIPE).stdout.split("\n")
    for name in filter(None, listed):
        source, target = os.path.join(ROOT, name), os.path.join(TREE, name)
        if not os.path.isfile(source):
            continue
        content = open(source, "rb").read()
        if not os.path.exists(target) or open(target, "rb").read() != content:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)


def configure():
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DREAL_IS_DOUBLE=ON", "-DCMAKE_C_FLAGS_RELEASE=-O1 -w"]
    code, out = run(["cmake", *generator, "-S", ".", "-B", BUILD, *options])
    if code != 0:
        sys.exit(out)


def build(tests):
    return run(["cmake", "--build", BUILD, "-j", "2", "--target", *(f"test_{t}" for t in tests)])


def run_test(test):
    """None when it passes, else what failed. A test that someone else ended has shown nothing: once more."""
    code, out = -signal.SIGTERM, ""
    while code in (-signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT):
        try:
            code, out = run([os.path.join(BUILD, f"test_{test}")], TIMEOUT)
        except subprocess.TimeoutExpired:
            return "runs for ever"
    if code == 0:
        return None
    failed = re.findall(r"^\[  FAILED  \] (\w+)", out, re.M)
    return failed[0] if failed else f"exit code {code}"


def try_one(mutation):
    """(killed, how): the first test that fails."""
    path = os.path.join(TREE, mutation.file)
    text = open(path, encoding="utf-8").read()
    mutated, why = mutation.applied(text)
    if mutated is None:
        return None, why
    try:
        open(path, "w", encoding="utf-8").write(mutated)
        for test in tests_of(mutation.file):
            code, out = build([test])
            if code != 0:
                errors = re.findall(r"error: .*", out)
                return None, "does not build: " + (errors[0] if errors else out[-200:])
            failure = run_test(test)
            if failure is not None:
                return True, f"{test}: {failure}"
        return False, "survives"
    finally:
        open(path, "w", encoding="utf-8").write(text)


def machine():
    model = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        found = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
        model = found.group(1) if found else model
    return f"{model}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}"


def check_unmutated(mutations):
    tests = sorted({t for m in mutations for t in tests_of(m.file)})
    code, out = build(tests)
    if code != 0:
        sys.exit(out[-3000:])
    failed = [f"{t}: {why}" for t in tests if (why := run_test(t)) is not None]
    if failed:
        sys.exit("without any mutation fail: " + "; ".join(failed))


def main():
    mutations = read_list(sys.argv[1:])
    if not mutations:
        sys.exit("no mutations of " + ", ".join(sys.argv[1:]))
    os.makedirs(TREE, exist_ok=True)
    copy_tree()
    configure()
    check_unmutated(mutations)
    started, lines, counts = time.time(), [], {"killed": 0, "equivalent": 0, "survived": 0, "stale": 0}
    for i, mutation in enumerate(mutations):
        killed, how = try_one(mutation)
        kind = ("stale" if killed is None else "killed" if killed else
                "equivalent" if mutation.equivalent else "survived")
        counts[kind] += 1
        if kind == "equivalent":
            how = "equivalent: " + mutation.equivalent
        elif kind in ("survived", "stale"):
            how = f"**{kind}**: {how}"
        lines.append((mutation, how))
        print(f"{i + 1}/{len(mutations)} {mutation.file} {mutation.function}: {mutation.describe()}: {how}",
              file=sys.stderr, flush=True)
    report(lines, counts, time.time() - started)
    return counts["survived"] + counts["stale"] > 0


def report(lines, counts, seconds):
    print("# Mutations of the backward\n")
    print("Each line removes or changes one term; the last column is the first test that failed for it.\n")
    print("- command: `" + " ".join(["tests/mutations/run.py", *sys.argv[1:]]) + "`")
    print(f"- machine: {machine()}")
    print(f"- date: {time.strftime('%Y-%m-%d')}, {seconds / 60:.0f} minutes")
    print("- result: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    section = None
    for mutation, how in lines:
        if section != (mutation.file, mutation.function):
            section = (mutation.file, mutation.function)
            print(f"\n## {mutation.file}: {mutation.function}\n\n| mutation | what fails |\n|---|---|")
        print("|", mutation.describe().replace("|", "\\|"), "|", how.replace("|", "\\|"), "|")


if __name__ == "__main__":
    sys.exit(main())
