#!/usr/bin/env python3
"""Train the quick start's base model, recipes/quickstart/base: a real Jamba of 3 million parameters.

    train_quickstart_base.py OUT_DIR [--minutes 90]

Text: the short glosses and example sentences of WordNet 3.0 (Debian package dict-wn; WordNet licence,
permissive, notice in OUT_DIR/README.md) and sentences of The Devil's Dictionary and the Jargon File
(dict-devil, dict-jargon; public domain). Documents of at most 64 tokens, one epoch after another until
the time is up; the rate follows a cosine over the time.

Needs the Debian packages above and, from PyPI, torch, transformers 4.57.6, tokenizers, safetensors, ninja.
The model is transformers' own; only the Mamba mixer's loop over time is replaced by a compiled scan
(quickstart_scan.cpp). Weights are written in bfloat16, in two shards, with a tokenizer.json of 2,048
pieces that has Jamba's special tokens and byte fallback.
"""
import argparse
import gzip
import json
import math
import os
import random
import re
import time

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.cpp_extension import load
from transformers import JambaConfig, JambaForCausalLM
from transformers.models.jamba import modeling_jamba

DICTD = "/usr/share/dictd"
VOCAB = 2048
MAX_TOKENS = 64
BATCH = 160
HELD_OUT = 1000
SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unk|>", "<|eom|>", "<|bom|>", "<|system|>",
           "<|user|>", "<|assistant|>", "<|tool|>"]
BOS, EOS = 1, 2

scan_ext = load("quickstart_scan", [os.path.join(os.path.dirname(os.path.abspath(__file__)), "quickstart_scan.cpp")],
                extra_cflags=["-O3", "-march=native", "-fopenmp", "-ffast-math"], extra_ldflags=["-fopenmp"])


# ---- text -----------------------------------------------------------------------------------------------

def dictionary(name):
    with gzip.open(f"{DICTD}/{name}.dict.dz") as f:
        return f.read().decode("utf-8", "ignore")


def wordnet_documents():
    """Glosses and quoted examples, one a document: "1: a gloss; "an example" [syn: {word}]"."""
    text = re.sub(r"\n\s+", " ", dictionary("wn"))
    text = re.sub(r"-\s(?=[a-z])", "-", text)
    out = set()
    for line in text.split("\n"):
        for part in re.split(r"\s(?=(?:n|v|adj|adv)?\s?\d+:\s)", line):
            m = re.match(r"(?:n|v|adj|adv)?\s?\d+:\s(.*)", part)
            if not m:
                continue
            s = re.sub(r"\[(?:syn|ant|also):.*?\]", "", m.group(1))
            s = re.sub(r"\s+", " ", s)
            out.update(q.strip() for q in re.findall(r'"([^"]{12,140})"', s) if "{" not in q)
            gloss = re.split(r'[;:]\s*"', s)[0].strip().rstrip(";").strip()
            if 20 <= len(gloss) <= 160 and "{" not in gloss and '"' not in gloss:
                out.add(gloss)
    return out


def prose_sentences(name):
    out = set()
    for paragraph in re.split(r"\n\s*\n", dictionary(name)):
        paragraph = re.sub(r"[{}]", "", re.sub(r"\s+", " ", paragraph).strip())
        for s in re.split(r'(?<=[.!?])\s+(?=[A-Z"])', paragraph):
            if 25 <= len(s) <= 200 and s[0].isalpha() and s[-1] in ".!?":
                out.add(s)
    return out


# ---- tokenizer ------------------------------------------------------------------------------------------

