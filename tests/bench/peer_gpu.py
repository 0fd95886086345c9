#!/usr/bin/env python3
"""The same training on one GPU with jambatune and with transformers + peft, side by side.

    peer_gpu.py build   --work DIR [--packages DIR]           the peer's kernels, some minutes; kept in DIR
    peer_gpu.py compare --work DIR [--packages DIR] [--program FILE] [--json FILE] [--trial]

What is trained: a random dense Jamba of the 3B shape (tests/bench/jamba-3b.json), made by transformers and saved, and a
fresh adapter (r 16, every projection that transformers applies one to) made by peft and saved; both programs start from
those two folders. Documents of 4096 random ids, 8 a step, bfloat16 base, f32 adapter, AdamW, gradient checkpointing.
The peer runs as its users would run it: autocast to bfloat16, fused AdamW, SDPA attention, Mamba's CUDA kernels, and the
number of documents at once that is fastest here. jambatune runs twice: with gradient_checkpointing: layer, which is what
the peer does, and auto.

The kernels are mamba-ssm's selective_scan and causal-conv1d, compiled here for this GPU from their source packages
(tests/gpu-packages.sh PYTHON fetches mamba_ssm-*.tar.gz and causal_conv1d-*.tar.gz into .gpu-packages) with their own
compiler options. Of mamba_ssm's Python only selective_scan_interface is used: the package itself also imports what
Mamba 3 needs. transformers takes the two functions for its Jamba by their package names; that it called them is
checked, since without them it falls back to a loop over tokens, which is no peer. Written for transformers 5.17 and
5.23 with torch 2.11.

Both are measured from the second step on, as the median; memory is what the driver counts for the whole device, less
what was in use before. --trial: a toy on the CPU, without kernels, to try this script.
"""

import argparse
import functools
import gc
import glob
import importlib
import importlib.machinery
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import threading
import time
import types

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TARGETS = ["in_proj", "x_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, RATE = 16, 32, 1e-4


class Sizes:
    def __init__(self, trial):
        self.trial = trial
        self.device = "cpu" if trial else "cuda"
        self.length = 16 if trial else 4096
        self.documents = 4 if trial else 8
        self.steps = 5 if trial else 10
        self.micro = [1, 2] if trial else [1, 2, 4, 8]

    @property
    def tokens(self):
        return self.length * self.documents


# ---- the peer's kernels ----

EXTENSIONS = {
    "mamba_ssm": ("selective_scan_cuda", "csrc/selective_scan",
                  ["selective_scan.cpp"] + [f"selective_scan_fwd_{t}.cu" for t in ("fp32", "fp16", "bf16")] +
                  [f"selective_scan_bwd_{t}_{k}.cu" for t in ("fp32", "fp16", "bf16") for k in ("real", "complex")]),
    "causal_conv1d": ("causal_conv1d_cuda", "csrc",
                      ["causal_conv1d.cpp", "causal_conv1d_fwd.cu", "causal_conv1d_bwd.cu", "causal_conv1d_update.cu"]),
}
NVCC_FLAGS = ["-O3", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda", "-lineinfo",
              *(f"-U__CUDA_NO_{name}__" for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_OPERATORS",
                                                     "BFLOAT16_CONVERSIONS", "BFLOAT162_OPERATORS",
                                                     "BFLOAT162_CONVERSIONS"))]


def unpack(package, args):
    """The folder of its sources, and the version in its name."""
    archives = sorted(glob.glob(f"{args.packages}/{package}-*.tar.gz"))
    if not archives:
        sys.exit(f"{args.packages}: no {package}-*.tar.gz; see the head of {__file__}")
    folder = args.work / "src"
    name = pathlib.Path(archives[-1]).name.removesuffix(".tar.gz")
    if not (folder / name).exists():
        with tarfile.open(archives[-1]) as archive:
            archive.extractall(folder, filter="data")
    return folder / name


