#!/usr/bin/env bash
# The quick start: builds jambatune, lets a small pretrained Jamba write, fine-tunes it on quotes, and shows
# validation loss and text before and after. Needs nothing but a Debian 12 (or alike) and root or sudo, to
# install missing packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages="gcc cmake make pkg-config libyaml-dev zlib1g-dev libjansson-dev libpcre2-dev"
missing=""
for p in $packages; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
if [ -n "$missing" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$missing"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $missing >/dev/null
fi

echo "building ..."
cmake -B build -DTESTS=OFF >/dev/null
cmake --build build -j "$(nproc)" >/dev/null
jambatune=build/jambatune
recipe=recipes/quickstart/quickstart.yaml
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

write() { # write EXTRA_OPTIONS...: five samples
    for seed in 1 2 3 4 5; do
        printf '  * '
        "$jambatune" generate $recipe --prompt "" --max-new-tokens 48 --temperature 0.6 --seed $seed "$@"
    done
}

echo
echo "The base model writes (it has read a dictionary):"
write
echo
echo "Fine-tuning on quotes:"
"$jambatune" train $recipe output_dir="$out/adapter"
echo
echo "On the 40 quotes it has not seen, without the adapter and with it:"
"$jambatune" eval $recipe
"$jambatune" eval $recipe --adapter "$out/adapter/best"
echo
echo "The tuned model writes:"
write --adapter "$out/adapter/best"
