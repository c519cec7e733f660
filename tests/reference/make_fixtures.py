#!/usr/bin/env python3
"""Makes the checkpoints and goldens of tests/fixtures/models, or checks those that are there.

    make_fixtures.py [VARIANT...]            write them (all without a name)
    make_fixtures.py --check [VARIANT...]    recompute the goldens from the committed weights
    make_fixtures.py --hidden FILE VARIANT   save [L + 1, prompt, D] float64: the residual stream of
                                             the prompt after the embedding and after every layer

A directory holds config.json, the weights, and
    golden.json                  tokens, generated (greedy), and how far from a tie the inputs stay
    golden_logits.npy            [prompt, V] float32, a row after every token of the prompt
    golden_generated_logits.npy  [generated, V] float32, a row after every generated token
"""

import argparse
import json
import os
import shutil
import sys

import numpy as np

import config as configs
import fixtures
import model
import safetensors_io

ROUTING_MARGIN = 1e-4  # what is promised: no routing decision is nearer to another one
# What is looked for, so that few decisions flip in bf16: in the prompt, where tokens can be chosen,
# and in what follows from it.
CLEAR_MARGIN, CANDIDATES, GENERATED_MARGIN = 1e-2, 12, 1e-3
CHOICE_MARGIN = 2e-2   # between the best and the second best logit of every greedy choice
DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "models")


def nmse(a, b):
    """Squared error of a against b, over b's squares."""
    return float(np.sum((a - b) ** 2) / np.sum(b ** 2))


def choose_prompt(random, config, weights, n):
    """Random tokens, each the first of a few, in its place, whose routing is clear of ties."""
    tokens = []
    for _ in range(n):
        best = (-1.0, None)
        for candidate in random.tokens(CANDIDATES, config.vocab_size):
            margin = model.forward(config, weights, tokens + [candidate]).margins[-1]
            best = max(best, (margin, candidate))
            if margin >= CLEAR_MARGIN:
                break
        tokens.append(best[1])
    return tokens


def generate(config, weights, prompt, n):
    """Greedy continuation, or None where a choice or a routing decision is too near a tie."""
    tokens = list(prompt)
    for _ in range(n):
        result = model.forward(config, weights, tokens)
        second, first = np.sort(result.logits[-1])[-2:]
        if result.margins.min() < GENERATED_MARGIN or first - second < CHOICE_MARGIN:
            return None
        tokens.append(int(np.argmax(result.logits[-1])))
    return tokens[len(prompt):]


def choose_input(variant, config, weights):
    """(prompt, generated, result of the whole): the last two tokens of the prompt are drawn again
    until what they lead to stays clear of ties."""
    random = fixtures.Random(variant.name + " prompt")
    start = choose_prompt(random, config, weights, variant.prompt - 2)
    for _ in range(10000):
        prompt = start + random.tokens(2, config.vocab_size)
        generated = generate(config, weights, prompt, variant.generate)
        if generated is None:
            continue
        result = model.forward(config, weights, prompt + generated)
        if result.margins.min() >= GENERATED_MARGIN:
            return prompt, generated, result
    raise RuntimeError(f"{variant.name}: no prompt without near ties")


def read_golden(directory):
    with open(os.path.join(directory, "golden.json")) as file:
        return json.load(file)


def choice_margin(logits):
    ordered = np.sort(logits, axis=1)
    return float(np.min(ordered[:, -1] - ordered[:, -2]))


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def make(variant, directory):
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    write_json(os.path.join(directory, "config.json"), variant.config)
    config = configs.read_config(directory)
    random = fixtures.Random(variant.name + " weights")
    tensors = fixtures.stored_tensors(variant, fixtures.make_weights(random, config))
    safetensors_io.write_checkpoint(directory, tensors, variant.shards)

    weights = safetensors_io.read_weights(directory)
    prompt, generated, result = choose_input(variant, config, weights)
    n = len(prompt)
    chosen_from = result.logits[n - 1:-1]
    write_json(os.path.join(directory, "golden.json"), {
        "tokens": prompt, "generated": generated,
        "min_routing_margin": min(result.margins.min(), 1e30),
        "min_choice_margin": choice_margin(chosen_from),
        "notes": "float64; generated[i+1] is the argmax of row i of golden_generated_logits"})
    np.save(os.path.join(directory, "golden_logits.npy"), result.logits[:n].astype(np.float32))
    np.save(os.path.join(directory, "golden_generated_logits.npy"),
            result.logits[n:].astype(np.float32))
    print(f"{variant.name}: margins {result.margins.min():.1e} (routing), "
          f"{choice_margin(chosen_from):.2f} (choice), logits {np.std(result.logits):.2f}",
          flush=True)


def check(variant, directory):
    """What is wrong with a committed fixture, as a list of texts."""
    config, weights = configs.read_config(directory), safetensors_io.read_weights(directory)
    golden = read_golden(directory)
    prompt, generated = golden["tokens"], golden["generated"]
    n = len(prompt)
    result = model.forward(config, weights, prompt + generated)
    wrong = []
    for name, value in (("golden_logits", result.logits[:n]),
                        ("golden_generated_logits", result.logits[n:])):
        stored = np.load(os.path.join(directory, name + ".npy"))
        # float32 holds the goldens to 3e-8 of each number: an NMSE of 1e-15.
        if stored.shape != value.shape or not nmse(stored.astype(np.float64), value) < 1e-14:
            wrong.append(f"{name} differs")
    if list(np.argmax(result.logits[n - 1:-1], axis=1)) != generated:
        wrong.append("generated is not the greedy continuation")
    if result.margins.min() < ROUTING_MARGIN:
        wrong.append("a routing decision is too near a tie")
    if choice_margin(result.logits[n - 1:-1]) < CHOICE_MARGIN:
        wrong.append("a greedy choice is too near a tie")
    with open(os.path.join(directory, "config.json")) as file:
        if json.load(file) != variant.config:
            wrong.append("config.json differs")
    return wrong


def save_hidden(directory, path):
    config, weights = configs.read_config(directory), safetensors_io.read_weights(directory)
    np.save(path, model.forward(config, weights, read_golden(directory)["tokens"]).hidden)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--hidden", metavar="FILE", help="save the residual stream of one variant")
    parser.add_argument("--directory", default=DIRECTORY)
    parser.add_argument("variants", nargs="*")
    options = parser.parse_args()
    known = {variant.name: variant for variant in fixtures.VARIANTS}
    failed = False
    for name in options.variants or known:
        directory = os.path.join(options.directory, name)
        if options.hidden:
            save_hidden(directory, options.hidden)
            continue
        if not options.check:
            make(known[name], directory)
            continue
        wrong = check(known[name], directory)
        failed |= bool(wrong)
        print(f"{name}: {'; '.join(wrong) or 'ok'}")
    if options.check and not options.variants:
        extra = set(os.listdir(options.directory)) - set(known)
        failed |= bool(extra)
        if extra:
            print(f"not made by this program: {', '.join(sorted(extra))}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
