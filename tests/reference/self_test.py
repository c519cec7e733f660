#!/usr/bin/env python3
"""Tests of the reference itself: test vectors of the specification, codecs, and the chunked form of
linear attention against the recurrence."""

import math
import os
import tempfile

import numpy as np

import config as configs
import dtypes
import fixtures
import model
import safetensors_io


def close(a, b, relative):
    assert np.allclose(a, b, rtol=relative, atol=0), (a, b)


def test_slopes():
    close(model.slopes(16)[:4], [0.70710678, 0.5, 0.35355339, 0.25], 1e-7)
    close(model.slopes(16)[-1], 0.00390625, 1e-15)
    close(model.slopes(32)[0], 0.84089642, 1e-7)
    close(model.slopes(12)[:8], [2.0 ** -i for i in range(1, 9)], 1e-15)
    close(model.slopes(12)[8:], [0.70711, 0.35355, 0.17678, 0.088388], 1e-4)


def mini(**changes):
    return configs.Config({**fixtures.BASE, "num_attention_heads": 16, "num_hidden_layers": 20,
                           "layer_group_size": 5, "head_dim": 128, "rope_theta": 1e6, **changes})


def test_decay():
    close(model.decay(mini(), 0)[0], 0.4930652, 1e-6)
    close(model.decay(mini(decay_offset=1), 0)[0], 0.4750525, 1e-6)
    close(model.decay(mini(), 9)[0], 0.6892381, 1e-6)
    close(model.decay(mini(), 18)[[0, 15]], [0.9634611, 0.9997944], 1e-6)
    close(model.decay(mini(decay_offset=1), 18)[[0, 15]], [0.9282638, 0.9995889], 1e-6)


def test_layer_kinds():
    assert [i for i in range(20) if mini().is_softmax(i)] == [4, 9, 14, 19]
    ragged = mini(num_hidden_layers=8, layer_group_size=3)
    assert [i for i in range(8) if ragged.is_softmax(i)] == [2, 5, 6, 7]


def test_rope():
    frequencies, factor = model.inverse_frequencies(mini())
    close(frequencies[[0, 1, 31]], [1.0, 0.64938163, 1.5399265e-06], 1e-7)
    assert factor == 1.0
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 131072}
    yarn, factor = model.inverse_frequencies(mini(rope_scaling=scaling))
    close(factor, 1.138629, 1e-6)
    close(yarn[:16], frequencies[:16], 1e-15)        # low = 15
    close(yarn[24:], frequencies[24:] / 4, 1e-15)    # high = 24
    close(yarn[20], frequencies[20] * (4 / 9 + 5 / 9 / 4), 1e-14)


def chunked(q, k, v, lam, size):
    """Linear attention of one head by chunks: powers of lam inside, a state between."""
    state, out = np.zeros((q.shape[1], v.shape[1])), np.empty_like(v)
    for begin in range(0, len(q), size):
        a, b, c = (x[begin:begin + size] for x in (q, k, v))
        i = np.arange(len(a))
        mask = np.tril(lam ** np.maximum(i[:, None] - i, 0))
        out[begin:begin + size] = (a @ b.T * mask) @ c + lam ** (i[:, None] + 1) * (a @ state)
        state = lam ** len(a) * state + (b * lam ** (len(a) - 1 - i)[:, None]).T @ c
    return out


def test_linear_attention():
    random = fixtures.Random("linear attention")
    q, k, v = (random.uniform((150, 3, 8), -1, 1) for _ in range(3))
    lam = np.exp(-np.array([0.0, 0.0625, 0.84]))
    steps = model.linear_recurrence(q, k, v, lam)
    for head in range(3):
        for size in (1, 32, 64):
            part = chunked(q[:, head], k[:, head], v[:, head], lam[head], size)
            assert np.max(np.abs(part - steps[:, head])) < 1e-12


def test_e4m3():
    table = dtypes.E4M3_TABLE
    assert table[0x7E] == 448 and table[1] == 2.0 ** -9 and table[0x88] == -2.0 ** -6
    assert math.isnan(table[0x7F]) and math.isnan(table[0xFF]) and np.isnan(table).sum() == 2
    codes = np.array([c for c in range(256) if c & 0x7F != 0x7F], np.uint8)
    assert np.array_equal(dtypes.encode_e4m3(table[codes]), codes)
    for low in range(126):  # midpoints go to the even code, a little more or less to its side
        middle = (table[low] + table[low + 1]) / 2
        for sign, bit in ((1, 0), (-1, 0x80)):
            near = sign * middle * np.array([1 - 1e-9, 1, 1 + 1e-9])
            assert list(dtypes.encode_e4m3(near) ^ bit) == [low, low + low % 2, low + 1]
    assert list(dtypes.encode_e4m3(np.array([1e9, -1e9]))) == [0x7E, 0xFE]


def test_bf16():
    words = np.array([0x3F80, 0x3F81, 0x8001, 0x7F7F], np.uint16)
    assert np.array_equal(dtypes.encode_bf16(dtypes.decode(words, "BF16")), words)
    one = 1.0 + 2.0 ** -8 * np.array([0.99, 1.0, 1.01, 2.99, 3.0])
    assert list(dtypes.encode_bf16(one) - 0x3F80) == [0, 0, 1, 1, 2]


def test_checkpoint():
    random = fixtures.Random("checkpoint")
    weights = {"model.layers.0.attention.dense.weight": random.uniform((130, 140), -3, 3),
               "lm_head.weight": random.uniform((5, 7), -3, 3)}
    for name, tolerance in (("f32", 1e-7), ("base-bf16", 2.0 ** -8), ("fp8-block", 2.0 ** -4),
                            ("fp8-row", 2.0 ** -4), ("mixed", 2.0 ** -4), ("sharded", 2.0 ** -8)):
        variant = next(v for v in fixtures.VARIANTS if v.name == name)
        with tempfile.TemporaryDirectory() as directory:
            tensors = fixtures.stored_tensors(variant, weights)
            safetensors_io.write_checkpoint(directory, tensors, min(variant.shards, 2))
            read = safetensors_io.read_weights(directory)
            assert len(os.listdir(directory)) == (3 if variant.shards > 1 else 1)
        for key, value in weights.items():  # relative, and the smallest step of FP8 at scale 1/448
            assert np.all(np.abs(read[key] - value) <= tolerance * np.abs(value) + 2e-5), name


def test_routing():
    config = mini(num_experts=8, n_group=4, topk_group=2, num_experts_per_tok=2)
    scores = np.array([0.9, 0.0, 0.5, 0.47, 0.6, 0.45, 0.1, 0.1])
    ids, margin = model.route(config, scores, np.zeros(8))
    assert list(ids) == [4, 2] and abs(margin - 0.03) < 1e-12  # groups 1 and 2 win
    ids, margin = model.route(config, np.full(8, 0.5), np.zeros(8))
    assert list(ids) == [0, 1] and margin == 0.0


if __name__ == "__main__":
    for test_name, test in list(globals().items()):
        if test_name.startswith("test_"):
            test()
            print(f"{test_name}: ok")
