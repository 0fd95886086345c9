#!/usr/bin/env python3
"""Golden tiny Jambas: tests/fixtures/models/<name>/, computed by transformers and PEFT.

    make_models.py [NAME ...]            write the fixtures (all of them without names)
    make_models.py --check [NAME ...]    read them back and show that they prove something

Run from the repository root. Needs from PyPI: torch 2.x, transformers 4.57.6, peft 0.18.1, safetensors; CPU only.

The oracle is transformers' Jamba, every document run alone, in float64: the places where its code names
float32 (norms, softmaxes, A) are widened (`widen`), the weights are those of the files. So the goldens
have no rounding of their own beyond the final one to F32.

Each folder:
  config.json, model.safetensors or shards     as save_pretrained writes them
  adapter/            a PEFT adapter on every kind of target; A and B both random
  golden.safetensors  a stream of documents and what the model makes of it (V: vocabulary)
    ids, targets (n_tok) I32      target[t] = labels[t + 1], -100: none; some prompts are masked
    doc_start (n_doc + 1) I32
    logits (n_tok, V) F32         of the base alone
    logprob (n_tok) F32           of the target under the base; 0 where there is none
    loss (1) F64                  sum of cross entropies / number of targets, of the base
    lora_logits (n_tok, V) F32, lora_loss (1) F64      with the adapter
    grad.<key> F32                of lora_loss; <key> as in adapter_model.safetensors
    short_doc (1) I32, short_loss (1) F64, short_grad.<key> F32       (models with experts to choose from)
                                  document number short_doc alone: experts without tokens have zeros
    aux_coef, aux_term, aux_loss (1) F64, aux_grad.<key> F32          (these models too)
                                  aux_term = aux_coef * sum over documents of len / n_tok *
                                  load_balancing_loss_func(router logits of that document), whose
                                  gradient is zero where every expert is chosen;
                                  aux_loss = lora_loss + aux_term; aux_grad: of aux_loss
  train.safetensors   50 AdamW steps from the adapter's start: rate 3e-3, torch's betas and epsilon, decay 0.01
    ids, targets, doc_start       a list of documents, as above
    step_docs (50, 4) I32         the documents of each step; two micro-batches of two
    losses (50) F64               sum of cross entropies / targets of the whole step, before its update
    grad_norms (50) F64           global norm before clipping to 1.0
    rates (50) F64                cosine, 5 warm-up steps: the rate the step was taken with
    final.<key> F32               the adapter after the last step
moe_gqa_untied/legacy is the same checkpoint under the names of the first Jamba release.
A gradient that is None (an expert without tokens) is zeros, also for the optimizer.
"""
import argparse
import contextlib
import math
import os
import shutil
import warnings

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import JambaConfig, JambaForCausalLM, get_scheduler, logging
from transformers.models.jamba import modeling_jamba

OUT = "tests/fixtures/models"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "x_proj", "dt_proj", "out_proj", "gate_proj", "up_proj",
           "down_proj", "router", "embed_tokens", "lm_head"]
LORA = dict(r=4, lora_alpha=6, target_modules=TARGETS, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
            rank_pattern={"x_proj": 2})
IGNORE = -100
LENGTHS = [1, 7, 33, 2, 64, 1, 5]
SHORT_DOC = 3
AUX_COEF = 0.1
# Float32 against float64 with the seeds below; a seed whose random norms nearly cancel is no use as a golden.
LIMIT_F32 = 5e-6
MIN_ROUTER_GAP = 1e-3
TRAIN_LENGTHS = [9, 1, 14, 3, 28, 8, 2, 19, 23, 5]
STEPS, WARMUP, MAX_NORM = 50, 5, 1.0
WEIGHT_DECAY = 0.01

