#!/usr/bin/env python3
"""Writes train.jsonl and test.jsonl beside itself: questions that one call of a tool answers.

    recipes/chat-tools/make.py

Three tools, some ways to ask for each, and some cities and numbers to ask about. No question is in
both files; "expected", in test.jsonl, is the call that answers it. The same files every time.
"""
import json
import pathlib
import random

HERE = pathlib.Path(__file__).parent
N_TRAIN, N_TEST = 130, 30  # of each kind

CITIES = """Athens Berlin Boston Cairo Chicago Delhi Dublin Lima Lisbon London Madrid Moscow Paris
Rome Tokyo Vienna""".split()
NUMBERS = range(1, 10)

ASK_WEATHER = [
    "What is the weather in {}?", "How is the weather in {} today?", "Is it raining in {}?",
    "Is it cold in {}?", "Tell me the weather in {}.", "Do I need an umbrella in {}?",
    "Will I see the sun in {} today?", "How warm is it in {}?", "Is there snow in {}?",
    "Does it rain in {} today?",
]
ASK_TIME = [
    "What time is it in {}?", "Tell me the time in {}.", "What is the time in {} now?",
    "Is it late in {}?", "What does the clock say in {}?", "Is it still morning in {}?",
    "Is it night in {}?", "Do you know the time in {}?", "What hour is it in {}?",
    "Is it noon in {}?",
]
ASK_SUM = [
    "What is {} plus {}?", "Add {} and {}.", "What is the sum of {} and {}?", "How much is {} and {}?",
    "Give me {} plus {}.", "Tell me the sum of {} and {}.", "What do {} and {} make?",
    "How many are {} and {} together?",
]


def tool(name, **parameters):
    schema = {"type": "object", "properties": {p: {"type": t} for p, t in parameters.items()}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool("get_weather", city="string"),
    tool("get_time", city="string"),
    tool("add", a="integer", b="integer"),
]


def questions():
    """All of them with their calls, by kind."""
    for ways, name in ((ASK_WEATHER, "get_weather"), (ASK_TIME, "get_time")):
        yield [(way.format(city), {"name": name, "arguments": {"city": city}})
               for way in ways for city in CITIES]
    yield [(way.format(a, b), {"name": "add", "arguments": {"a": a, "b": b}})
           for way in ASK_SUM for a in NUMBERS for b in NUMBERS]


def record(text, call, test):
    messages = [{"role": "user", "content": text}]
    if test:
        return {"messages": messages, "tools": TOOLS, "expected": call}
    messages.append({"role": "assistant", "content": None,
                     "tool_calls": [{"type": "function", "function": call}]})
    return {"messages": messages, "tools": TOOLS}


rng = random.Random(5)
train, test = [], []
for kind in questions():
    rng.shuffle(kind)
    train += [record(text, call, False) for text, call in kind[:N_TRAIN]]
    test += [record(text, call, True) for text, call in kind[-N_TEST:]]
for name, records in (("train", train), ("test", test)):
    (HERE / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