def build_extension(package, args):
    from torch.utils import cpp_extension
    source = unpack(package, args)
    name, folder, files = EXTENSIONS[package]
    out = args.work / "extensions" / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "lock").unlink(missing_ok=True)  # of a build that was cut off; torch would wait for it
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        os.environ["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count()))
    return cpp_extension.load(name=name, sources=[str(source / folder / file) for file in files],
                              extra_include_paths=[str(source / folder)], extra_cflags=["-O3"],
                              extra_cuda_cflags=NVCC_FLAGS, build_directory=str(out))


def build(args):
    """Both at once: each has one file that takes much longer than the others."""
    command = [sys.executable, __file__, "build-one", "--work", str(args.work), "--packages", str(args.packages)]
    running = [subprocess.Popen([*command, "--package", package]) for package in EXTENSIONS]
    if any([process.wait() != 0 for process in running]):
        sys.exit("the peer's kernels could not be built")


class Calls:
    """Counts what transformers calls, under the signature it looks at."""

    def __init__(self):
        self.count = {}

    def counted(self, function):
        self.count[function.__name__] = 0

        @functools.wraps(function)
        def call(*args, **kwargs):
            self.count[function.__name__] += 1
            return function(*args, **kwargs)
        return call


def install_kernels(args):
    """Before transformers is imported: it takes selective_scan_fn and causal_conv1d_fn from these packages."""
    calls = Calls()
    for package in EXTENSIONS:
        sys.modules[EXTENSIONS[package][0]] = build_extension(package, args)
    sys.path.insert(0, str(unpack("causal_conv1d", args)))
    conv = importlib.import_module("causal_conv1d")
    conv.causal_conv1d_fn = calls.counted(conv.causal_conv1d_fn)
    mamba = types.ModuleType("mamba_ssm")
    mamba.__path__ = [str(unpack("mamba_ssm", args) / "mamba_ssm")]
    mamba.__spec__ = importlib.machinery.ModuleSpec("mamba_ssm", None, is_package=True)
    sys.modules["mamba_ssm"] = mamba
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    mamba.selective_scan_fn = calls.counted(scan.selective_scan_fn)
    return calls


# ---- what both start from ----

def prepare(args, sizes):
    """The base, the adapter and the data, each in its folder."""
    import transformers
    from peft import LoraConfig, get_peft_model
    config = transformers.JambaConfig.from_pretrained(str(HERE / "jamba-3b.json"))
    if sizes.trial:
        config.vocab_size, config.hidden_size, config.intermediate_size = 1024, 64, 128
        config.num_hidden_layers, config.num_attention_heads = 4, 4
        config.attn_layer_period, config.attn_layer_offset, config.mamba_dt_rank = 2, 1, 4
        config.max_position_embeddings = 1024
    torch.manual_seed(1)
    with torch.device(sizes.device):
        base = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    base.save_pretrained(args.work / "base")
    lora = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS)
    get_peft_model(base, lora).save_pretrained(args.work / "start", save_embedding_layers=False)
    sys.path.insert(0, str(HERE))
    import make_data
    make_data.write(args.work / "data.jsonl", sizes.steps * sizes.documents, sizes.length, config.vocab_size)


# ---- the peer ----

def read_documents(args):
    with open(args.work / "data.jsonl") as file:
        return torch.tensor([json.loads(line)["input_ids"] for line in file])


def load_peer(args, sizes):
    import transformers
    from peft import PeftModel
    base = transformers.AutoModelForCausalLM.from_pretrained(str(args.work / "base"), dtype=torch.bfloat16,
                                                             attn_implementation="sdpa").to(sizes.device)
    base.config.use_cache = False
    model = PeftModel.from_pretrained(base, str(args.work / "start"), is_trainable=True)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    return model


def wait(sizes):
    if sizes.device == "cuda":
        torch.cuda.synchronize()