MODELS = {
    "dense_mqa_tied": dict(
        seed=18, rate=3e-3,
        config=dict(vocab_size=64, hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3,
                    num_key_value_heads=1, num_experts=1, num_experts_per_tok=1, attn_layer_period=4,
                    attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4, tie_word_embeddings=True)),
    "moe_gqa_untied": dict(
        seed=11, rate=3e-3, base_layers=True, legacy=True, lora=dict(alpha_pattern={"dt_proj": 3, "experts.1.up_proj": 5}),
        config=dict(vocab_size=72, hidden_size=16, intermediate_size=20, num_hidden_layers=4, num_attention_heads=4,
                    num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, expert_layer_period=2,
                    expert_layer_offset=1, attn_layer_period=4, attn_layer_offset=2, mamba_d_state=4,
                    mamba_dt_rank=4)),
    "proj_bias": dict(
        seed=2, rate=3e-3, lora=dict(use_rslora=True, lora_alpha=3),
        config=dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                    num_key_value_heads=1, num_experts=2, num_experts_per_tok=2, expert_layer_period=1,
                    expert_layer_offset=0, attn_layer_period=3, attn_layer_offset=1, mamba_d_state=6, mamba_d_conv=3,
                    mamba_dt_rank=5, mamba_expand=3, mamba_proj_bias=True, mamba_conv_bias=False, pad_token_id=None)),
    "odd_sizes": dict(
        seed=4, rate=3e-3, idle=True,
        config=dict(vocab_size=101, hidden_size=20, intermediate_size=37, num_hidden_layers=5, num_attention_heads=5,
                    num_key_value_heads=5, num_experts=3, num_experts_per_tok=1, expert_layer_period=2,
                    expert_layer_offset=0, attn_layer_period=3, attn_layer_offset=1, mamba_d_state=5, mamba_d_conv=5,
                    mamba_dt_rank=3, rms_norm_eps=1e-5, pad_token_id=7)),
    "bf16_sharded": dict(
        seed=13, rate=3e-3, dtype=torch.bfloat16, max_shard_size="24KB",
        config=dict(vocab_size=80, hidden_size=32, intermediate_size=16, num_hidden_layers=3, num_attention_heads=4,
                    num_key_value_heads=2, num_experts=6, num_experts_per_tok=2, expert_layer_period=2,
                    expert_layer_offset=1, attn_layer_period=3, attn_layer_offset=2, mamba_dt_rank=4)),
}


# ---------------------------------------------------------------- the oracle in float64

class WideTorch:
    """torch, with float32 meaning float64."""
    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def widen(dtype):
    """Lets the Jamba code compute in float64 where it names float32; nothing changes for a float32 run."""
    narrow = torch.Tensor.float
    if dtype == torch.float64:
        modeling_jamba.torch = WideTorch()
        torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        modeling_jamba.torch = torch
        torch.Tensor.float = narrow


def load_base(name, dtype):
    return JambaForCausalLM.from_pretrained(f"{OUT}/{name}", dtype=torch.float32, use_mamba_kernels=False,
                                            attn_implementation="eager").to(dtype).eval()


def load_adapted(name, dtype):
    return PeftModel.from_pretrained(load_base(name, dtype), f"{OUT}/{name}/adapter", is_trainable=True).to(dtype)


def adapter_parameters(model):
    """The trained tensors by their key in adapter_model.safetensors."""
    return {key.replace(".default", ""): p for key, p in model.named_parameters() if p.requires_grad}


# ---------------------------------------------------------------- weights

def draw(shape, generator, gain=1.0):
    return gain * torch.randn(shape, generator=generator)


def fill_weights(model, generator):
    """Every tensor at a size where it matters: activations near 1, time steps from 0.02 to 2, all decays."""
    tied = model.config.tie_word_embeddings
    for name, p in model.named_parameters():
        if name.endswith("norm.weight"):
            value = 1 + draw(p.shape, generator, 0.3)
            if tied and "final" in name:
                value *= 0.1  # the head is the embedding: keeps the logits near 1
        elif name.endswith("A_log"):
            value = torch.log(0.2 + 4 * torch.rand(p.shape, generator=generator))
        elif name.endswith("mamba.D"):
            value = 1 + draw(p.shape, generator, 0.5)
        elif name.endswith("dt_proj.bias"):
            value = -4 + 5.5 * torch.rand(p.shape, generator=generator)
        elif name.endswith("bias"):
            value = draw(p.shape, generator, 0.4)
        elif "embed_tokens" in name:
            value = draw(p.shape, generator, 0.8 if tied else 1.5)
        else:
            fan_in = math.prod(p.shape[1:])
            gain = 2.5 if "router" in name else 0.4 if "lm_head" in name else 1.0
            value = draw(p.shape, generator, gain / math.sqrt(fan_in))
        p.data.copy_(value)


