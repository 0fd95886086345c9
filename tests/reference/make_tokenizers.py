#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizers/<name>/{tokenizer.json, tokenizer_config.json, cases.json}.

Small BPE tokenizers of the kinds that Jamba and Llama checkpoints have, and what the `tokenizers` package
makes of a few hundred texts with each: ids, the byte offsets where tokens begin, and the text that comes
back. The texts are made here, from a fixed seed.

    pip install tokenizers==0.22.2
    python tests/reference/make_tokenizers.py [output folder]
"""

import json
import pathlib
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPACE = "\u2581"

TRAINING_TEXT = """
The river keeps no diary, but it remembers every stone. In the morning the miller opens the sluice and the
water begins its old work, turning the wheel that turns the stone that turns the grain into flour. Nothing
in the valley is in a hurry. The baker waits for the miller, the children wait for the baker, and the dogs
wait for the children. "Patience," says the miller, "is only hunger with good manners."

There was a year when the water did not come. The wheel stood still and the miller learned to read. He read
the almanac, the hymn book, and a long treatise on the motion of the planets; when the rain returned he
was almost sorry. "I had reached chapter twenty-three," he said, "and nobody had been eaten yet." Then he
opened the sluice again, and the sentence he had been reading stayed unfinished for the rest of his life.

def total(values):
    result = 0
    for value in values:
        result += value  # in the order they came
    return result

In 1984 there were 365 days, in 1988 there were 366; 3.14159 is not 22/7, and 1,000,000 is a large number.
Le fleuve ne tient pas de journal, mais il se souvient de chaque pierre. Der Fluss führt kein Tagebuch,
aber er erinnert sich an jeden Stein. El río no lleva diario, pero recuerda cada piedra. Река не ведёт
дневника, но помнит каждый камень. Ο ποταμός δεν κρατά ημερολόγιο, αλλά θυμάται κάθε πέτρα.
""" * 2

SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unk|>", "<|bom|>", "<|eom|>", "<|user|>"]

# Texts that have broken tokenizers, ours or others'.
TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t", "\r\n", "\0", "a\0b", "\x01\x02\x1f\x7f", "\u0085", "\ufeffBOM",
    "Hello", " Hello", "Hello ", "  Hello  world  ", "Hello\n world\n\n\tend\r\n", "hello hello hello",
    SPACE, SPACE + SPACE, "a" + SPACE + "b", SPACE + " " + SPACE, " " + SPACE,
    "The river keeps no diary, but it remembers every stone.",
    "def f(x):\n    return x + 1\n\n\n\tif x:\n\t\tpass\n",
    "3.14159 1,000,000 22/7 0x1F 1e-5 007", "\u0663\u0664\u0665 \u00bd \u2167 \u00b2 \u4e09 \U0001d7d8",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd ok \U0001f1e9\U0001f1ea",
    "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587", "\u4e2d\u6587 English \u4e2d\u6587", "\ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0634\u064e\u0643\u0652\u0631\u064b\u0627",
    "e\u0301 \u00e9 n\u0303 \u1e69\u0323\u0307 Z\u0335\u0321\u0322\u0324o", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "a\u200bb\u200cc\u200dd\u2060e", "a\u00a0b\u3000c\u2003d\u2028e\u2029f\u1680g\u180eh",
    "\uffff\ufffe\ufffd\U0010ffff\U00010000\ud7ff\ue000", "naïve café coöperate façade",
    "<0x0A>", "<0x41><0xE2>", "<0xZZ>", "<|startoftext|>", "a<|endoftext|>b", "<|bom|><|user|> Hi<|eom|>",
    "<|unk|><|pad|>", "<|startoftext", "<|<|bom|>|>", " <|eom|> ", "x <|user|>\n", "<|user|><|user|>",
    "<tool_calls>[1]</tool_calls>", " <tool_calls>", "<tool_calls", "mask", " mask ", "a mask b", "amask maskb",
    "  keep  keepkeep ", "Keep", "the keeper", "mask.mask,mask", "\tmask\u3000", "keep\n\nkeep",
    "a" * 300, "ab" * 200, "theriver" * 60, "\u6f22" * 50, "\U0001f600" * 20, "=" * 77, "''quoted'' ''twice", "aaaa bbbb " * 20,
    "1234567890" * 8, "?" * 33, "e\u0301" * 30,
] + ["x" + " " * n + "y" for n in range(2, 41)] + ["\n" * n + "z" for n in (2, 5, 17)]

POOL = [
    " ", " ", "  ", "    ", "\n", "\n\n", "\t", "\0", "\x0b", SPACE, "the", "The", " river", " stone", "ing", "er",
    "mill", "a", "b", "z", "Q", ".", ",", "!", "-", "_", "'", "\u2019", "1", "42", "\u0663", "\u00e9", "e\u0301",
    "\u00fc", "\u0440", "\u03b1", "\u6f22", "\u3042", "\u0645", "\U0001f600", "\u200d", "\u00a0", "\u3000",
    "\ufeff", "<0x0A>", "<", ">", "mask", "keep", "<tool_calls>",
] + SPECIAL


def fuzz_texts(rng, n):
    ranges = [0x7F, 0x7FF, 0xFFFF, 0x10FFFF]
    for i in range(n):
        if i % 3 == 0:
            code = [rng.randint(0, rng.choice(ranges)) for _ in range(rng.randint(1, 16))]
            yield "".join(chr(c) for c in code if not 0xD800 <= c < 0xE000)
        else:
            yield "".join(rng.choice(POOL) for _ in range(rng.randint(1, 14)))


def train(vocab_size, split_digits):
    """Pieces and merges learnt from the text, words beginning with the visible space."""
    tok = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never")]
    if split_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False)
    tok.train_from_iterator([line for line in TRAINING_TEXT.splitlines()], trainer)
    model = json.loads(tok.to_str())["model"]
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    return sorted(model["vocab"], key=model["vocab"].get), merges


def space_runs(longest):
    """Runs of spaces as SentencePiece's converters write them: every way to make each run."""
    pieces = [SPACE * n for n in range(2, longest + 1)]
    merges = [[SPACE * a, SPACE * (n - a)] for n in range(2, longest + 1) for a in range(1, n)]
    return pieces, merges


