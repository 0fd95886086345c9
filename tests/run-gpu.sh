#!/usr/bin/env bash
# Everything that is tested and measured on a GPU, in pieces that each fit ten minutes:
#
#     tests/run-gpu.sh [--trial] [PIECE ...]          (default: all of them)
#
#   build         the program, the CUDA module for this machine's GPU, the tests: into build/gpu
#   test          ctest -L gpu: parity, gradients and training on the device
#   sanitize      compute-sanitizer over the parity tests: memcheck, racecheck, initcheck, synccheck; one of them with
#                 sanitize-memcheck and so on
#   bench-ops-3b  jambatune bench --ops for the 3B shapes: every op beside its floor; attention also with
#   bench-ops-52b deterministic: false; and the 52B's
#   steps         training steps of the 3B shape (random weights), documents of 4K, 32K and 256K tokens: tokens/s, share
#                 of GEMMs, memory against the plan; 32K and 256K also with deterministic: false; steps-52b where its
#                 weights fit
#   determinism   the same short training twice: the same adapter bytes; what deterministic: false is worth
#   curve         50 steps of the quick start in bf16, in fp32 and on the CPU: the losses
#   peer-build    the CUDA kernels of transformers' Jamba, from their source packages
#   peer          the same training with transformers and peft (tests/bench/peer_gpu.py)
#
# Results go to $OUT, or build/gpu-results without it, at most two files a piece; each piece ends with a short table.
# Needs cmake, a C and C++ compiler, nvcc, cuDNN (pip's nvidia-cudnn is found, too) and python3; for the peer that
# python3, or $PEER_PYTHON, has torch, transformers, peft, einops and ninja.
# Libraries that are missing come from .gpu-packages (tests/gpu-packages.sh fetches them, on another machine).
# A copy of the working tree is enough. No setting of the card is changed. Leave the machine alone meanwhile.
# --trial runs the same commands on the CPU at toy sizes, to try this script without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

build=build/gpu
results=${OUT:-build/gpu-results}
work=build/gpu-work # data and adapters: not brought back
trial=
pieces=()
all_pieces=(build test sanitize bench-ops-3b bench-ops-52b steps steps-52b determinism curve peer-build peer)
for word in "$@"; do
    case $word in
    --trial) trial=1 ;;
    -*) echo "run-gpu.sh: $word: no such option" >&2 && exit 64 ;;
    *) pieces+=("$word") ;;
    esac
