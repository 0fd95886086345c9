#!/usr/bin/env python3
"""The documents of a benchmark: random token ids, one {"input_ids": [...]} a line.

    make_data.py FILE --documents N --length N --vocab N [--seed N]

The ids depend on the arguments alone, not on the version of Python. 0, 1 and 2 (padding, BOS, EOS) do not occur.
"""

import argparse
import json
import pathlib
import random


def documents(count, length, vocab, seed):
    ids = random.Random(seed)
    for _ in range(count):
        yield [3 + int(ids.random() * (vocab - 3)) for _ in range(length)]


def write(path, count, length, vocab, seed=1):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for ids in documents(count, length, vocab, seed):
            file.write(json.dumps({"input_ids": ids}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    write(args.file, args.documents, args.length, args.vocab, args.seed)


if __name__ == "__main__":
    main()