def take_steps(model, documents, micro, steps, sizes):
    """Losses and seconds of `steps` steps, `micro` documents at once."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=sizes.device == "cuda")
    losses, seconds = [], []
    for batch in documents.split(sizes.documents)[:steps]:
        wait(sizes)
        start = time.perf_counter()
        total = 0
        for ids in batch.split(micro):
            with torch.autocast(sizes.device, dtype=torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss * (len(ids) / len(batch))
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))
        wait(sizes)
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def clear(sizes):
    gc.collect()
    if sizes.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def choose_micro(model, documents, sizes):
    """Seconds a step with each number of documents at once; those that run out of memory are left out."""
    tried = {}
    start = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    for micro in sizes.micro:
        clear(sizes)
        try:
            _, seconds = take_steps(model, documents, micro, 2, sizes)
            tried[micro] = seconds[-1]
        except torch.OutOfMemoryError:
            model.zero_grad()
            break
    with torch.no_grad():
        for p, value in zip((p for p in model.parameters() if p.requires_grad), start):
            p.copy_(value)
    clear(sizes)
    return tried


def train_peer(args, sizes):
    before = device_bytes(sizes)
    calls = None if sizes.trial else install_kernels(args)
    import transformers
    import peft
    documents = read_documents(args).to(sizes.device)
    model = load_peer(args, sizes)
    tried = choose_micro(model, documents, sizes)
    micro = min(tried, key=tried.get)
    losses, seconds = take_steps(model, documents, micro, sizes.steps, sizes)
    if calls is not None and 0 in calls.count.values():
        sys.exit(f"transformers did not call the kernels: {calls.count}")
    print(json.dumps({
        "micro": micro, "tried": tried, "losses": losses, "seconds": seconds,
        "allocated_bytes": torch.cuda.max_memory_allocated() if sizes.device == "cuda" else 0,
        "used_bytes": device_bytes(sizes) - before,
        "kernel_calls": calls.count if calls else {},
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }))


# ---- jambatune ----

RECIPE = """\
base_model: {work}/base
lora_model_dir: {work}/start
datasets: [{{path: {work}/data.jsonl, type: input_ids}}]
sequence_len: {length}
shuffle: false
lora_dropout: 0
micro_batch_size: {documents}
max_steps: {steps}
learning_rate: {rate}
lr_scheduler: constant
weight_decay: 0
max_grad_norm: 1
device: {device}
precision: {precision}
gradient_checkpointing: {policy}
output_dir: {work}/jambatune-{policy}
"""


def device_bytes(sizes):
    """What the driver counts as in use on the device, by anyone."""
    if sizes.device == "cpu":
        return 0
    out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                         capture_output=True, text=True, check=True).stdout
    return int(out.split()[0]) * 1048576


class Watch(threading.Thread):
    """The most that was in use on the device while this ran."""

    def __init__(self, sizes):
        super().__init__(daemon=True)
        self.sizes, self.before, self.most, self.done = sizes, device_bytes(sizes), 0, threading.Event()

    def run(self):
        while not self.done.wait(0.2):
            self.most = max(self.most, device_bytes(self.sizes) - self.before)

    def stop(self):
        self.done.set()
        self.join()
        return self.most


def train_ours(args, sizes, policy):
    recipe = args.work / f"{policy}.yaml"
    recipe.write_text(RECIPE.format(work=args.work.resolve(), length=sizes.length, documents=sizes.documents,
                                    steps=sizes.steps, rate=RATE, device=sizes.device,
                                    precision="fp32" if sizes.trial else "bf16", policy=policy))
    watch = Watch(sizes)
    watch.start()
    start = time.perf_counter()
    done = subprocess.run([args.program, "train", str(recipe)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True)
    wall, used = time.perf_counter() - start, watch.stop()
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        sys.exit(f"{args.program} train {recipe}: exit code {done.returncode}")
    lines = (args.work / f"jambatune-{policy}" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    return {"policy": policy, "losses": [s["loss"] for s in steps], "seconds": [s["seconds"] for s in steps],
            "used_bytes": used, "planned_bytes": steps[-1]["memory_bytes"], "wall_seconds": wall}


# ---- side by side ----

def median_rate(run, sizes):
    return sizes.tokens / statistics.median(run["seconds"][1:])


def print_table(ours, peer, sizes):
    peer_rate = median_rate(peer, sizes)
    print(f"{sizes.documents} documents of {sizes.length} tokens a step, {peer['trainable']:,} trained; peer: "
          + ", ".join(f"{k} {v}" for k, v in peer["versions"].items()))
    print("| | tokens/s | against the peer | memory GB | of the peer's | loss, first and last step | furthest from the peer |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    runs = [(f"jambatune, checkpointing {run['policy']}", run) for run in ours]
    runs.append((f"transformers + peft, {peer['micro']} at once", peer))
    for name, run in runs:
        apart = max(abs(a - b) for a, b in zip(run["losses"], peer["losses"]))
        share = run["used_bytes"] / peer["used_bytes"] if peer["used_bytes"] else 0
        print(f"| {name} | {median_rate(run, sizes):.0f} | {median_rate(run, sizes) / peer_rate:.2f} x | "
              f"{run['used_bytes'] / 1e9:.1f} | {share:.2f} | {run['losses'][0]:.4f}, {run['losses'][-1]:.4f} | "
              f"{apart:.4f} |")
    print("the peer's seconds a step by documents at once: "
          + ", ".join(f"{k}: {v:.3f}" for k, v in peer["tried"].items()))


def run_self(part, args):
    """A part of this script in a process of its own, so that no memory of it stays on the device."""
    command = [sys.executable, __file__, part, "--work", str(args.work), "--packages", str(args.packages)]
    done = subprocess.run(command + (["--trial"] if args.trial else []), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{part}: exit code {done.returncode}")
    return done.stdout


def compare(args, sizes):
    if not sizes.trial:
        build(args)
    run_self("prepare", args)
    ours = [train_ours(args, sizes, policy) for policy in ("layer", "auto")]
    peer = json.loads(run_self("train", args).splitlines()[-1])
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"jambatune": ours, "peer": peer}, indent=1) + "\n")
    print_table(ours, peer, sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["build", "build-one", "compare", "prepare", "train"])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--packages", type=pathlib.Path, default=pathlib.Path(".gpu-packages"))
    parser.add_argument("--package", choices=list(EXTENSIONS))
    parser.add_argument("--program", default="build/gpu/jambatune")
    parser.add_argument("--json")
    parser.add_argument("--trial", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(args.trial)
    if args.part == "build":
        build(args)
    elif args.part == "build-one":
        build_extension(args.package, args)
    elif args.part == "prepare":
        prepare(args, sizes)
    elif args.part == "train":
        train_peer(args, sizes)
    else:
        compare(args, sizes)


if __name__ == "__main__":
    main()
