#!/usr/bin/env python3
"""Writes tests/fixtures/demo-model/suite*.jsonl and the tokenizer: problems held out from training.

    python3 tests/reference/demo_model/make_suites.py [--check]

    suite.jsonl        1000 problems, contexts of recall up to the trained length
    suite-small.jsonl  60 of them
    suite-tiny.jsonl   the shortest of each kind but products, for devices that are emulated
    suite-long.jsonl   recall from contexts of 4 and 16 times the trained length

One object per line: {"id", "task", "kind", "prompt": the human turn's text, "answer": exactly what has
to stand after the last </think>, blanks stripped, "max_tokens": at most so many are generated}.
--check compares the suites with what is committed and writes nothing.
"""

import json
import pathlib
import random
import sys

import tasks
import tokenizer as tokens

OUT = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "demo-model"
SEED = 20251
TRAINED = 512  # tokens of a training sequence
COUNTS = {"add": 125, "sub": 125, "mul": 125, "expr": 125, "sort": 70, "reverse": 60, "count": 60, "odd": 60,
          "recall": 250}
LONG = {2048: 20, 8192: 20}  # tokens of the context: problems
SMALL = 60


def line(tokenizer, identity, problem):
    _, working, answer = problem["turns"][0]
    length = len(tokenizer.encode(tokens.answer_text(working, answer)).ids)
    return {"id": identity, "task": problem["task"], "kind": problem["kind"], "prompt": problem["prompt"],
            "answer": problem["answer"], "max_tokens": length + 16}


def tiny(full):
    """The problem of each kind, but products, with the shortest prompt and working."""
    shortest = {}
    for identity, problem in full:
        length, kind = len(problem["prompt"]) + len(problem["turns"][0][1]), problem["kind"]
        if kind != "mul" and (kind not in shortest or length < shortest[kind][0]):
            shortest[kind] = length, (identity, problem)
    return [entry for _, entry in shortest.values()]


def make(tokenizer, with_keys=False):
    """{file name: lines}, or {file name: problems}."""
    rng, seen, suites = random.Random(SEED), set(), {}

    def count(text):
        return len(tokenizer.encode(text).ids)

    full = []
    for maker, n in COUNTS.items():
        i = 0
        while i < n:
            problem = (tasks.recall_problem(rng, True, tokens=40 + 400 * i // n, count=count)
                       if maker == "recall" else tasks.MAKERS[maker](rng, True))
            if problem["prompt"] in seen:
                continue
            seen.add(problem["prompt"])
            i += 1
            full.append((f"{maker}-{i:04}", problem))
    suites["suite.jsonl"] = full
    suites["suite-small.jsonl"] = [full[(2 * i + 1) * len(full) // (2 * SMALL)] for i in range(SMALL)]
    suites["suite-tiny.jsonl"] = tiny(full)
    suites["suite-long.jsonl"] = []
    for length, n in LONG.items():
        for i in range(n):
            # Up to 100 facts; the rest of the context are distractors.
            problem = tasks.recall_problem(rng, True, tokens=length - 40, count=count, n_facts=5 + 5 * i)
            problem["kind"] += f"-{length // TRAINED}x"
            suites["suite-long.jsonl"].append((f"recall-{length // TRAINED}x-{i + 1:02}", problem))
    if with_keys:
        return suites
    return {name: [line(tokenizer, *entry) for entry in entries] for name, entries in suites.items()}


def main():
    tokenizer = tokens.train()
    check = "--check" in sys.argv[1:]
    OUT.mkdir(parents=True, exist_ok=True)
    if not check:
        tokens.write(tokenizer, OUT)
    for name, lines in make(tokenizer).items():
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines)
        if not check:
            (OUT / name).write_text(text, encoding="utf-8")
        elif (OUT / name).read_text(encoding="utf-8") != text:
            sys.exit(f"{name} is not what make_suites.py makes")
        print(f"{name}: {len(lines)} problems, {len(text)} bytes")


if __name__ == "__main__":
    main()
