#!/usr/bin/env bash
# Fetches what tests/run-gpu.sh needs and a machine with a GPU may lack, to be carried there: into .gpu-packages/,
# about 3 MB.
#
#     tests/gpu-packages.sh [PYTHON]
#
# On a Debian or Ubuntu for x86-64: development packages of the libraries that CMakeLists.txt looks for, as .deb files
# (run-gpu.sh unpacks them into build/gpu-packages; they need a glibc as new as this machine's). With PYTHON, one that
# has torch, setuptools, wheel and packaging: also the sources of mamba-ssm and causal-conv1d for tests/bench/peer_gpu.py
# (their set-up scripts import torch even to be downloaded).
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(pkg-config pkgconf pkgconf-bin libpkgconf3 libjansson-dev libjansson4 libyaml-dev libyaml-0-2
    libpcre2-dev libpcre2-8-0 zlib1g-dev zlib1g libcmocka-dev libcmocka0)
sources=(mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0)
folder=.gpu-packages

mkdir -p "$folder"
rm -f "$folder"/*.deb
(cd "$folder" && apt-get download -q "${packages[@]}")
if [ $# -gt 0 ]; then
    rm -f "$folder"/*.tar.gz
    MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE "$1" -m pip download -q --no-deps \
        --no-build-isolation --no-binary=mamba-ssm,causal-conv1d -d "$folder" "${sources[@]}"
fi
ls -l "$folder"