done
[ ${#pieces[@]} -gt 0 ] || pieces=("${all_pieces[@]}")
mkdir -p "$results" "$work"
jambatune=$build/jambatune

if [ -n "$trial" ]; then
    device=(device=cpu) config_3b=tests/bench/tiny.json config_52b=tests/bench/tiny.json
    chunk=(--quick --tokens 64) step_tokens=(64:64 128:128) step_options=(--quick) budget=()
    train_length=32 train_batch=2
else
    device=(device=cuda) config_3b=tests/bench/jamba-3b.json config_52b=tests/bench/jamba-52b.json
    chunk=() step_tokens=(32768:4096 65536:32768 262144:262144) step_options=()
    # An 80 GB card, also where this one is larger.
    budget=(memory_budget=80000000000)
    train_length=2048 train_batch=4
    # Named, a module that cannot be used is a failure; only looked for, tests without one are skipped.
    export JAMBATUNE_CUDA_MODULE=$PWD/$build/libjambatune_cuda.so
fi
fail=0

# ---- helpers ----

note() {
    printf '\n== %s\n' "$*"
}

# A line for the results: which machine, when.
machine() {
    if [ -n "$trial" ]; then
        echo "trial on the CPU, $(date -u +%F)"
    else
        echo "$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | head -1)," \
            "$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/CUDA \1/p'), $(nproc) cores, $(date -u +%F)"
    fi
}

# Whether what is built can run; says so otherwise.
need_build() {
    [ -x "$jambatune" ] || piece_build >/dev/null
    [ -x "$jambatune" ] && return
    echo "run-gpu.sh: $jambatune is not there: the piece 'build' failed or was not run" >&2
    return 1
}

report() {
    python3 tests/bench/gpu_report.py "$@"
}

# Bytes of the card; of nothing without one.
card_bytes() {
    nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | awk 'NR == 1 { printf "%d", $1 * 1048576 }'
}

# ---- libraries that are missing ----

has_libraries() {
    local compiler=${CC:-cc}
    command -v pkg-config >/dev/null && pkg-config --exists jansson yaml-0.1 libpcre2-8 zlib &&
        echo '#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>' | "$compiler" -xc -fsyntax-only - 2>/dev/null
}

# Points CMake, pkg-config and the compilers to .gpu-packages, unpacked.
use_packages() {
    has_libraries && return
    local prefix archive
    prefix=$(pwd)/build/gpu-packages
    local lib=$prefix/usr/lib/x86_64-linux-gnu
    if ! ls .gpu-packages/*.deb >/dev/null 2>&1; then
        echo "run-gpu.sh: libraries are missing (jansson, libyaml, pcre2, zlib or cmocka) and .gpu-packages is not" \
            "there: run tests/gpu-packages.sh on a machine with apt and carry that folder along" >&2
        return 1
    fi
    if [ ! -d "$lib" ]; then
        for archive in .gpu-packages/*.deb; do
            dpkg -x "$archive" "$prefix" || return 1
        done
    fi
    export PATH=$PATH:$prefix/usr/bin LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export PKG_CONFIG_LIBDIR=$lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$prefix
    export CPATH=$prefix/usr/include:$prefix/usr/include/x86_64-linux-gnu${CPATH:+:$CPATH}
    cmake_packages=(-DCMAKE_PREFIX_PATH="$prefix/usr" -DCMAKE_LIBRARY_PATH="$lib")
}

# Points CMake to the cuDNN of python's package nvidia-cudnn where the compiler's folders have none.
use_cudnn_of_python() {
    local folder
    [ -z "${CUDNN_PATH:-}" ] || return 0
    folder=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")")
    for folder in /usr "${CUDA_HOME:-$folder}" "${CUDA_PATH:-$folder}"; do
        [ -z "$(find "$folder/include/" "$folder/targets/x86_64-linux/include/" -maxdepth 2 -name cudnn_graph.h \
            -print -quit 2>/dev/null)" ] || return 0
    done
    folder=$(python3 -c 'import nvidia.cudnn as c; print(list(c.__path__)[0])' 2>/dev/null)
    [ -e "$folder/include/cudnn_graph.h" ] || return 0
    echo "cuDNN of $folder"
    export CUDNN_PATH=$folder LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# ---- pieces ----

piece_build() {
    local architecture cuda=() generator=()
    cmake_packages=()
    use_packages || return 1
    [ -n "$trial" ] || use_cudnn_of_python
    command -v ninja >/dev/null && generator=(-G Ninja)
    if [ -n "$trial" ]; then
        cuda=(-DWITH_CUDA=OFF -DTESTS=OFF)
    else
        architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
        cuda=(-DWITH_CUDA=ON -DCUDA_ARCHITECTURES="$architecture-real" -DGPU_TESTS=ON)
    fi
    if ! (cmake "${generator[@]}" -S . -B "$build" "${cmake_packages[@]}" "${cuda[@]}" &&
        cmake --build "$build" -j "$(nproc)") >"$results/build.log" 2>&1; then
        grep -nE -A6 'error|Error|FAILED' "$results/build.log" | head -60
        return 1
    fi
    grep -hE 'CUDA module|warning' "$results/build.log" | sort -u | head -20
    "$jambatune" env
}

piece_test() {
    if [ -n "$trial" ]; then
        echo 'no device to test'
        return
    fi
    ctest --test-dir "$build" -L gpu --output-on-failure --timeout 200 >"$results/test.log" 2>&1
    local status=$?
    grep -E 'tests passed|\*\*\*|The following|^	' "$results/test.log" | tail -40
    return $status
}

# The parity tests' programs; those of whole models are too long under a sanitizer.
parity_programs() {
    ctest --test-dir "$build" -L gpu --show-only=json-v1 | python3 -c '
import json, sys
for test in json.load(sys.stdin)["tests"]:
    if "command" in test and not test["name"].endswith(("_model", "_train")):
        print(test["command"][0])'
}

# sanitize_one TOOL PROGRAM: a line of the table, the tool's complaints into the log.
sanitize_one() {
    local tool=$1 program=$2 log status=0
    log=$work/sanitize-$tool-$(basename "$program").log
    timeout 150 compute-sanitizer --tool "$tool" --error-exitcode 99 --print-limit 20 "$program" >"$log" 2>&1 ||
        status=$?
    grep -q 'Device not supported' "$log" && status=unsupported
    case $status in
    0) status=ok ;;
    unsupported) status='not available here' ;;
    99) status=ERRORS ;;
    124) status='not finished' ;;
    *) status="exit code $status" ;;
    esac
    printf '%-11s %-28s %-18s %s\n' "$tool" "$(basename "$program")" "$status" \
        "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -1 | sed 's/=* *//')"
    [ "$status" = ok ] || [ "$status" = 'not available here' ]
}
export -f sanitize_one
export work

sanitize() { # NAME TOOL...
    local name=$1
    shift
    if [ -n "$trial" ]; then
        echo 'no sanitizer of kernels on the CPU'
        return
    fi
    local tool program programs status=0
    mapfile -t programs < <(parity_programs)
    if [ ${#programs[@]} -lt 8 ]; then
        echo "only ${#programs[@]} parity tests were found; is everything built?"
        return 1
    fi
    for tool in "$@"; do
        for program in "${programs[@]}"; do
            printf '%s\0%s\0' "$tool" "$program"
        done
    done | timeout 570 xargs -0 -n 2 -P 4 bash -c 'sanitize_one "$@"' _ | sort >"$results/$name.txt"
    [ "${PIPESTATUS[1]}" = 0 ] || status=1
    cat "$results/$name.txt"
    for tool in "$@"; do
        grep -hE -A12 '========= (Invalid|Uninit|Error|Race|Barrier|Program hit|Leaked)' \
            "$work"/sanitize-"$tool"-*.log | head -200
    done >"$results/$name.log"
    return $status
}

bench_ops() { # NAME CONFIG
    need_build || return 1
    local base=(base_model=random:"$2" lora_r=16 lora_alpha=32 "${device[@]}")
    "$jambatune" bench --ops "${base[@]}" "${chunk[@]}" --json >"$work/ops-$1.json" &&
        "$jambatune" bench --ops --only attention deterministic=false "${base[@]}" "${chunk[@]}" --json \
            >"$work/ops-$1-unordered.json" || return 1
    report ops "$(machine)" "$work/ops-$1.json" "$work/ops-$1-unordered.json" --all "$results/ops-$1.txt" \
        --json "$results/ops-$1.json"
}

steps() { # NAME CONFIG BUDGET...
    need_build || return 1
    local name=$1 config=$2 policy size kind status=0
    shift 2
    : >"$work/steps-$name.jsonl"
    for size in "${step_tokens[@]}"; do
        for kind in auto:true layer:true auto:false; do
            # A second policy for the shortest documents; without a fixed order for those where attention is long.
            [ "$kind" = layer:true ] && [ "$size" != "${step_tokens[0]}" ] && continue
            [ "$kind" = auto:false ] && [ "$size" = "${step_tokens[0]}" ] && continue
            policy=${kind%:*}
            note "$name: ${size%:*} tokens in documents of ${size#*:}, gradient_checkpointing: $policy," \
                "deterministic: ${kind#*:}"
            "$jambatune" bench base_model=random:"$config" lora_r=16 lora_alpha=32 "${device[@]}" "$@" \
                gradient_checkpointing="$policy" deterministic="${kind#*:}" --tokens "${size%:*}" \
                --document "${size#*:}" "${step_options[@]}" \
                --json >"$work/step.json" || { status=1 && continue; }
            python3 -c '
import json, sys
print(json.dumps({**json.load(open(sys.argv[1])), "deterministic": sys.argv[2] == "true"}))' "$work/step.json" "${kind#*:}" \
                >>"$work/steps-$name.jsonl"
        done
    done
    report steps "$(machine)" "$work/steps-$name.jsonl" --ops "$results/ops-$name.json" \
        --text "$results/steps-$name.txt" --json "$results/steps-$name.jsonl" || status=1
    return $status
}

# Without values: a random Jamba of the 3B shape, some steps of documents of different lengths.
write_recipe() { # FILE CONFIG
    python3 tests/bench/make_data.py "$work/data.jsonl" --documents 16 --length $train_length --vocab 2000
    cat >"$1" <<END
base_model: random:$(pwd)/$2
datasets: [{path: $(pwd)/$work/data.jsonl, type: input_ids}]
sequence_len: $train_length
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
micro_batch_size: $train_batch
max_steps: 4
learning_rate: 1e-4
seed: 1
END
}

train_twice() { # NAME RECIPE OPTION...: whether both runs write the same bytes
    local name=$1 recipe=$2 run
    shift 2
    for run in 1 2; do
        "$jambatune" train "$recipe" "$@" output_dir="$work/$name-$run" 2>"$work/train.log" ||
            { tail -5 "$work/train.log" && return 1; }
    done
    if cmp "$work/$name-1/adapter_model.safetensors" "$work/$name-2/adapter_model.safetensors"; then
        echo "$name: two runs, the same adapter bytes ($(sha256sum <"$work/$name-1/adapter_model.safetensors" | head -c 16))"
        return 0
    fi
    echo "$name: two runs, DIFFERENT adapters"
    return 1
}

seconds_of() { # FOLDER: median seconds of its steps but the first
    python3 tests/bench/gpu_report.py seconds "$1/metrics.jsonl"
}

piece_determinism() {
    need_build || return 1
    local status=0
    write_recipe "$work/short.yaml" "$config_3b"
    {
        machine
        train_twice quickstart recipes/quickstart/quickstart.yaml "${device[@]}" max_steps=30 || status=1
        train_twice ordered "$work/short.yaml" "${device[@]}" || status=1
        train_twice unordered "$work/short.yaml" "${device[@]}" deterministic=false || true # may differ
        echo "seconds a step of the 3B shape: deterministic $(seconds_of "$work/ordered-2")," \
            "deterministic: false $(seconds_of "$work/unordered-2")"
        return $status
    } 2>&1 | tee "$results/determinism.txt"
}

piece_curve() {
    need_build || return 1
    local recipe=recipes/quickstart/quickstart.yaml half=bf16
    [ -n "$trial" ] && half=fp32
    local options=(max_steps=50 evals_per_epoch=0 val_set_size=40)
    "$jambatune" train $recipe "${options[@]}" "${device[@]}" precision=$half output_dir="$work/curve-bf16" \
        2>"$work/curve.log" &&
        "$jambatune" train $recipe "${options[@]}" "${device[@]}" precision=fp32 output_dir="$work/curve-fp32" \
            2>>"$work/curve.log" &&
        "$jambatune" train $recipe "${options[@]}" device=cpu precision=fp32 output_dir="$work/curve-cpu" \
            2>>"$work/curve.log" || { tail -5 "$work/curve.log" && return 1; }
    {
        machine
        report curve "$work/curve-fp32/metrics.jsonl" "$work/curve-bf16/metrics.jsonl" --within 1e-2 &&
            report curve "$work/curve-cpu/metrics.jsonl" "$work/curve-fp32/metrics.jsonl" --within 1e-3
    } | tee "$results/curve.txt"
    return "${PIPESTATUS[0]}"
}

peer_gpu() { # PART OPTION...
    local part=$1
    shift
    [ -n "$trial" ] && set -- "$@" --trial
    "${PEER_PYTHON:-python3}" tests/bench/peer_gpu.py "$part" --work "$work/peer" "$@" 2>"$results/$part.log" ||
        { tail -20 "$results/$part.log" && return 1; }
}

piece_peer_build() {
    if [ -n "$trial" ]; then
        echo 'no kernels on the CPU'
        return
    fi
    peer_gpu build && ls -l "$work"/peer/extensions/*/*.so
}

piece_peer() {
    need_build || return 1
    machine
    peer_gpu compare --program "$jambatune" --json "$results/peer.json"
}

run_piece() {
    case $1 in
    build) piece_build ;;
    test) piece_test ;;
    sanitize) sanitize sanitize memcheck racecheck initcheck synccheck ;;
    sanitize-memcheck | sanitize-racecheck | sanitize-initcheck | sanitize-synccheck) sanitize "$1" "${1#sanitize-}" ;;
    bench-ops-3b) bench_ops 3b "$config_3b" ;;
    bench-ops-52b) bench_ops 52b "$config_52b" ;;
    steps) steps 3b "$config_3b" "${budget[@]}" ;;
    steps-52b)
        if [ -z "$trial" ] && [ "$(card_bytes)" -lt 120000000000 ]; then
            echo "the 52B's weights (103 GB) do not fit on this card"
            return 0
        fi
        steps 52b "$config_52b"
        ;;
    determinism) piece_determinism ;;
    curve) piece_curve ;;
    peer-build) piece_peer_build ;;
    peer) piece_peer ;;
    *) echo "run-gpu.sh: $1: no such piece; there are ${all_pieces[*]}" >&2 && return 64 ;;
    esac
}

for piece in "${pieces[@]}"; do
    note "$piece ($(machine))"
    started=$SECONDS
    if run_piece "$piece"; then
        verdict=passed
    else
        verdict=FAILED
        fail=1
    fi
    echo "-- $piece: $verdict, $((SECONDS - started)) s"
done
exit $fail
