#!/usr/bin/env python3
"""Scores states of training on the held-out suites, by the training script's own forward pass.

    python3 tests/reference/demo_model/score.py STATE.npz [--layers llslls] [--long]

A problem counts when every token of working and answer is the most likely one after those before it: greedy
generation then writes exactly the expected text. --long: recall from 4 and 16 times the trained length, too.
Layers of all kinds can be scored, those that no checkpoint can describe among them.
"""

import argparse
import json
import pathlib

import make_suites
import network
import tokenizer as tokens
import train

LENGTHS = {"4x": 2560, "16x": 8704}  # tokens of a row: context, question and answer


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("state", type=pathlib.Path)
    p.add_argument("--layers", default="llslls")
    p.add_argument("--long", action="store_true")
    options = p.parse_args()
    tokenizer, shape = tokens.train(), network.Shape(layers=options.layers)
    w, _, step = train.load(options.state)
    suites = make_suites.make(tokenizer, with_keys=True)
    scores, loads = train.Scorer(shape, tokenizer, [p for _, p in suites["suite.jsonl"]])(w)
    scores["least load"] = round(float((loads / loads.mean(axis=1, keepdims=True)).min()), 3)
    for name, length in LENGTHS.items() if options.long else ():
        problems = [p for _, p in suites["suite-long.jsonl"] if p["kind"].endswith(name)]
        long, _ = train.Scorer(shape, tokenizer, problems, length, 1)(w)
        scores[f"recall {name}"] = long["recall"]
    print(json.dumps({"state": str(options.state), "layers": options.layers, "step": step, **scores}, indent=1))


if __name__ == "__main__":
    main()
