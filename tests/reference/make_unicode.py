#!/usr/bin/env python3
"""Writes datasets/jinja_unicode_tables.h: what Python's str methods know about characters, as tables.

    python3 tests/reference/make_unicode.py > datasets/jinja_unicode_tables.h

Taken from the interpreter that runs it (str.isalpha and its sisters, str.upper, ...), since its answers are what chat
templates are written against.
"""

import sys
import unicodedata

LAST = 0x110000


def ignorable(c):
    """Case_Ignorable, which Python keeps to itself, as it shows in where lower() puts a final sigma."""
    return ("aΣ" + c + "a").lower()[1] == "σ" and ("aΣ" + c + " ").lower()[1] == "ς"


def flags(code):
    c = chr(code)
    category = unicodedata.category(c)
    tests = [
        c.isalpha(),
        c.isdecimal(),
        c.isdigit(),
        c.isnumeric(),
        c.isprintable(),
        c.isupper(),
        c.islower(),
        category == "Lt",
        ignorable(c),
        c.isspace(),
    ]
    return sum(1 << i for i, t in enumerate(tests) if t)


def print_flags():
    rows, last = [], None
    for code in range(LAST):
        f = flags(code)
        if f != last:
            rows.append(code << 10 | f)
            last = f
    print("/* (first code point << 10 | UNICODE_* bits), up to the next row's first. */")
    print("static const uint32_t unicode_flags[] = {")
    for i in range(0, len(rows), 8):
        print("    " + " ".join(f"0x{r:08x}," for r in rows[i : i + 8]))
    print("};\n")


def print_map(name, method):
    """Ranges of single characters that move by one distance, each or every second one; then the others in full."""
    ranges, special = [], []
    for code in range(LAST):
        if 0xD800 <= code <= 0xDFFF:
            continue
        mapped = method(chr(code))
        if len(mapped) != 1:
            special.append((code, mapped))
        elif ord(mapped) != code:
            delta = ord(mapped) - code
            last = ranges[-1] if ranges else None
            if last and last[2] == delta and code - last[1] == (last[3] or code - last[1]) and code - last[1] <= 2:
                last[3] = code - last[1]
                last[1] = code
            else:
                ranges.append([code, code, delta, 0])
    print(f"static const struct case_range unicode_{name}_ranges[] = {{")
    row = ""
    for first, last, delta, step in ranges:
        item = f"{{0x{first:x}, 0x{last:x}, {delta}, {step or 1}}},"
        if len(row) + len(item) > 90:
            print("    " + row.rstrip())
            row = ""
        row += item + " "
    print("    " + row.rstrip())
    print("};")
    print(f"static const struct case_special unicode_{name}_special[] = {{")
    row = ""
    for code, mapped in special:
        item = f"{{0x{code:x}, {{{', '.join(hex(ord(c)) for c in mapped)}}}}},"
        if len(row) + len(item) > 90:
            print("    " + row.rstrip())
            row = ""
        row += item + " "
    print("    " + row.rstrip())
    print("};\n")


def main():
    print("/* What Python's str methods know about characters. Generated: tests/reference/make_unicode.py,")
    print(f" * Unicode {unicodedata.unidata_version}. For jinja_unicode.c alone. */")
    print("#ifndef DATASETS_JINJA_UNICODE_TABLES_H")
    print("#define DATASETS_JINJA_UNICODE_TABLES_H\n")
    print("#include <stdint.h>\n")
    print("/* clang-format off */")
    print("/* Every step-th code point of first..last moves by delta. */")
    print("struct case_range {\n    uint32_t first, last;\n    int32_t delta;\n    uint32_t step;\n};")
    print("/* A character that becomes two or three. */")
    print("struct case_special {\n    uint32_t code;\n    uint32_t mapped[3];\n};\n")
    print_flags()
    print_map("upper", str.upper)
    print_map("lower", lambda c: c.lower())
    print_map("title", str.title)
    print("/* clang-format on */")
    print("\n#endif")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