def model(pieces, merges, **settings):
    values = {"type": "BPE", "dropout": None, "unk_token": "<|unk|>", "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    values.update(settings)
    unique = list(dict.fromkeys(pieces))
    values["vocab"] = {piece: i for i, piece in enumerate(unique)}
    values["merges"] = merges
    return values


def added(vocab, content, special=True, normalized=False, **flags):
    token = {"id": vocab[content], "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": normalized, "special": special}
    token.update(flags)
    return token


def template(front, back, vocab):
    token = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    single = [token(f) for f in front] + [{"Sequence": {"id": "A", "type_id": 0}}] + [token(b) for b in back]
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in front + back}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def tokenizer(model, added_tokens, normalizer, pre_tokenizer, post_processor, decoder):
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": sorted(added_tokens, key=lambda t: t["id"]), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def sequence(key, *nodes):
    return {"type": "Sequence", key: list(nodes)}


BYTES = ["<0x%02X>" % b for b in range(256)]


def make_jamba():
    """Spaces become visible, nothing is prefixed; one word per document; merges as pairs."""
    pieces, merges = train(560, True)
    run_pieces, run_merges = space_runs(32)
    m = model(SPECIAL + ["<tool_calls>", "</tool_calls>", "mask", "keep", ","] + BYTES + pieces + run_pieces,
              merges + run_merges)
    v = m["vocab"]
    tokens = [added(v, s) for s in SPECIAL]
    tokens += [added(v, s, special=False) for s in ("<tool_calls>", "</tool_calls>", ",")]
    return tokenizer(m, tokens, replace(" ", SPACE), None, template(["<|startoftext|>"], [], v),
                     sequence("decoders", replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}))


def make_llama():
    """A prefixed space, taken off again by a Strip; merges as strings; tokens that take in white space."""
    pieces, merges = train(480, False)
    pieces.append("<0x0A><0x0A>")  # a piece made of byte tokens, as odd as it looks
    merges.append(["<0x0A>", "<0x0A>"])
    m = model(SPECIAL + BYTES + pieces, [" ".join(pair) for pair in merges])
    v = m["vocab"]
    n = len(v)
    tokens = [added(v, s) for s in SPECIAL[:4]] + [added(v, s, normalized=True) for s in SPECIAL[4:5]]
    tokens += [added(v, SPECIAL[5], rstrip=True), added(v, SPECIAL[6], lstrip=True)]
    extra = [("<tool_calls>", {}), ("</tool_calls>", {}), ("mask", {"lstrip": True, "normalized": True}),
             ("keep", {"rstrip": True, "lstrip": True, "single_word": True})]
    for i, (content, flags) in enumerate(extra):
        tokens.append(added({content: n + i}, content, special=False, **flags))
    return tokenizer(m, tokens, sequence("normalizers", {"type": "Prepend", "prepend": SPACE}, replace(" ", SPACE)),
                     None, template(["<|startoftext|>"], ["<|endoftext|>"], v),
                     sequence("decoders", replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                              {"type": "Strip", "content": " ", "start": 1, "stop": 0}))


