#!/usr/bin/env python3
"""Writes tests/fixtures/checkpoint/, a checkpoint as this program writes it, and the seeds of tests/fuzz/fuzz_checkpoint.c.

    python3 tests/reference/make_checkpoint.py build/jambatune

A run of two steps on tests/fixtures/models/dense_mqa_tied with one adapted module of rank 1. What differs from machine to
machine (folders, host, process, times, the program's digest) is replaced, and the manifest made anew. Run it again when
the format changes.
"""

import copy
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOUND = os.path.join(ROOT, "tests/fixtures/checkpoint")
SEEDS = os.path.join(ROOT, "tests/fixtures/fuzz/checkpoint")
RECIPE = """base_model: model
datasets:
  - path: train.jsonl
    type: input_ids
val_set_size: 2
sequence_len: 16
lora_r: 1
lora_alpha: 2
lora_target_modules: [q_proj]
micro_batch_size: 2
max_steps: 2
save_steps: 1
eval_steps: 1
learning_rate: 0.01
seed: 7
threads: 1
output_dir: out
"""
TIME = "2026-11-22T17:00:00Z"

# Events, samples, numbers that are none, a past that was given up, a line that is none, half a line.
ODD_LOG = rb"""{"step":0,"event":"started","text":"","time":"2026-11-22T17:00:00Z"}
{"step":1,"loss":4.5,"applied":false,"documents":"train.jsonl:3","tokens":11,"seconds":0.5}
{"step":2,"loss":"NaN","grad_norm":"Infinity","blocks":{"mamba":1.5,"data":0}}
{"step":2,"eval_loss":"-Infinity","eval_tokens":12,"seconds":1}
{"step":2,"sample":{"prompt":"<script>","text":"a\u0000b\ud83d\ude00","tokens":3,"end":"eos"}}
{"step":2,"sample":{"prompt":"<script>","text":"b","tokens":3,"end":"length"}}
{"step":2,"event":"stopped","text":"TERM","time":"2026-11-22T17:01:00Z"}
no line of a log
{"step":1,"event":"resumed","text":"learning_rate: 0.01 -> 0.02","time":"2026-11-22T17:02:00Z"}
{"step":2,"loss":4.25,"tokens_per_second":1e300,"memory_bytes":1e300}
{"step":3,"loss":-1e308}
{"step":4,"loss":1.7e308,"seconds":1e308}
{"step":5,"lo"""


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def read(*parts):
    with open(os.path.join(*parts), "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def train(program, folder):
    shutil.copytree(os.path.join(ROOT, "tests/fixtures/models/dense_mqa_tied"), os.path.join(folder, "model"))
    write(os.path.join(folder, "train.yaml"), RECIPE.encode())
    with open(os.path.join(folder, "train.jsonl"), "w") as f:
        for document in range(6):
            ids = [3 + (document * 11 + i) % 40 for i in range(3 + document * 7 % 6)]
            f.write(json.dumps({"input_ids": ids, "labels": [-100] + ids[1:]}) + "\n")
    environment = dict(os.environ, JAMBATUNE_CUDA_MODULE="none")
    subprocess.run([os.path.abspath(program), "train", "train.yaml"], cwd=folder, check=True, env=environment,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def split_safetensors(data):
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def join_safetensors(header, values):
    text = compact(header)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def sound_checkpoint(folder):
    """The files of checkpoint-2/, its state as JSON, and that file's header and values."""
    names = ["adapter_config.json", "adapter_model.safetensors", "recipe.yaml", "training_state.safetensors"]
    files = {name: read(folder, "out/checkpoint-2", name) for name in names}
    real = os.path.realpath(folder).encode()
    files["recipe.yaml"] = files["recipe.yaml"].replace(real + b"/", b"").replace(folder.encode() + b"/", b"")
    header, values = split_safetensors(files["training_state.safetensors"])
    state = json.loads(header["__metadata__"]["state"])
    state["counters"]["seconds"] = (0.5).hex()
    state["identity"]["parts"]["program"] = hashlib.sha256(b"a program").hexdigest()
    header["__metadata__"]["state"] = compact(state).decode()
    files["training_state.safetensors"] = join_safetensors(header, values)
    assert real not in b"".join(files.values()) and folder.encode() not in b"".join(files.values())
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    files["manifest.json"] = json.dumps({"format": 1, "files": entries}, indent=1).encode()
    return files, state, header, values


def changed(state, *path, **members):
    state = copy.deepcopy(state)
    object = state
    for key in path:
        object = object[key]
    object.update(members)
    return state


def logs(folder):
    run = json.loads(read(folder, "out/run.json"))
    run.update(host="host", pid=17, started=TIME)
    lines = [json.loads(line) for line in read(folder, "out/metrics.jsonl").splitlines()]
    for line in lines:
        line.update({key: TIME for key in ["time"] if key in line}, **({"seconds": 0.5} if "seconds" in line else {}))
    return json.dumps(run, indent=1).encode(), b"".join(compact(line) + b"\n" for line in lines)


def main():
    with tempfile.TemporaryDirectory() as folder:
        train(sys.argv[1], folder)
        files, state, header, values = sound_checkpoint(folder)
        run, log = logs(folder)
    odd = changed(state, "counters", first_loss="nan", last_loss="-inf", best_loss="inf", best_digest="", evaluated_step=-1,
                  stopped_early=True)
    odd = changed(odd, "identity", "recipe", learning_rate="0.02")
    odd = changed(odd, "identity", "parts", program="another")
    nan = values[:192] + struct.pack("<f", float("nan")) + values[196:]
    outside = {"format": 1, "files": {"../beside/x": {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}}}
    file = files["training_state.safetensors"]
    seeds = {
        "manifest": b"m" + files["manifest.json"],
        "sealed": b"m" + files["manifest.json"] + b"\0" + file,
        "traversal": b"m" + compact(outside),
        "state": b"s" + compact(state),
        "state-odd": b"s" + compact(odd),
        "state-other-seed": b"s" + compact(changed(state, "identity", "recipe", seed="8")),
        "state-before-the-first-step": b"s" + compact(changed(state, "counters", step=-1)),
        "state-file": b"t" + file,
        "state-file-nan": b"t" + join_safetensors(header, nan),
        "run": b"l" + run + b"\0" + log,
        "run-without-a-log": b"l" + run,
        "log": b"l\0" + ODD_LOG,
        "held": b'h{"pid":17,"host":"host","started":"' + TIME.encode() + b'"}\0' + log[:400],
    }
    for target, contents in [(SOUND, files), (SEEDS, seeds)]:
        os.makedirs(target, exist_ok=True)
        for name, data in contents.items():
            write(os.path.join(target, name), data)


main()