def train_tokenizer(docs):
    """BPE with byte fallback and no dummy prefix, space written as U+2581, digits and the comma alone."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(",", "isolated")])
    t.train_from_iterator(docs, trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIAL) - 256, show_progress=False))
    learned = json.loads(t.to_str())["model"]
    vocab = {s: i for i, s in enumerate(SPECIAL)}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    for piece, _ in sorted(learned["vocab"].items(), key=lambda kv: kv[1]):
        vocab.setdefault(piece, len(vocab))
    t = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in learned["merges"]], byte_fallback=True,
                             fuse_unk=True, unk_token="<|unk|>"))
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A", pair="<|startoftext|> $A <|startoftext|>:1 $B:1",
        special_tokens=[("<|startoftext|>", BOS)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    return t


# ---- model ----------------------------------------------------------------------------------------------

class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *args):
        args = [a.contiguous() for a in args]
        y, states = scan_ext.forward(*args)
        ctx.save_for_backward(*args, states)
        return y

    @staticmethod
    def backward(ctx, dy):
        return tuple(scan_ext.backward(*ctx.saved_tensors, dy.contiguous()))


def mamba_mixer(self, hidden_states, cache_params=None, attention_mask=None, **kwargs):
    x, z = self.in_proj(hidden_states).chunk(2, -1)
    x = F.pad(x.transpose(1, 2), (self.conv_kernel_size - 1, 0))
    x = F.silu(F.conv1d(x, self.conv1d.weight, self.conv1d.bias, groups=x.shape[1]).transpose(1, 2))
    dt, b, c = torch.split(self.x_proj(x), [self.time_step_rank, self.ssm_state_size, self.ssm_state_size], -1)
    dt = F.softplus(self.dt_proj(self.dt_layernorm(dt)))
    y = Scan.apply(x, dt, -torch.exp(self.A_log), self.b_layernorm(b), self.c_layernorm(c), self.D)
    return self.out_proj(y * F.silu(z))


def new_model():
    config = JambaConfig(
        vocab_size=VOCAB, hidden_size=128, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, attn_layer_period=8, attn_layer_offset=4,
        expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8, mamba_d_conv=4, mamba_expand=2,
        tie_word_embeddings=True, use_mamba_kernels=False, max_position_embeddings=262144)
    model = JambaForCausalLM(config).float()
    with torch.no_grad():  # Mamba's initial step sizes: log-uniform in 0.001 .. 0.1
        for name, p in model.named_parameters():
            if name.endswith("dt_proj.bias"):
                dt = torch.exp(torch.rand(p.shape) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
                p.copy_(dt + torch.log(-torch.expm1(-dt)))
    return model


def loss_of(model, docs):
    n = max(map(len, docs))
    ids, labels = torch.zeros(len(docs), n, dtype=torch.long), torch.full((len(docs), n), -100)
    for i, d in enumerate(docs):
        ids[i, :len(d)] = labels[i, :len(d)] = torch.tensor(d)
    hidden = model.model(input_ids=ids, use_cache=False)[0][:, :-1]
    target = labels[:, 1:]
    keep = target != -100
    return F.cross_entropy(model.lm_head(hidden[keep]), target[keep]), int(keep.sum())


@torch.no_grad()
def held_out_loss(model, docs):
    total = n = 0
    for i in range(0, len(docs), 100):
        loss, k = loss_of(model, docs[i:i + 100])
        total, n = total + float(loss) * k, n + k
    return total / n


@torch.no_grad()
def sample(model, tokenizer, count, temperature=0.7):
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.tensor([[BOS]])
        while ids.shape[1] < 48 and int(ids[0, -1]) != EOS:
            p = torch.softmax(model(input_ids=ids, use_cache=False).logits[0, -1] / temperature, -1)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=g)[None]], 1)
        print(" *", tokenizer.decode(ids[0].tolist()), flush=True)


def train(model, docs, minutes, out, save):
    rng = random.Random(1)
    opt = torch.optim.AdamW(model.parameters(), lr=1, betas=(0.9, 0.95), weight_decay=0.05)
    start, step, seen, batches = time.time(), 0, 0, []
    while (spent := (time.time() - start) / (60 * minutes)) < 1:
        if not batches:  # documents of like length together: less padding
            order = sorted(docs, key=lambda d: len(d) + rng.random() * 4)
            batches = [order[i:i + BATCH] for i in range(0, len(order), BATCH)]
            rng.shuffle(batches)
        rate = 4e-3 * min(1, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * spent)))
        for group in opt.param_groups:
            group["lr"] = rate
        loss, n = loss_of(model, batches.pop())
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step, seen = step + 1, seen + n
        if step % 200 == 0:
            print(f"{step} loss {float(loss):.3f} {seen / (time.time() - start):.0f} tokens/s, {seen / 1e6:.2f} M seen",
                  flush=True)
        if step % 2000 == 0:
            save(model, out)


def save(model, out):
    copy = JambaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.config.use_mamba_kernels = True
    copy.to(torch.bfloat16).save_pretrained(out, max_shard_size="4MB")


def save_tokenizer(t, out):
    os.makedirs(out, exist_ok=True)
    t.save(f"{out}/tokenizer.json")
    with open(f"{out}/tokenizer_config.json", "w") as f:
        json.dump({"add_bos_token": True, "add_eos_token": False, "bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS],
                   "pad_token": SPECIAL[0], "unk_token": SPECIAL[3], "clean_up_tokenization_spaces": False,
                   "legacy": True, "model_max_length": 262144, "tokenizer_class": "PreTrainedTokenizerFast"}, f, indent=2)
        f.write("\n")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out")
    args.add_argument("--minutes", type=float, default=90)
    args = args.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    modeling_jamba.JambaMambaMixer.forward = mamba_mixer
    docs = sorted(wordnet_documents() | prose_sentences("devil") | prose_sentences("jargon"))
    random.Random(0).shuffle(docs)
    tokenizer = train_tokenizer(docs)
    save_tokenizer(tokenizer, args.out)
    ids = [e.ids + [EOS] for e in tokenizer.encode_batch(docs)]
    ids = [d for d in ids if len(d) <= MAX_TOKENS]
    held, ids = ids[:HELD_OUT], ids[HELD_OUT:]
    model = new_model()
    print(len(ids), "documents,", sum(map(len, ids)), "tokens,", sum(p.numel() for p in model.parameters()), "parameters",
          flush=True)
    train(model, ids, args.minutes, args.out, save)
    model.eval()
    save(model, args.out)
    print(f"held-out loss {held_out_loss(model, held):.3f} a token", flush=True)
    sample(model, tokenizer, 14)


if __name__ == "__main__":
    main()