def make_metaspace():
    """Words by Metaspace and digits; unknown characters are fused, there are no bytes to fall back on."""
    pieces, merges = train(420, True)
    run_pieces, run_merges = space_runs(4)  # never made: a word begins at each space
    m = model(SPECIAL + pieces + run_pieces, merges + run_merges, byte_fallback=False)
    v = m["vocab"]
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": True}
    tokens = [added(v, s) for s in SPECIAL]
    tokens += [added({"mask": len(v)}, "mask", special=False, single_word=True)]
    tokens += [added({"keep": len(v) + 1}, "keep", special=False, normalized=True)]
    return tokenizer(m, tokens, None,
                     sequence("pretokenizers", metaspace, {"type": "Digits", "individual_digits": True}),
                     sequence("processors", template(["<|bom|>"], [], v), template(["<|startoftext|>"], [], v)),
                     metaspace)


def make_split():
    """Words by regular expressions and strings; whole pieces before merges; unknown ones apart; no decoder."""
    pieces, merges = train(420, False)
    m = model(SPECIAL + pieces + [SPACE + "keepkeep", "12"], merges, byte_fallback=False, fuse_unk=False,
              ignore_merges=True)
    v = m["vocab"]
    words = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
    return tokenizer(m, [added(v, s) for s in SPECIAL], replace("''", '"'),
                     sequence("pretokenizers",
                              {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False},
                              {"type": "Split", "pattern": {"String": "_"}, "behavior": "MergedWithPrevious",
                               "invert": False},
                              {"type": "Split", "pattern": {"Regex": "\\w+(?i:ing|ER)"}, "behavior": "Contiguous",
                               "invert": False},
                              {"type": "Split", "pattern": {"String": "z"}, "behavior": "Removed", "invert": False},
                              {"type": "Digits", "individual_digits": False},
                              {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}),
                     None, None)


CONFIGS = {
    "jamba": {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": True},
    "llama": {"bos_token": {"content": "<|startoftext|>", "lstrip": False}, "eos_token": {"content": "<|endoftext|>"}},
    "metaspace": {"bos_token": None, "eos_token": "<|eom|>"},
    "split": {"model_max_length": 512},
}


def byte_offsets(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [at[begin] for begin, _ in offsets]


def write_cases(tok, texts, rng):
    """Texts: as a user's (special tokens stay text), and as a template's. Decodes: those ids, and any."""
    added_ids = tok.encode("a", add_special_tokens=True).ids
    cases, decodes = [], []
    for text in texts:
        tok.encode_special_tokens = True
        user = tok.encode(text, add_special_tokens=False)
        tok.encode_special_tokens = False
        other = tok.encode(text, add_special_tokens=False)
        case = {"text": text, "ids": user.ids, "begin": byte_offsets(text, user.offsets)}
        if other.ids != user.ids:
            case["special_ids"] = other.ids
            case["special_begin"] = byte_offsets(text, other.offsets)
        case["decoded"] = tok.decode(other.ids, skip_special_tokens=False)
        if any(i < len(SPECIAL) for i in other.ids):
            case["skipped"] = tok.decode(other.ids, skip_special_tokens=True)
        cases.append(case)
    size = tok.get_vocab_size()
    byte_ids = [tok.token_to_id(b) for b in BYTES]
    for _ in range(120):
        ids = [rng.randrange(size + 2) for _ in range(rng.randint(0, 6))]
        if byte_ids[0] is not None:
            run = rng.choice(["\u00e9", "\u6f22\u5b57", "\U0001f600", "ok\n"]).encode()
            run = run[rng.randint(0, 1):] + bytes(rng.randrange(256) for _ in range(rng.randint(0, 1)))
            ids[len(ids) // 2:len(ids) // 2] = [byte_ids[b] for b in run]
        decodes.append({"ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False),
                        "skipped": tok.decode(ids, skip_special_tokens=True)})
    a = tok.encode("a", add_special_tokens=False).ids
    at = next(i for i in range(len(added_ids)) if added_ids[i:i + len(a)] == a)
    return {"front": added_ids[:at], "back": added_ids[at + len(a):], "vocab_size": size, "cases": cases,
            "decodes": decodes}


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests/fixtures/tokenizers"
    for name, make in (("jamba", make_jamba), ("llama", make_llama), ("metaspace", make_metaspace),
                       ("split", make_split)):
        rng = random.Random(name)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(make(), ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(CONFIGS[name], indent=2) + "\n")
        tok = Tokenizer.from_str(text)
        cases = write_cases(tok, TEXTS + list(fuzz_texts(rng, 200)), rng)
        lines = [json.dumps({k: v for k, v in cases.items() if not isinstance(v, list) or k in ("front", "back")})[:-1]]
        for key in ("cases", "decodes"):
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in cases[key])
            lines.append(', "%s": [\n%s\n]' % (key, rows))
        (folder / "cases.json").write_text("".join(lines) + "}\n")
        sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir())}
        print(name, len(cases["cases"]), "texts", len(cases["decodes"]), "decodes", sizes)


if __name__ == "__main__":
    main()
