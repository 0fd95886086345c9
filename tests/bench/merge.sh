#!/usr/bin/env bash
# The merged export of a 3B-shaped checkpoint against `cp` of the same folder; Markdown on standard output.
#
#     tests/bench/merge.sh FOLDER [RUNS]        PROGRAM=build/jambatune by default
#
# Writes 6 GB of random values to FOLDER/merge-bench once and 6 GB more per run, and removes it all at the end. Each run is:
# copy and sync; the same and compared with what the disk then has; export (which syncs, and compares what the disk has).
# Then all of it with the base's files dropped from the page cache. Leave the machine alone while it runs: the load that
# others made is printed, too.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: tests/bench/merge.sh FOLDER [RUNS]" >&2
    exit 2
fi
folder=$(cd "$1" && pwd)/merge-bench
runs=${2:-5}
cd "$(dirname "$0")/../.."
program=${PROGRAM:-build/jambatune}
if [ ! -x "$program" ]; then
    echo "$program: is not there; build first, or say PROGRAM=FILE" >&2
    exit 1
fi
if [ "$(df --output=avail -B1 "$1" | tail -1)" -lt 16000000000 ]; then
    echo "$1: has less than 16 GB free" >&2
    exit 1
fi
trap 'rm -rf "$folder"' EXIT
rm -rf "$folder"
python3 -B tests/bench/make_checkpoint.py tests/bench/jamba-3b.json "$folder" >&2
sync -f "$folder"

exec 3>&1
python3 -B - "$program" "$folder" "$runs" >&3 <<'PYTHON'
import datetime
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

program, folder, runs = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
base, out = folder / "base", folder / "out"
COPY = f"cp -r '{base}' '{out}' && sync -f '{out}'"
COMPARE = f"cd '{out}' && for f in *; do dd if=$f iflag=nocache count=0 2>/dev/null; cmp $f '{base}'/$f || exit 1; done"
WAYS = {"cp, then sync": ["sh", "-c", COPY],
        "cp, sync, read back and cmp": ["sh", "-c", f"{COPY} && {COMPARE}"],
        "jambatune export --to merged": [program, "export", str(folder / "adapter"), "--to", "merged", "--base", str(base),
                                         str(out)]}


def run(words, cold):
    """Seconds, processor seconds, peak MB, GB that went from and to the disk."""
    for file in base.iterdir():
        with file.open("rb") as f:
            if cold:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while f.read(1 << 24):
                    pass
    begin = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    took = time.monotonic() - begin
    if status != 0:
        sys.exit(said.decode())
    shutil.rmtree(out)
    os.sync()
    moved = 512 * (used.ru_inblock + used.ru_oublock) / 1e9
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, moved


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


measured, load = {}, []
for _ in range(runs):
    for cold in (False, True):
        for name, words in WAYS.items():
            load.append(os.getloadavg()[0])
            measured.setdefault((cold, name), []).append(run(words, cold))
size = sum(f.stat().st_size for f in base.iterdir()) / 1e9
print(f"""{runs} runs in turn on {os.cpu_count()} cores of {processor()}, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory, {datetime.date.today()};
{size:.2f} GB. Medians, and in brackets the least and the most; the load average before a run
was {min(load):.1f} to {max(load):.1f}. GB/s is what went from and to the disk over the time.

| base in the page cache | | seconds | GB read and written | GB/s | processor seconds | peak memory |
|---|---|--:|--:|--:|--:|--:|""")
for (cold, name), rows in sorted(measured.items()):
    seconds, busy, peak, moved = zip(*rows)
    median, disk = statistics.median(seconds), statistics.median(moved)
    print(f"| {'no' if cold else 'yes'} | {name} | {median:.1f} ({min(seconds):.1f} - {max(seconds):.1f}) | {disk:.1f} | "
          f"{disk / median:.2f} | {statistics.median(busy):.1f} | {max(peak):.0f} MB |")
PYTHON
