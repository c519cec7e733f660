#!/usr/bin/env python3
"""Trains the demonstration model on CPU cores.

    pip install jax tokenizers
    python3 tests/reference/demo_model/train.py --out DIR [--layers llslls] [--steps N] ...

Continues from DIR/last.npz where there is one. Every --save steps: DIR/last.npz (all there is to go on), and
scores on the held-out suite in DIR/log.jsonl. export.py makes a checkpoint of it. Muon for the matrices of
the layers, AdamW for embedding, head, router and norms; the router's bias by the aux-loss-free rule. The
learning rate rises for --warmup steps, stays, and falls to zero over the last --decay steps.
"""

import argparse
import collections
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import data
import make_suites
import network
import tokenizer as tokens

BIAS_RATE = 0.002


def is_muon(name, value):
    return value.ndim >= 2 and name not in ("embed", "head") and not name.endswith("router")


def orthogonal(g):
    """Newton-Schulz: about U V^T of g [..., m, n], n >= m after a transpose."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = g.shape[-2] <= g.shape[-1]
    x = g if wide else jnp.swapaxes(g, -1, -2)
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        s = x @ jnp.swapaxes(x, -1, -2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x if wide else jnp.swapaxes(x, -1, -2)


def update(w, state, grads, loads, rate, options):
    """One step of every weight. rate: share of the full learning rates."""
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
    clip = jnp.minimum(1.0, 1.0 / (norm + 1e-9))
    t = state["t"] + 1
    new_w, new_state = {}, {"t": t}
    for name, value in w.items():
        g = grads[name]
        if name.endswith("bias"):
            load = loads[int(name.split(".")[0]) - 1].astype(jnp.float32)
            moved = value + BIAS_RATE * jnp.maximum(rate, 0.05) * jnp.sign(load.mean() - load)
            new_w[name] = moved - moved.mean()
        elif is_muon(name, value):
            m = 0.95 * state["m." + name] + g
            new_state["m." + name] = m
            step = orthogonal(g + 0.95 * m) * max(1.0, value.shape[-2] / value.shape[-1]) ** 0.5
            new_w[name] = value * (1 - rate * options.muon * options.shrink) - rate * options.muon * step
        else:
            g = g * clip
            m = 0.9 * state["m." + name] + 0.1 * g
            v = 0.98 * state["v." + name] + 0.02 * g * g
            new_state["m." + name], new_state["v." + name] = m, v
            step = m / (1 - 0.9 ** t) / (jnp.sqrt(v / (1 - 0.98 ** t)) + 1e-9)
            new_w[name] = value - rate * options.adam * step
    return new_w, new_state, norm


def initial_state(w):
    state = {"t": jnp.zeros((), jnp.int32)}
    for name, value in w.items():
        if not name.endswith("bias"):
            state["m." + name] = jnp.zeros_like(value)
            if not is_muon(name, value):
                state["v." + name] = jnp.zeros_like(value)
    return state


def schedule(step, options):
    """Share of the learning rates at a step."""
    rise = min(1.0, (step + 1) / options.warmup)
    if options.deadline:
        left = options.deadline - time.time()
        return options.peak * rise * min(1.0, max(0.0, left / (60 * options.decay_minutes)))
    return options.peak * rise * min(1.0, max(0.0, (options.steps - step) / max(1, options.decay)))


class Scorer:
    """Which problems of a suite a model gets right.

    A problem counts when every token of working and answer is the most likely one after those before it:
    then greedy generation writes exactly the expected text."""

    def __init__(self, shape, tokenizer, problems, length=512, rows=16):
        self.batches = data.packed_problems(tokenizer, problems, length, rows)

        def right(w, ids, segments):
            logits, loads, _ = network.forward(shape, w, ids, segments, 4.0 if length <= 512 else None)
            return jnp.argmax(logits[:, :-1], axis=-1) == ids[:, 1:], loads

        self.right = jax.jit(right)

    def __call__(self, w):
        """({kind or task: share right}, loads [layers - 1, E])."""
        hits, total = collections.defaultdict(list), 0
        for (ids, segments, mask), documents in self.batches:
            right, loads = jax.device_get(self.right(w, ids, segments))
            total = total + loads
            for row, segment, problem in documents:
                where = (segments[row, 1:] == segment) & (mask[row, 1:] == 1)
                for name in (problem["task"], problem["kind"]):
                    hits[name].append(bool(right[row][where].all()))
        return {name: round(float(np.mean(h)), 4) for name, h in hits.items()}, total


def save(path, w, state, step):
    arrays = {"w." + k: np.asarray(v) for k, v in w.items()}
    arrays.update({"o." + k: np.asarray(v) for k, v in state.items()}, step=step)
    with open(str(path) + ".part", "wb") as file:
        np.savez(file, **arrays)
    os.replace(str(path) + ".part", path)


def load(path):
    """(weights, optimizer state, step)"""
    with np.load(path) as file:
        w = {k[2:]: jnp.asarray(file[k]) for k in file.files if k.startswith("w.")}
        state = {k[2:]: jnp.asarray(file[k]) for k in file.files if k.startswith("o.")}
        return w, state, int(file["step"])


def graft(w, trunk):
    """The trunk's weights, but w's in all attention, which so begins anew whatever the kinds of layers."""
    attention = ("q", "k", "v", "q_norm", "k_norm", "dense", "g", "g_norm")
    return {name: w[name] if name.partition(".")[2] in attention else trunk[name] for name in w}


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--layers", default="llslls", help="one letter a layer: l linear, s softmax")
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--decay", type=int, default=2500)
    p.add_argument("--deadline", type=float, help="seconds since 1970: ends then, instead of at --steps")
    p.add_argument("--decay-minutes", type=float, default=25, help="with --deadline, instead of --decay")
    p.add_argument("--warmup", type=int, default=60)
    p.add_argument("--rows", type=int, default=8)
    p.add_argument("--length", type=int, default=512)
    p.add_argument("--long-from", type=int, default=3400, help="from this step on, every --long-every-th is long")
    p.add_argument("--long-every", type=int, default=8)
    p.add_argument("--long-length", type=int, default=4096)
    p.add_argument("--muon", type=float, default=0.006)
    p.add_argument("--adam", type=float, default=0.002)
    p.add_argument("--shrink", type=float, default=0.1, help="weight decay of Muon's matrices")
    p.add_argument("--capacity", type=float, default=1.3)
    p.add_argument("--save", type=int, default=100)
    p.add_argument("--trunk", type=pathlib.Path, help="begin with these weights, but all attention anew")
    p.add_argument("--only", help="train on this kind of problem alone, and score it alone")
    p.add_argument("--peak", type=float, default=1.0, help="share of the learning rates to begin with")
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer, shape = tokens.train(), network.Shape(layers=options.layers)
    w, step = network.initial(shape, options.seed), 0
    if options.trunk:
        w = graft(w, load(options.trunk)[0])
    state, last = initial_state(w), options.out / "last.npz"
    if last.exists():
        w, state, step = load(last)
    problems = [p for _, p in make_suites.make(tokenizer, with_keys=True)["suite.jsonl"]]
    problems = [p for p in problems if p["task"] == options.only] if options.only else problems[::4]
    if options.only:
        data.SHARES = {options.only: 1}
    scorer = Scorer(shape, tokenizer, problems)

    def train_step(w, state, ids, segments, mask, rate):
        (value, (loads, dropped, right)), grads = jax.value_and_grad(
            lambda x: network.loss(shape, x, ids, segments, mask, options.capacity), has_aux=True)(w)
        w, state, norm = update(w, state, grads, loads, rate, options)
        return w, state, (value, right, dropped, norm, loads.max() / loads.mean())

    train_step = jax.jit(train_step, donate_argnums=(0, 1))
    # A new stream at every start: the seed depends on the step, so nothing is seen twice.
    short = data.ahead(data.batches(tokenizer, options.seed * 1000003 + step, options.rows, options.length))
    long_rows = max(1, options.rows * options.length // options.long_length)
    long = data.batches(tokenizer, options.seed * 1000003 + step + 500009, long_rows, options.long_length)
    began, since, seen = time.time(), [], 0
    log = open(options.out / "log.jsonl", "a", encoding="utf-8")
    print(f"step {step}", vars(options), flush=True)
    while step < options.steps and (not options.deadline or time.time() < options.deadline):
        is_long = step >= options.long_from and step % options.long_every == 0
        batch = next(long if is_long else short)
        rate = schedule(step, options)
        w, state, info = train_step(w, state, *batch, rate)
        step += 1
        seen += options.rows * options.length
        since.append([float(x) for x in info])
        if step % 20 == 0 or step == options.steps:
            mean = np.mean(since, axis=0)
            entry = {"step": step, "loss": mean[0], "right": mean[1], "dropped": mean[2], "norm": mean[3],
                     "imbalance": mean[4], "rate": rate, "tokens_per_second": seen / (time.time() - began)}
            since = []
            if step % options.save == 0 or step == options.steps:
                save(last, w, state, step)
                entry["scores"], loads = scorer(w)
                entry["least"] = float((loads / loads.mean(axis=1, keepdims=True)).min())
                if step % (5 * options.save) == 0 or step == options.steps:
                    save(options.out / f"step-{step:05}.npz", w, state, step)
            log.write(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()}) + "\n")
            log.flush()
    save(last, w, state, step)


if __name__ == "__main__":
    main()
