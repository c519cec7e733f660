#!/usr/bin/env python3
"""Shows that the fixtures can tell a wrong model from a right one.

Each mutation breaks one thing in the reference; on the fixtures named with it the NMSE of the
logits must rise to at least 1e-7, a thousand times what an engine in f32 is allowed.
"""

import os
import sys

import numpy as np

import config as configs
import make_fixtures
import model
import safetensors_io

FLOOR = 1e-7
RIGHT = {name: getattr(model, name) for name in dir(model)}


def replaced_config(**changes):
    def apply(config, weights):
        for key, value in changes.items():
            setattr(config, key, value)
    return apply


def replaced_weights(part, change):
    def apply(config, weights):
        names = [name for name in weights if part in name]
        assert names, part
        for name in names:
            weights[name] = change(weights[name])
    return apply


def replaced_function(name, function):
    def apply(config, weights):
        setattr(model, name, function)
    return apply


def interleaved_rope(x, config):
    r = config.rotary_dim
    order = np.concatenate([np.arange(0, r, 2), np.arange(1, r, 2), np.arange(r, x.shape[-1])])
    return RIGHT["rope"](x[..., order], config)[..., np.argsort(order)]


def unrotated_linear(config, weights, prefix, qkv, kv_heads):
    model.rope = (lambda x, c: x) if kv_heads == config.num_attention_heads else RIGHT["rope"]
    return RIGHT["split_heads"](config, weights, prefix, qkv, kv_heads)


def late_state(q, k, v, lam):
    """The current token's own product decays too."""
    return RIGHT["linear_recurrence"](q, k * lam[:, None], v, lam)


def power_of_two_slopes(n):
    return 2.0 ** (-8.0 * np.arange(1, n + 1) / n)


def biased_weights(config, scores, bias):
    ids, margin = RIGHT["route"](config, scores, bias)
    scores += bias  # the caller takes its weights from here
    return ids, margin


def ungrouped(config, scores, bias):
    ranked = np.argsort(-(scores + bias), kind="stable")
    return ranked[:config.num_experts_per_tok], 1.0


def best_of_group(config, scores, bias):
    groups = (scores + bias).reshape(config.n_group, -1)
    kept = np.argsort(-groups.max(axis=1), kind="stable")[:config.topk_group]
    masked = np.full_like(groups, -np.inf)
    masked[kept] = groups[kept]
    return np.argsort(-masked.reshape(-1), kind="stable")[:config.num_experts_per_tok], 1.0


HYBRID = ["base-bf16", "ragged-tail", "heads-12", "fp8-block"]
MUTATIONS = {
    "decay of the next layer": (replaced_config(decay_offset=-1), HYBRID + ["decay-offset-1"]),
    "decay_offset ignored": (replaced_config(decay_offset=0), ["decay-offset-1"]),
    "decays of heads reversed": (
        replaced_function("slopes", lambda n: RIGHT["slopes"](n)[::-1]), HYBRID + ["slopes-32"]),
    "slopes by the closed form": (replaced_function("slopes", power_of_two_slopes), ["heads-12"]),
    "current token decays": (replaced_function("linear_recurrence", late_state), ["ragged-tail"]),
    "q unscaled in linear layers": (
        replaced_function("linear_recurrence",
                          lambda q, k, v, lam: RIGHT["linear_recurrence"](4 * q, k, v, lam)),
        ["ragged-tail", "fp8-block"]),
    "no RoPE in linear layers": (replaced_function("split_heads", unrotated_linear), HYBRID),
    "interleaved RoPE": (replaced_function("rope", interleaved_rope), HYBRID + ["rotary-full"]),
    "partial rotary factor": (replaced_config(rotary_dim=8), ["rotary-full"]),
    "rope_theta": (replaced_config(rope_theta=600000.0), HYBRID),
    "YaRN ignored": (replaced_config(rope_scaling=None), ["yarn", "softmax-only-fp8"]),
    "one group of the gated norm": (replaced_config(group_norm_size=1), HYBRID),
    "gate": (replaced_weights("g_proj", lambda w: 0 * w), HYBRID),
    "SiLU": (replaced_config(linear_silu=False), ["linear-silu"]),
    "qk norm": (replaced_config(use_qk_norm=False), HYBRID + ["softmax-only"]),
    "qkv bias": (replaced_config(use_qkv_bias=False), ["biases"]),
    "dense bias": (replaced_config(use_bias=False), ["biases"]),
    "shared experts": (replaced_config(num_shared_experts=0), HYBRID + ["two-shared"]),
    "expert bias": (replaced_config(moe_router_enable_expert_bias=False), HYBRID),
    "bias in the weights": (replaced_function("route", biased_weights), HYBRID),
    "groups ignored": (replaced_function("route", ungrouped), HYBRID + ["all-moe"]),
    "group score": (replaced_function("route", best_of_group), HYBRID + ["all-moe"]),
    "renormalised": (replaced_config(norm_topk_prob=True), ["no-renorm"]),
    "routed scale": (replaced_config(routed_scaling_factor=1.0), HYBRID + ["no-renorm"]),
    "score function": (replaced_config(score_function="sigmoid"), ["softmax-scores"]),
    "norm epsilon": (replaced_config(rms_norm_eps=1e-5), ["ragged-tail", "softmax-only"]),
    "an FP8 scale": (replaced_weights("layers.1.attention.dense", lambda w: 1.01 * w),
                     ["fp8-block", "fp8-row", "mixed"]),
    "the head's scale": (replaced_weights("lm_head", lambda w: 1.01 * w), ["fp8-head"]),
    "the table's scale": (replaced_weights("word_embeddings", lambda w: 1.01 * w),
                          ["random-types"]),
    "a router's scale": (replaced_weights("layers.1.mlp.gate.weight", lambda w: 1.1 * w),
                         ["random-types"]),
    "one expert's scale": (replaced_weights("layers.2.mlp.experts.6.up_proj", lambda w: 1.01 * w),
                           ["random-types"]),
}


def logits_of(directory, mutation, tokens):
    config, weights = configs.read_config(directory), safetensors_io.read_weights(directory)
    mutation(config, weights)
    try:
        return model.forward(config, weights, tokens).logits
    finally:
        for name, value in RIGHT.items():
            setattr(model, name, value)


def main():
    failed = False
    for name, (mutation, variants) in MUTATIONS.items():
        for variant in variants:
            directory = os.path.join(make_fixtures.DIRECTORY, variant)
            golden = np.load(os.path.join(directory, "golden_logits.npy")).astype(np.float64)
            tokens = make_fixtures.read_golden(directory)["tokens"]
            error = make_fixtures.nmse(logits_of(directory, mutation, tokens), golden)
            failed |= not error >= FLOOR
            print(f"{name} on {variant}: NMSE {error:.1e}{'' if error >= FLOOR else ' TOO SMALL'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
