#!/usr/bin/env python3
"""Looks at `jambatune report`'s pages in a browser.

    python3 tests/reference/check_report.py build/jambatune [--chromium /usr/bin/chromium] [-o tests/reference/REPORT.md]

Runs are made up (of every kind that the unit tests know) and one is trained (the quick start's model, six steps). Their pages
are opened in headless Chromium, light and dark, 375 and 1280 px wide, everything unfolded. Of each:

- no message on the console, no failed or foreign request;
- the page does not scroll sideways, and what is wider scrolls in its own box;
- of a chart's labels no two touch one another and none leaves its card;
- every text has a contrast of 4.5 to 1 with what is behind it, every curve of 3 to 1;
- the six colours are apart (CIE76) with normal sight and each colour blindness (Machado et al. 2009, severity 1);
- under the pointer stand the step and the values that the log has, within the window;
- texts of the runs are no code, and code put into the page does not run.

Needs playwright and a Chromium (Debian: chromium).
"""

import argparse
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SETTINGS = [(scheme, width) for scheme in ("light", "dark") for width in (375, 1280)]
TEXT_CONTRAST, CURVE_CONTRAST, APART = 4.5, 3.0, 20.0
ATTACK = "</pre></script><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"

# ---- runs ----


def step_line(step, n, rng, lr, nan=False, spike=False):
    done = step / n
    seconds = 8192 / (12400 + rng.gauss(0, 400))
    line = {
        "step": step, "epoch": 3 * done, "loss": (1 + 3 * math.exp(-8 * done) + rng.gauss(0, 0.1)) * (6 if spike else 1),
        "aux_loss": 0.01 + 0.001 * rng.random(), "learning_rate": lr * (1 - done),
        "grad_norm": (0.8 + 2 * math.exp(-20 * done) + abs(rng.gauss(0, 0.2))) * (90 if spike else 1), "tokens": 8192,
        "trained_tokens": 3100, "tokens_per_second": 8192 / seconds, "seconds": seconds, "memory_bytes": 24500000000,
        "blocks": {"data": 0.001, "norm": 0.02 * seconds, "mamba": 0.41 * seconds, "attention": 0.11 * seconds,
                   "moe": 0.29 * seconds, "mlp": 0.06 * seconds, "head": 0.07 * seconds, "optimizer": 0.02 * seconds,
                   "other": 0.02 * seconds},
    }
    if nan:
        line.update(loss="NaN", grad_norm="Infinity", applied=False, documents="train.jsonl:4")
    return line


