#!/usr/bin/env python3
"""Tests of the demonstration model's problems: that answers are right, and that the suites are held out.

Reads the committed suites as a stranger would: numbers, items and facts are taken from the text of a
prompt, the answer is worked out anew from them, and so are the keys that decide which side a problem is on.
"""

import collections
import json
import pathlib
import random
import re

import tasks

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "demo-model"
TRAINING_PROBLEMS = 6000


def expect(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def items_of(text):
    return re.findall(r"\w+", text)


def solve(entry):
    """(answer, keys) of a problem from its text alone."""
    kind, prompt = entry["kind"].split("-")[0], entry["prompt"]
    if entry["task"] == "recall":
        codes = re.findall(r"The code of the (\w+ \w+) is (\d+)\.", prompt)
        places = re.findall(r"The (\w+ \w+) is in the (\w+)\.", prompt)
        code = re.search(r"What is the code of the (\w+ \w+)\?$", prompt)
        place = re.search(r"Where is the (\w+ \w+)\?$", prompt)
        found = [v for t, v in (codes if code else places) if t == (code or place).group(1)]
        expect(len(found) == 1, f"{prompt[-60:]} has {len(found)} answers")
        return found[0], [("code", t, int(v)) for t, v in codes] + [("place", t, v) for t, v in places]
    if entry["task"] == "arithmetic":
        expression = re.search(r"[\d(][\d+*() -]*", prompt).group(0).strip()
        if kind == "expr":
            return str(eval(expression)), [("expr", expression)]  # pylint: disable=eval-used
        a, sign, b = expression.split()
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        return str(value), [(sign, int(a), int(b))]
    listed = items_of(prompt.split(": ", 1)[1])
    if kind == "sort":
        numbers = [int(x) for x in listed]
        return ", ".join(map(str, sorted(numbers))), [("sort", *numbers)]
    if kind == "reverse":
        return ", ".join(listed[::-1]), [("reverse", *listed)]
    if kind == "count":
        target = re.search(r"How many times is (\w+)|Count (\w+)", prompt)
        target = target.group(1) or target.group(2)
        return str(listed.count(target)), [("count", target, *listed)]
    sides = collections.defaultdict(list)
    for x in listed:
        side = int(x) % 2 if x.isdigit() else next(c for c, ws in tasks.CATEGORIES.items() if x in ws)
        sides[side].append(x)
    alone = [xs[0] for xs in sides.values() if len(xs) == 1]
    expect(len(sides) == 2 and len(alone) == 1, f"{prompt} has no single odd one")
    return alone[0], [("odd one", *listed)]


def read(name):
    return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]


def check_suites():
    """Gives the keys of all suites."""
    keys = set()
    for name, n in (("suite.jsonl", 1000), ("suite-small.jsonl", 60), ("suite-tiny.jsonl", 9),
                    ("suite-long.jsonl", 40)):
        entries = read(name)
        expect(len(entries) == n and len({e["id"] for e in entries}) == n, f"{name}: number of problems")
        for entry in entries:
            answer, found = solve(entry)
            expect(answer == entry["answer"], f"{name}: {entry['id']}: {entry['answer']}, should be {answer}")
            expect(found and all(map(tasks.is_test, found)), f"{name}: {entry['id']} has a training key")
            keys.update(found)
    full = {e["id"]: e for e in read("suite.jsonl")}
    for name in ("suite-small", "suite-tiny"):
        expect(all(full.get(e["id"]) == e for e in read(name + ".jsonl")), f"{name} is not part of suite")
    return keys


def check_lengths():
    """Sums have operands of all lengths up to six digits, recall contexts of all lengths."""
    digits, lengths = collections.Counter(), []
    for entry in read("suite.jsonl"):
        if entry["kind"] in ("add", "sub"):
            digits.update(len(n) for n in re.findall(r"\d+", entry["prompt"]))
        elif entry["task"] == "recall":
            lengths.append(len(entry["prompt"]))
    expect(set(digits) == set(range(1, 7)) and min(digits.values()) >= 40, f"digits of operands: {digits}")
    quarters = collections.Counter(4 * length // (max(lengths) + 1) for length in lengths)
    expect(min(quarters[q] for q in range(4)) >= 25, f"lengths of contexts: {quarters}")


def check_training(test_keys):
    """Training problems: right, of the other side, and those of a seed the same again."""
    for attempt in range(2):
        rng, problems = random.Random(99), []
        for i in range(TRAINING_PROBLEMS):
            maker = list(tasks.MAKERS.values())[i % len(tasks.MAKERS)]
            problems.append(maker(rng, False))
        if attempt == 0:
            first = problems
    expect(first == problems, "a seed does not fix the problems")
    for problem in problems:
        answer, found = solve(problem)
        expect(answer == problem["answer"], f"{problem['prompt']}: {problem['answer']}, should be {answer}")
        expect(sorted(map(repr, found)) == sorted(map(repr, problem["keys"])), f"{problem['prompt']}: its keys")
        expect(not any(map(tasks.is_test, found)), f"{problem['prompt']} has a test key")
        expect(test_keys.isdisjoint(found), f"{problem['prompt']} is in a suite")


def main():
    keys = check_suites()
    check_lengths()
    check_training(keys)
    print(f"{len(keys)} test keys, {TRAINING_PROBLEMS} training problems")


if __name__ == "__main__":
    main()