def fill_adapter(model, generator):
    """Deltas about a quarter of what they are added to, so that both matter."""
    for key, p in sorted(adapter_parameters(model).items()):
        rank = min(p.shape)
        if "lora_embedding_A" in key:
            gain = 1.0
        elif "lora_A" in key:
            gain = 0.6 / math.sqrt(p.shape[1])
        else:
            gain = 0.25 / math.sqrt(rank)
        p.data.copy_(draw(p.shape, generator, gain))


def write_base(name, spec, folder):
    config = JambaConfig(use_mamba_kernels=False, **spec["config"])
    model = JambaForCausalLM(config)
    fill_weights(model, torch.Generator().manual_seed(spec["seed"]))
    model = model.to(spec.get("dtype", torch.float32))
    model.save_pretrained(folder, max_shard_size=spec.get("max_shard_size", "1GB"))
    if spec.get("legacy"):
        write_legacy(config, folder)


def write_legacy(config, folder):
    """The first release's names: moe, pre_moe_layernorm, B_/C_layernorm, a dense layer as its expert 0."""
    tensors = {}
    for key, value in load_file(f"{folder}/model.safetensors").items():
        if ".feed_forward." in key and config.layers_num_experts[int(key.split(".")[2])] == 1:
            key = key.replace(".feed_forward.", ".feed_forward.experts.0.")
        for new, old in ((".feed_forward.", ".moe."), ("pre_ff_layernorm", "pre_moe_layernorm"),
                         ("b_layernorm", "B_layernorm"), ("c_layernorm", "C_layernorm")):
            key = key.replace(new, old)
        tensors[key] = value
    os.makedirs(f"{folder}/legacy")
    save_file(tensors, f"{folder}/legacy/model.safetensors", metadata={"format": "pt"})
    shutil.copy(f"{folder}/config.json", f"{folder}/legacy/config.json")


def write_adapter(name, spec, folder):
    lora = LoraConfig(**{**LORA, **spec.get("lora", {})})
    model = get_peft_model(load_base(name, torch.float32), lora)
    fill_adapter(model, torch.Generator().manual_seed(100 + spec["seed"]))
    config = model.peft_config["default"]
    config.target_modules = sorted(config.target_modules)  # a set has no fixed order
    model.save_pretrained(f"{folder}/adapter", save_embedding_layers=spec.get("base_layers", False))
    os.remove(f"{folder}/adapter/README.md")


# ---------------------------------------------------------------- documents