def make_run(folder, n, lr=3e-4, evals=6, every_nan=0, spikes=(), stop=0, finished=True, text="The sea", total=None, offset=0.0):
    rng = random.Random(n + int(1e6 * lr))
    lines = [{"step": 0, "event": "started", "text": text, "time": "2026-11-22T17:00:00Z"}]
    for step in range(1, n + 1):
        lines.append(step_line(step, total or n, rng, lr, every_nan and step % every_nan == 0, step in spikes))
        if evals and step % max(1, n // evals) == 0:
            lines.append({"step": step, "epoch": 1, "eval_loss": 1.2 + offset + 2 * math.exp(-5 * step / n), "eval_tokens": 9,
                          "seconds": 1})
            lines.append({"step": step, "sample": {"prompt": text, "text": " goes on " * 9, "tokens": 9, "end": "length"}})
        if step == stop:
            lines.append({"step": step, "event": "stopped", "text": "by SIGTERM", "time": "2026-11-22T18:00:00Z"})
            lines.append({"step": step, "event": "resumed", "text": text, "time": "2026-11-22T19:00:00Z"})
    if finished:
        lines.append({"step": n, "event": "finished", "text": "", "time": "2026-11-22T20:00:00Z"})
    facts = {
        "format": 1, "base_model": "/models/" + text, "n_step": total or n, "started": "2026-11-22T17:00:00Z", "host": "node-17",
        "pid": 41422, "device": "NVIDIA H100 80GB HBM3", "plan_bytes": 24400000000, "gradient_checkpointing": "scan",
        "adapted": [{"module": "feed_forward.experts.*.down_proj" + str(i), "modules": 448, "rank": 16, "parameters": 41371648}
                    for i in range(4)],
        "adapter_parameters": 4 * 41371648, "data": {"documents": 11873, "tokens": 8412331, "truncated": 12},
    }
    recipe = ("# The resolved recipe: every key, and where its value comes from.\n\n# Model\n"
              "base_model: /a/rather/long/path/without/any/space/in/it/of/a/model/AI21-Jamba-Reasoning-3B  # train.yaml:1:1\n"
              f"learning_rate: {lr:g}  # command line: learning_rate={lr:g}\n"
              f"sample_prompts: [\"{text}\"]  # train.yaml:9:1\nlora_r: 16  # default\nseed: {n}  # default\n")
    os.makedirs(folder)
    for name, data in (("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines)), ("run.json", json.dumps(facts)),
                       ("recipe.yaml", recipe)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(data)
    return folder


def make_pages(program, scratch):
    """Name -> (folders, page)."""
    def folder(*parts):
        return os.path.join(scratch, *parts)

    runs = {
        "a whole run": [make_run(folder("whole"), 400, stop=222, every_nan=133, spikes=(90, 300))],
        "one step": [make_run(folder("one-step"), 1, evals=0)],
        "no evaluation": [make_run(folder("no-evaluation"), 40, evals=0)],
        "nothing finite": [make_run(folder("nan"), 12, evals=0, every_nan=1)],
        "under way": [make_run(folder("under-way"), 120, finished=False, total=900)],
        "hostile texts": [make_run(folder("hostile <b>&'\" name"), 30, text=ATTACK + " \u202eשלום\u0001 ")],
        "a long name": [make_run(folder("a" * 120), 30)],
        "100 000 steps": [make_run(folder("long"), 100000, spikes=(5000, 77777), every_nan=9973, evals=50)],
        "two runs": [make_run(folder("first"), 200), make_run(folder("second"), 150, lr=1e-3)],
        "eight runs": [make_run(folder("sweep", f"learning_rate={lr:g},lora_r=16"), 200, lr=lr, offset=i / 10)
                       for i, lr in enumerate((1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 1e-2))],
        "thirty runs": [make_run(folder("many", f"seed={i}"), 60 + i, lr=1e-4 * (i + 1), offset=i / 30) for i in range(30)],
    }
    empty = folder("empty")
    os.makedirs(empty)
    with open(os.path.join(empty, "metrics.jsonl"), "w", encoding="utf-8"):
        pass
    runs["no step yet"] = [empty]
    trained = folder("quickstart")
    subprocess.run([program, "train", os.path.join(ROOT, "recipes/quickstart/quickstart.yaml"), "max_steps=6", "eval_steps=3",
                    "evals_per_epoch=0", 'sample_prompts=["Life is"]', "output_dir=" + trained], check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs["the quick start"] = [trained]
    pages = {}
    for name, folders in runs.items():
        page = folder(re.sub(r"\W", "-", name) + ".html")
        subprocess.run([program, "report", *folders, "-o", page], check=True, stderr=subprocess.DEVNULL)
        pages[name] = (folders, page)
    return pages


# ---- colours ----

SIGHTS = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def linear(color):
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]


def lab(rgb):
    r, g, b = (min(1, max(0, c)) for c in rgb)
    x, y, z = ((v if v > 0.008856 else 0) ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047, 0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def luminance(color):
    r, g, b = linear(color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def least_distance(colors):
    """Of any two, with any sight."""
    least = math.inf
    for matrix in SIGHTS.values():
        seen = [lab([sum(m * c for m, c in zip(row, linear(color))) for row in matrix]) for color in colors]
        least = min([least] + [math.dist(a, b) for a, b in itertools.combinations(seen, 2)])
    return least


# ---- what the browser sees ----

TEXTS = """() => {
  const rgb = (c) => { const v = c.match(/[\\d.]+/g).map(Number); return v.length > 3 && v[3] === 0 ? null : v.slice(0, 3); };
  const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, title") || !parent.getClientRects().length) continue;
    const style = getComputedStyle(parent);
    let behind = null;
    for (let e = parent; e && !behind; e = e.parentElement) behind = rgb(getComputedStyle(e).backgroundColor);
    seen.push([node.data.trim().slice(0, 40), rgb(parent.closest("svg") ? style.fill : style.color), behind || [255, 255, 255]]);
  }
  return seen;
}"""

LABELS = """() => Array.from(document.querySelectorAll("figure"), (figure) => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  return { title: figure.querySelector("b").textContent, box: box(figure),
           labels: Array.from(figure.querySelectorAll(".plot text")).filter((e) => getComputedStyle(e).display !== "none")
             .map((e) => [e.textContent, box(e)]),
           parts: Array.from(figure.querySelectorAll("figcaption > *, .plot circle, .plot use")).map(box) };
})"""

CURVES = """() => ({ card: getComputedStyle(document.querySelector(".chart")).backgroundColor,
  colors: ["c0", "c1", "c2", "c3", "c4", "c5"].map((c) => {
    const e = document.createElement("i"); e.className = c; document.body.append(e);
    const color = getComputedStyle(e).color; e.remove(); return color; }) })"""


def numbers(color):
    return [float(v) for v in re.findall(r"[\d.]+", color)][:3]


def touch(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 2


def check_labels(figures):
    for figure in figures:
        left, top, right, bottom = figure["box"]
        for (a, p), (b, q) in itertools.combinations(figure["labels"], 2):
            if touch(p, q):
                yield f"{figure['title']}: the labels '{a}' and '{b}' touch"
        for box in [box for _, box in figure["labels"]] + figure["parts"]:
            if box[0] < left - 0.5 or box[2] > right + 0.5 or box[1] < top - 0.5 or box[3] > bottom + 0.5:
                yield f"{figure['title']}: something leaves its card"


def check_hover(page, folders):
    """The largest relative error of the values shown, over the loss chart of one run."""
    plot = page.locator(".plot").first
    with open(os.path.join(folders[0], "metrics.jsonl"), encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    loss = {line["step"]: line["loss"] for line in lines if "loss" in line}
    plot.scroll_into_view_if_needed()
    box, n, worst, problems = plot.bounding_box(), 0, 0.0, []
    for share in (0.01, 0.2, 0.45, 0.55, 0.7, 0.99):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
        tip = page.locator(".tip:visible")
        if tip.count() != 1:
            problems.append("nothing under the pointer")
            continue
        edge = tip.bounding_box()
        if edge["x"] < 0 or edge["x"] + edge["width"] > page.viewport_size["width"]:
            problems.append("the values under the pointer leave the window")
        text = tip.inner_text()
        step = int(re.search(r"step (\d+)", text).group(1))
        shown = re.search(r"each step ([\d.e+-]+)", text)
        if shown and isinstance(loss.get(step), float) and len(loss) <= 1000:
            axis = [float(plot.get_attribute("data-y" + end)) for end in "01"]
            worst = max(worst, abs(float(shown.group(1)) - loss[step]) / (axis[1] - axis[0]))
            n += 1
    if worst > 1e-3:
        problems.append(f"a value under the pointer is off by {worst:.2g} of the axis")
    return n, problems


def look(browser, name, folders, path, totals):
    problems = []
    for scheme, width in SETTINGS:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said = []
        page.on("console", lambda m: said.append("console: " + m.text))
        page.on("pageerror", lambda e: said.append("error: " + str(e)))
        page.on("request", lambda r: said.append("request: " + r.url) if not r.url.startswith(("file://" + path, "data:")) else None)
        page.goto("file://" + path)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if sideways > 0:
            said.append(f"scrolls {sideways} px sideways")
        if page.evaluate("typeof window.attacked") != "undefined":
            said.append("a text of the run was run")
        said += check_labels(page.evaluate(LABELS))
        texts = page.evaluate(TEXTS)
        faint = min(texts, key=lambda t: contrast(t[1], t[2]))
        least = contrast(faint[1], faint[2])
        totals["texts"] += len(texts)
        totals["contrast"] = min(totals["contrast"], least)
        if least < TEXT_CONTRAST:
            said.append(f"'{faint[0]}' has a contrast of {least:.2f}")
        if page.locator(".chart .plot").count() > 0:
            curves = page.evaluate(CURVES)
            colors, card = [numbers(c) for c in curves["colors"]], numbers(curves["card"])
            totals["curve"] = min([totals["curve"]] + [contrast(c, card) for c in colors])
            totals["apart"] = min(totals["apart"], least_distance(colors))
            n, hover = check_hover(page, folders) if len(folders) == 1 else (0, [])
            totals["hovered"] += n
            said += hover
        page.emulate_media(media="print", color_scheme=scheme)
        if page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") > 0 and width > 1000:
            said.append("in print it is too wide")
        problems += [f"{name}, {scheme}, {width} px: {what}" for what in said]
        page.close()
    return problems


def check_code_is_refused(browser, path):
    """The page's policy: a script that is not ours does not run, wherever it may come from."""
    page = browser.new_page()
    page.goto("file://" + path)
    page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.attacked = 1';"
                  " document.body.append(s); const d = document.createElement('div');"
                  " d.innerHTML = '<img src=x onerror=\"window.attacked = 1\">'; document.body.append(d); }")
    page.wait_for_timeout(300)
    ran = page.evaluate("typeof window.attacked") != "undefined"
    page.close()
    return ["code put into the page runs"] if ran else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("program")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--keep", help="a folder for the pages and their pictures")
    parser.add_argument("-o", "--output")
    args = parser.parse_args()
    program = os.path.abspath(args.program)
    totals = {"texts": 0, "contrast": math.inf, "curve": math.inf, "apart": math.inf, "hovered": 0}
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        pages = make_pages(program, args.keep or scratch)
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        version = browser.version
        for name, (folders, path) in pages.items():
            found = look(browser, name, folders, path, totals)
            rows.append((name, os.path.getsize(path), len(found)))
            problems += found
        problems += check_code_is_refused(browser, pages["a whole run"][1])
        if args.keep:
            for name, (_, path) in pages.items():
                for scheme, width in SETTINGS:
                    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                    page.goto("file://" + path)
                    page.screenshot(path=f"{path[:-5]}-{scheme}-{width}.png", full_page=True)
                    page.close()
        browser.close()
    if totals["curve"] < CURVE_CONTRAST:
        problems.append(f"a curve has a contrast of {totals['curve']:.2f}")
    if totals["apart"] < APART:
        problems.append(f"two colours are {totals['apart']:.1f} apart")
    if totals["hovered"] < 10:
        problems.append(f"only {totals['hovered']} values under the pointer were compared")
    text = [
        "# Reports in a browser", "",
        f"Pages of `jambatune report` in headless Chromium {version}, light and dark, 375 and 1280 px wide, by", "",
        "    python3 tests/reference/check_report.py build/jambatune -o tests/reference/REPORT.md", "",
        "which says at its top what is looked at.", "",
        "| page | bytes | problems at four settings |", "|---|--:|--:|",
        *(f"| {name} | {size} | {n} |" for name, size, n in rows), "",
        f"{totals['texts']} texts: the least contrast is {totals['contrast']:.1f} (4.5 is asked for). Curves stand out from their card by",
        f"{totals['curve']:.1f} at least (3); any two of the six colours are {totals['apart']:.0f} apart (20) for any sight.",
        f"{totals['hovered']} values under the pointer are those of the log, to a thousandth of the axis.", "",
        "Problems: " + ("none." if not problems else ""), *(f"- {p}" for p in problems), "",
    ]
    report = "\n".join(text).rstrip("\n") + "\n"
    if args.output:
        with open(args.output, "w", encoding="utf-8") as f:
            f.write(report)
    print(report, end="")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
