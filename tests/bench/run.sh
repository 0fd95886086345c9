#!/usr/bin/env bash
# The benchmark against transformers + peft, both in one run; Markdown on standard output.
#
#     tests/bench/run.sh PEER_PYTHON [--precision bf16] [tiny] [small]
#
# PEER_PYTHON is a Python with torch, transformers 5.23.0, peft 0.21.2 and mambapy:
#     python3 -m venv peer && peer/bin/pip install torch transformers==5.23.0 peft==0.21.2 mambapy
# Builds build/jambatune (Release) first where there is none. Leave the machine alone while it runs.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: tests/bench/run.sh PEER_PYTHON [--precision bf16] [tiny] [small]" >&2
    exit 2
fi
python=$1
shift
# A relative path to the Python is relative to where we were called.
case $python in
*/*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
esac
cd "$(dirname "$0")/../.."

if ! "$python" -c 'import mambapy, peft, torch, transformers, yaml' 2>/dev/null; then
    echo "$python: torch, transformers, peft, mambapy or yaml is missing; see tests/bench/run.sh" >&2
    exit 1
fi
if [ ! -x build/jambatune ]; then
    cmake -B build >&2
    cmake --build build --target jambatune >&2
fi
exec "$python" -B tests/bench/compare.py "$@"