def make_documents(lengths, config, generator):
    """Random ids; some targets masked: the first third of long documents and a few others. One pad token as
    ordinary input, since the pad row of an adapted embedding is a case of its own."""
    ids, targets, doc_start = [], [], [0]
    pad = config.pad_token_id
    for length in lengths:
        doc = torch.randint(config.vocab_size, (length,), generator=generator)
        labels = doc.clone()
        if length > 8:
            labels[: length // 3] = IGNORE
            labels[torch.rand(length, generator=generator) < 0.1] = IGNORE
            doc[length // 2] = pad if pad is not None else 0
        ids.append(doc)
        targets.append(torch.cat([labels[1:], torch.tensor([IGNORE])]))
        doc_start.append(doc_start[-1] + length)
    return torch.cat(ids), torch.cat(targets), doc_start


def document(stream, d):
    ids, targets, doc_start = stream
    span = slice(doc_start[d], doc_start[d + 1])
    return ids[span], targets[span]


def count_targets(stream, docs):
    return sum(int((document(stream, d)[1] != IGNORE).sum()) for d in docs)


def stream_tensors(stream):
    ids, targets, doc_start = stream
    return dict(ids=ids.int(), targets=targets.int(), doc_start=torch.tensor(doc_start, dtype=torch.int32))


# ---------------------------------------------------------------- forward and loss

def forward(model, ids, config):
    """Logits (n, V) of one document, and the router logits of its MoE layers."""
    moe = config.num_experts > 1
    out = model(input_ids=ids[None], use_cache=False, output_router_logits=moe)
    return out.logits[0], out.router_logits if moe else ()


def cross_entropy_sum(logits, targets):
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def run_stream(model, stream, config, aux_coef=0.0):
    """(logits of all documents, loss, auxiliary term), with the graph for a backward."""
    n_doc = len(stream[2]) - 1
    logits, loss, aux = [], 0.0, 0.0
    for d in range(n_doc):
        ids, targets = document(stream, d)
        out, routers = forward(model, ids, config)
        logits.append(out)
        loss = loss + cross_entropy_sum(out, targets)
        if aux_coef:
            balance = modeling_jamba.load_balancing_loss_func(routers, config.num_experts, config.num_experts_per_tok)
            aux = aux + aux_coef * len(ids) / len(stream[0]) * balance
    return torch.cat(logits), loss / count_targets(stream, range(n_doc)), aux


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {key: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for key, p in adapter_parameters(model).items()}


def f64(value):
    return torch.tensor([float(value)], dtype=torch.float64)


def compute_golden(name, stream, dtype):
    """Everything golden.safetensors holds but the stream, in dtype."""
    golden = {}
    with widen(dtype):
        base = load_base(name, dtype)
        with torch.no_grad():
            golden["logits"], loss, _ = run_stream(base, stream, base.config)
        golden["loss"] = f64(loss)
        at = stream[1].clamp(min=0)[:, None]
        logprob = golden["logits"].log_softmax(-1).gather(1, at)[:, 0]
        golden["logprob"] = torch.where(stream[1] == IGNORE, 0.0, logprob)

        model = load_adapted(name, dtype)
        config = model.get_base_model().config
        logits, loss, _ = run_stream(model, stream, config)
        golden["lora_logits"], golden["lora_loss"] = logits.detach(), f64(loss)
        golden.update({f"grad.{key}": g for key, g in gradients(model, loss).items()})
        if config.num_experts > config.num_experts_per_tok:
            golden.update(moe_golden(model, stream, config))
    return golden


def moe_golden(model, stream, config):
    golden = {}
    ids, targets = document(stream, SHORT_DOC)
    loss = cross_entropy_sum(forward(model, ids, config)[0], targets) / int((targets != IGNORE).sum())
    golden["short_doc"], golden["short_loss"] = torch.tensor([SHORT_DOC], dtype=torch.int32), f64(loss)
    golden.update({f"short_grad.{key}": g for key, g in gradients(model, loss).items()})
    _, loss, aux = run_stream(model, stream, config, AUX_COEF)
    golden["aux_coef"], golden["aux_term"], golden["aux_loss"] = f64(AUX_COEF), f64(aux), f64(loss + aux)
    golden.update({f"aux_grad.{key}": g for key, g in gradients(model, loss + aux).items()})
    return golden


# ---------------------------------------------------------------- training

def draw_steps(stream, generator):
    """Four different documents a step; documents of one token have no targets and train nothing."""
    n_doc = len(stream[2]) - 1
    steps = torch.stack([torch.randperm(n_doc, generator=generator)[:4] for _ in range(STEPS)])
    steps[10::15] = torch.tensor(TRAIN_LENGTHS).argsort()[:4]  # so few tokens that an expert may be idle
    return steps


def train(name, rate, stream, step_docs, dtype):
    """The 50 steps. Returns the tensors of train.safetensors but the stream, and how often an adapter tensor
    had no gradient."""
    losses, norms, rates, n_none = [], [], [], 0
    with widen(dtype):
        model = load_adapted(name, dtype)
        config = model.get_base_model().config
        params = adapter_parameters(model)
        optimizer = torch.optim.AdamW(params.values(), lr=rate, weight_decay=WEIGHT_DECAY)
        scheduler = get_scheduler("cosine", optimizer, WARMUP, STEPS)
        for docs in step_docs.tolist():
            n_target, total = count_targets(stream, docs), 0.0
            optimizer.zero_grad(set_to_none=True)
            for micro_batch in (docs[:2], docs[2:]):
                pairs = [document(stream, d) for d in micro_batch]
                loss = sum(cross_entropy_sum(forward(model, ids, config)[0], targets) for ids, targets in pairs)
                (loss / n_target).backward()
                total += float(loss) / n_target
            for p in params.values():
                if p.grad is None:
                    n_none += 1
                    p.grad = torch.zeros_like(p)
            losses.append(total)
            norms.append(float(torch.nn.utils.clip_grad_norm_(params.values(), MAX_NORM)))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    result = {f"final.{key}": p.detach() for key, p in params.items()}
    for key, values in (("losses", losses), ("grad_norms", norms), ("rates", rates)):
        result[key] = torch.tensor(values, dtype=torch.float64)
    return result, n_none


# ---------------------------------------------------------------- writing

def save(tensors, path):
    """Big tensors as F32; the scalars and series stay F64."""
    keep = ("loss", "term", "coef", "losses", "grad_norms", "rates")
    out = {key: t.contiguous() if t.dtype == torch.int32 or key.endswith(keep) else t.float().contiguous()
           for key, t in tensors.items()}
    save_file(out, path, metadata={"format": "pt"})


def make_model(name):
    spec, folder = MODELS[name], f"{OUT}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    write_base(name, spec, folder)
    write_adapter(name, spec, folder)
    config = JambaConfig.from_pretrained(folder)
    generator = torch.Generator().manual_seed(200 + spec["seed"])
    stream = make_documents(LENGTHS, config, generator)
    golden = compute_golden(name, stream, torch.float64)
    save({**stream_tensors(stream), **golden}, f"{folder}/golden.safetensors")

    stream = make_documents(TRAIN_LENGTHS, config, generator)
    step_docs = draw_steps(stream, generator)
    trained, n_none = train(name, spec["rate"], stream, step_docs, torch.float64)
    save({**stream_tensors(stream), "step_docs": step_docs.int(), **trained}, f"{folder}/train.safetensors")
    report(name, golden, trained, n_none)


def report(name, golden, trained, n_none):
    losses, norms = trained["losses"], trained["grad_norms"]
    n_clip = int((norms > MAX_NORM).sum())
    size = sum(os.path.getsize(os.path.join(path, file)) for path, _, files in os.walk(f"{OUT}/{name}") for file in files)
    print(f"{name}: {size} bytes; loss {float(golden['loss']):.4f}, with adapter {float(golden['lora_loss']):.4f}; "
          f"training {losses[:5].mean():.4f} -> {losses[-5:].mean():.4f}, norms {norms.min():.3f} to {norms.max():.3f}, "
          f"{n_clip} of {STEPS} steps clipped, {n_none} gradients of idle experts")
    assert 3 <= n_clip <= STEPS - 3, "clipping must matter in some steps and not in others"
    assert losses[-5:].mean() < losses[:5].mean() - 0.2, "training must move the loss"
    assert n_none > 0 or not MODELS[name].get("idle"), "some expert must be idle in some step"


# ---------------------------------------------------------------- --check

def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))


