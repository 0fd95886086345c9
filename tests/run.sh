#!/usr/bin/env bash
# The tests: builds every variant with warnings as errors and runs its tests.
#
#     tests/run.sh          all of it, under fifteen minutes on two cores
#     tests/run.sh quick    the gcc build's quick tests, under two minutes
#
# Installs the Debian packages it needs where apt is there and they are not. Builds go to build/test-*, and are reused.
# The last line is `N passed, N failed`: test programs over all variants; a build that fails is one failure.
set -uo pipefail
cd "$(dirname "$0")/.."

packages=(build-essential cmake pkg-config clang libomp-dev libcmocka-dev
    libjansson-dev libpcre2-dev libyaml-dev zlib1g-dev)
jobs=2
passed=0
failed=0

# ---- packages ----

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
    local missing=() package as_root=()
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || return 0
    for package in "${packages[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "not installed, and neither root nor sudo to do it: ${missing[*]}" >&2
            return 0 # they may be there by other means: CMake says what it does not find
        fi
        as_root=(sudo)
    fi
    echo "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# ---- variants ----

# build NAME COMPILER CMAKE-OPTION...: into build/test-NAME; of TARGET alone when that is set.
build() {
    local name=$1 compiler=$2 folder=build/test-$1
    shift 2
    mkdir -p "$folder"
    echo "== $name: building"
    if cmake -S . -B "$folder" -DCMAKE_C_COMPILER="$compiler" "$@" >"$folder/build.log" 2>&1 &&
        cmake --build "$folder" -j "$jobs" ${TARGET:+--target "$TARGET"} >>"$folder/build.log" 2>&1; then
        return 0
    fi
    grep -nE -A6 'error:|Error|warning:' "$folder/build.log" | head -60
    echo "$name: the build failed; all of it is in $folder/build.log"
    failed=$((failed + 1))
    return 1
}

# check NAME CTEST-OPTION...: runs the variant's tests and adds them up.
check() {
    local name=$1 folder=build/test-$1 summary
    shift
    echo "== $name: testing"
    ctest --test-dir "$folder" -j "$jobs" --output-on-failure --test-output-size-failed 5000 \
        --no-tests=error "$@" >"$folder/test.log" 2>&1
    summary=$(grep -E '^[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+' "$folder/test.log")
    if [[ ! $summary =~ ,\ ([0-9]+)\ tests\ failed\ out\ of\ ([0-9]+) ]]; then
        tail -5 "$folder/test.log"
        failed=$((failed + 1))
        return 1
    fi
    failed=$((failed + BASH_REMATCH[1]))
    passed=$((passed + BASH_REMATCH[2] - BASH_REMATCH[1]))
    [ "${BASH_REMATCH[1]}" -eq 0 ] || cat "$folder/test.log"
    echo "$name: $summary"
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}

case "${1-}" in
'' | quick) ;;
*)
    echo "usage: tests/run.sh [quick]" >&2
    exit 2
    ;;
esac

if ! install_packages; then
    echo "the packages could not be installed" >&2
    failed=1
    finish
fi

export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

# gcc: everything, the CUDA module too where nvcc is, and its kernels in emulation in four thread orders.
build gcc gcc -DWERROR=ON && check gcc ${1:+-L "$1"}
[ "${1-}" = quick ] && finish
build clang clang -DWERROR=ON -DWITH_CUDA=OFF && check clang -L quick
build sanitize gcc -DCMAKE_BUILD_TYPE=Debug -DSANITIZE=ON && check sanitize
TARGET=emulation_tests build tsan gcc -DTSAN=ON -DWITH_CUDA=OFF && check tsan -L emulation
build double gcc -DREAL_IS_DOUBLE=ON -DWERROR=ON && check double
finish
