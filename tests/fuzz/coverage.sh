#!/usr/bin/env bash
# Line coverage of the readers of untrusted bytes: by the unit tests, the seeds and what was found,
# and the damaged samples. clang's source-based coverage, a build of its own.
#
#     tests/fuzz/coverage.sh [FOLDER]      FOLDER: keeps the build and the profiles for the next time
#
# Prints a line per file: lines, missed, share; and with MISSED=1 the lines that are missed.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${1:-$(mktemp -d "${TMPDIR:-/tmp}/jambatune-coverage.XXXXXX")}
build=$work/build
mkdir -p "$work/profiles"
rm -f "$work"/profiles/*

readers=(kernels/core/{json,json_memory,manifest}.c kernels/format/{safetensors,gguf}.c
    datasets/{gzip,source,record,document,tokenizer,bpe_load,bpe,added_tokens,normalizer,pattern}.c
    datasets/{pre_tokenizer,post_processor,decoder,token_node,token_map,template,template_frame}.c
    datasets/{chat,chat_message,chat_tools,chat_turns}.c datasets/jinja_{lexer,parser,primary,expression}.c
    recipes/{yaml,node,values,lookup,lists,override,check,recipe,report,sources,variables,foreign}.c
    finetune/model/{config,shards,locate}.c finetune/train/{checkpoint,state,identity,history}.c
    lora/format_peft{,_config,_layout,_tensors}.c lora/{peft_spelling,peft_names,pattern}.c)
tests='^(unit_core_|unit_datasets_|unit_lora_|recipes_|formats_|fuzz_|model_config|model_weights'
tests+='|train_(checkpoint|history|identity|resume|state))'

cmake -G Ninja -S . -B "$build" -DWITH_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER=clang \
    -DCMAKE_C_FLAGS="-fprofile-instr-generate -fcoverage-mapping" >"$work/cmake.log"
names=$(cd "$build" && ctest -N -R "$tests" | sed -n 's/^ *Test *#[0-9]*: //p')
targets=()
for name in $names; do
    case $name in
    fuzz_*) targets+=("$name") ;;
    *) targets+=("test_$name") ;;
    esac
done
cmake --build "$build" -j "${JOBS:-1}" --target "${targets[@]}" >"$work/build.log" ||
    { tail -40 "$work/build.log"; exit 1; }
LLVM_PROFILE_FILE="$work/profiles/%p.profraw" ctest --test-dir "$build" -R "$tests" \
    --timeout 600 >"$work/tests.log" || { tail -20 "$work/tests.log"; exit 1; }

version=$(clang --version | sed -n 's/.*version \([0-9]*\).*/\1/p' | head -1)
tool() { command -v "$1-$version" || command -v "$1"; }
"$(tool llvm-profdata)" merge -sparse -o "$work/all.profdata" "$work"/profiles/*.profraw
objects=("$build/${targets[0]}")
for target in "${targets[@]:1}"; do
    objects+=(-object "$build/$target")
done
"$(tool llvm-cov)" report -instr-profile "$work/all.profdata" "${objects[@]}" "${readers[@]}" \
    >"$work/report.txt" 2>"$work/report.log" || { cat "$work/report.log"; exit 1; }
awk 'BEGIN { printf "%-36s %7s %7s %8s\n", "file", "lines", "missed", "share" }
    /\.c / || /^TOTAL/ { printf "%-36s %7d %7d %7.1f%%\n", $1, $8, $9, 100 * ($8 - $9) / $8 }' \
    "$work/report.txt"
if [ -n "${MISSED:-}" ]; then
    "$(tool llvm-cov)" show -instr-profile "$work/all.profdata" "${objects[@]}" "${readers[@]}" \
        2>/dev/null | awk '/^\/.*:$/ { file = $0 } /^ *[0-9]+\| *0\|/ { print file $0 }'
fi