def read_stream(tensors):
    return tensors["ids"].long(), tensors["targets"].long(), tensors["doc_start"].tolist()


def check_against(name, stored, computed, limits):
    """Largest relative error per family of tensors, each below its limit."""
    worst = {}
    for key, value in computed.items():
        family = key.split(".")[0]
        error = relative(value, stored[key]) if stored[key].abs().max() > 0 else float(value.abs().max())
        worst[family] = max(worst.get(family, (0.0, "")), (error, key))
    for family, (error, key) in sorted(worst.items()):
        print(f"  {name} {family}: {error:.1e} ({key})")
        assert error <= limits.get(family, limits[""]), f"{name}: {key} differs by {error}"


def router_gap(name, stream, dtype=torch.float64):
    """Smallest distance between the last chosen and the first refused router logit, base and adapted."""
    gap = math.inf
    with widen(dtype), torch.no_grad():
        for model in (load_base(name, dtype), load_adapted(name, dtype)):
            config = getattr(model, "get_base_model", lambda: model)().config
            k = config.num_experts_per_tok
            if config.num_experts <= k:
                return gap
            for d in range(len(stream[2]) - 1):
                for routers in forward(model, document(stream, d)[0], config)[1]:
                    top = routers.sort(-1, descending=True).values
                    gap = min(gap, float((top[:, k - 1] - top[:, k]).min()))
    return gap


def check_perturbation(name, stream):
    """A change of 1 % in any one tensor, frozen or trained, must show in lora_logits."""
    generator = torch.Generator().manual_seed(7)
    least = (math.inf, "")
    with widen(torch.float64), torch.no_grad():
        model = load_adapted(name, torch.float64)
        config = model.get_base_model().config
        before = run_stream(model, stream, config)[0]
        count = 0
        for key, p in model.named_parameters():
            saved = p.data.clone()
            p.data += 0.01 * saved.std(unbiased=False).clamp(min=0.1 * float(saved.abs().max())) * torch.randn(
                p.shape, generator=generator, dtype=p.dtype)
            least = min(least, (relative(run_stream(model, stream, config)[0], before), key))
            p.data = saved
            count += 1
    print(f"  {name} perturbed {count} tensors by 1 %: lora_logits move by {least[0]:.1e} or more (least: {least[1]})")
    assert least[0] > 1e-5, f"{name}: {least[1]} is dead"


def check_live_gradients(name, golden):
    """No adapter tensor without a gradient over the whole stream; idle experts in the short document."""
    dead = [key for key, g in golden.items() if key.startswith(("grad.", "aux_grad.")) and g.norm() < 1e-5]
    assert not dead, f"{name}: {dead}"
    idle = [key for key, g in golden.items() if key.startswith("short_grad.") and not g.any()]
    assert idle or "short_doc" not in golden, f"{name}: no idle expert in the short document"
    if "aux_term" in golden:
        share = min(relative(golden["aux_" + key], g) for key, g in golden.items()
                    if key.startswith("grad.") and ".router." in key)
        print(f"  {name} auxiliary term moves the routers' gradients by {share:.1e} or more; {len(idle)} idle tensors")


def check_model(name):
    golden = load_file(f"{OUT}/{name}/golden.safetensors")
    stream = read_stream(golden)
    rounding = {"": 1e-7, "loss": 1e-13, "lora_loss": 1e-13, "aux_loss": 1e-13, "short_loss": 1e-13}
    check_against(name, golden, compute_golden(name, stream, torch.float64), rounding)
    print(f"  {name} the same in float32:")
    check_against(name, golden, compute_golden(name, stream, torch.float32), {"": LIMIT_F32})
    check_live_gradients(name, golden)
    print(f"  {name} smallest router gap: {router_gap(name, stream):.1e}")
    assert router_gap(name, stream) > MIN_ROUTER_GAP
    check_perturbation(name, stream)

    golden = load_file(f"{OUT}/{name}/train.safetensors")
    start = load_file(f"{OUT}/{name}/adapter/adapter_model.safetensors")
    run, _ = train(name, MODELS[name]["rate"], read_stream(golden), golden["step_docs"], torch.float32)
    loss_error = float(((run["losses"] - golden["losses"]) / golden["losses"]).abs().max())
    finals = [key for key in golden if key.startswith("final.")]
    change = math.sqrt(sum(float((golden[k] - start[k[6:]]).double().norm() ** 2) for k in finals))
    apart = math.sqrt(sum(float((run[k] - golden[k]).double().norm() ** 2) for k in finals))
    print(f"  {name} trained in float32: losses differ by {loss_error:.1e}, change of the adapter by {apart / change:.1e}")
    assert loss_error < LIMIT_F32 and apart < 5e-4 * change


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in args.names or MODELS:
        check_model(name) if args.check else make_model(name)


if __name__ == "__main__":
    main()
