"""The models in float64, written from their specification and nothing else: the yardstick of tests.

BailingMoeLinearV2ForCausalLM (linear and softmax attention) and BailingMoeV2ForCausalLM (softmax
only). One sequence from position 0; T tokens, D hidden size, H heads, hd head size, E experts. No
step is fused, blocked or cached: linear attention is the plain recurrence.

Biases follow the family's published modelling code: use_qkv_bias puts one on query_key_value,
use_bias one on attention.dense; the MLP projections, g_proj and the router never have any.
"""

import math

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rms_norm(x, weight, eps):
    """Over the last dimension."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


# ---- positions and decay -----------------------------------------------------------------------


def inverse_frequencies(config):
    """([rotary_dim / 2] radians per position, factor of cos and sin)."""
    d, theta, scaling = config.rotary_dim, config.rope_theta, config.rope_scaling
    pairs = np.arange(d // 2)
    frequencies = theta ** (-2.0 * pairs / d)
    if scaling is None:
        return frequencies, 1.0
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind != "yarn":
        raise ValueError(f"rope_scaling {kind} is not known")
    factor = scaling["factor"]
    original = scaling["original_max_position_embeddings"]

    def correction(rotations):
        return d * math.log(original / (2 * math.pi * rotations)) / (2 * math.log(theta))

    # Clamped to the dimensions there are, as the published implementations do.
    low = max(math.floor(correction(scaling.get("beta_fast", 32))), 0)
    high = min(math.ceil(correction(scaling.get("beta_slow", 1))), d - 1)
    ramp = np.clip((pairs - low) / max(high - low, 0.001), 0.0, 1.0)
    attention_factor = scaling.get("attention_factor") or 0.1 * math.log(factor) + 1.0
    return frequencies * ((1.0 - ramp) + ramp / factor), attention_factor


def rope(x, config):
    """x [T, heads, hd]: channel j of the first rotary_dim pairs with j + rotary_dim / 2."""
    frequencies, factor = inverse_frequencies(config)
    angle = np.arange(len(x))[:, None] * frequencies
    cos, sin = (np.cos(angle) * factor)[:, None, :], (np.sin(angle) * factor)[:, None, :]
    half = config.rotary_dim // 2
    first, second, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def slopes(n_heads):
    """[H]: geometric; for other H than powers of two, those of the power below, then every second
    one of the power above."""
    power = 2 ** math.floor(math.log2(n_heads))

    def geometric(n):
        return [2.0 ** (-8.0 * (head + 1) / n) for head in range(n)]

    return np.array(geometric(power) + geometric(2 * power)[0::2][:n_heads - power])


def decay(config, layer):
    """[H] lambda: what the state is multiplied by at each token."""
    last = config.num_hidden_layers - 1
    depth = (layer - config.decay_offset) / last if last > 0 else 0.0
    return np.exp(-slopes(config.num_attention_heads) * (1.0 - depth + 1e-5))


# ---- attention ---------------------------------------------------------------------------------


def linear_recurrence(q, k, v, lam):
    """q, k, v [T, H, hd], lam [H]: S <- lam S + k^T v; o = q S. Returns o [T, H, hd]."""
    n_tokens, n_heads, head_dim = q.shape
    state = np.zeros((n_heads, head_dim, head_dim))
    out = np.empty_like(q)
    for t in range(n_tokens):
        state = lam[:, None, None] * state + k[t][:, :, None] * v[t][:, None, :]
        out[t] = np.matmul(q[t][:, None, :], state)[:, 0, :]
    return out


def split_heads(config, weights, prefix, qkv, kv_heads):
    """q [T, H, hd], k, v [T, kv_heads, hd], q and k normed and rotated."""
    heads, head_dim = config.num_attention_heads, config.head_dim
    q, k, v = np.split(qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=-1)
    q, k, v = (x.reshape(len(qkv), -1, head_dim) for x in (q, k, v))
    if config.use_qk_norm:
        q = rms_norm(q, weights[prefix + "query_layernorm.weight"], config.rms_norm_eps)
        k = rms_norm(k, weights[prefix + "key_layernorm.weight"], config.rms_norm_eps)
    return rope(q, config), rope(k, config), v


def linear_attention(config, weights, prefix, layer, qkv, a):
    """qkv [T, 3 H hd], a [T, D] the layer's normed input -> [T, H hd], before attention.dense."""
    if config.linear_silu:
        qkv = silu(qkv)
    q, k, v = split_heads(config, weights, prefix, qkv, config.num_attention_heads)
    out = linear_recurrence(q * config.head_dim ** -0.5, k, v, decay(config, layer))
    groups = out.reshape(len(a), config.group_norm_size, -1)
    normed = rms_norm(groups, 1.0, config.rms_norm_eps).reshape(len(a), -1)
    gate = sigmoid(a @ weights[prefix + "g_proj.weight"].T)
    return normed * weights[prefix + "g_norm.weight"] * gate


def softmax_attention(config, weights, prefix, qkv):
    """qkv [T, (H + 2 Hkv) hd] -> [T, H hd]."""
    kv_heads = config.num_key_value_heads
    q, k, v = split_heads(config, weights, prefix, qkv, kv_heads)
    k = k.repeat(config.num_attention_heads // kv_heads, axis=1)
    v = v.repeat(config.num_attention_heads // kv_heads, axis=1)
    n_tokens = len(qkv)
    scores = np.einsum("thd,shd->hts", q, k) * config.head_dim ** -0.5
    scores = np.where(np.tri(n_tokens, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return np.einsum("hts,shd->thd", p, v).reshape(n_tokens, -1)


def attention(config, weights, layer, a):
    prefix = f"model.layers.{layer}.attention."
    qkv = a @ weights[prefix + "query_key_value.weight"].T
    if config.use_qkv_bias:
        qkv = qkv + weights[prefix + "query_key_value.bias"]
    if config.is_softmax(layer):
        mixed = softmax_attention(config, weights, prefix, qkv)
    else:
        mixed = linear_attention(config, weights, prefix, layer, qkv, a)
    out = mixed @ weights[prefix + "dense.weight"].T
    return out + weights[prefix + "dense.bias"] if config.use_bias else out


# ---- feed forward ------------------------------------------------------------------------------


def swiglu(weights, prefix, x):
    gate = x @ weights[prefix + "gate_proj.weight"].T
    up = x @ weights[prefix + "up_proj.weight"].T
    return (silu(gate) * up) @ weights[prefix + "down_proj.weight"].T


def gap(ascending, n):
    """From the n-th largest to the next of an ascending list; infinite when there is no next."""
    return ascending[-n] - ascending[-n - 1] if len(ascending) > n else math.inf


def route(config, scores, bias):
    """One token. scores, bias [E] -> (ids [K] in descending order, margin to another choice)."""
    ranked = scores + bias
    groups = ranked.reshape(config.n_group, -1)
    group_scores = np.sort(groups, axis=1)[:, -2:].sum(axis=1)
    kept = np.argsort(-group_scores, kind="stable")[:config.topk_group]
    masked = np.full_like(groups, -np.inf)
    masked[kept] = groups[kept]
    ids = np.argsort(-masked.reshape(-1), kind="stable")[:config.num_experts_per_tok]
    margin = min(gap(np.sort(group_scores), config.topk_group),
                 gap(np.sort(groups[kept].reshape(-1)), config.num_experts_per_tok))
    return ids, margin


def mixture(config, weights, prefix, x, margins):
    """x [T, D] -> [T, D]; lowers margins [T] to the routing margins found here."""
    logits = x @ weights[prefix + "gate.weight"].T
    if config.score_function == "softmax":
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    else:
        scores = sigmoid(logits)
    bias = np.zeros(config.num_experts)
    if config.moe_router_enable_expert_bias:
        bias = weights[prefix + "gate.expert_bias"]
    mix = np.zeros_like(scores)  # [T, E] weight of each expert
    for t, token_scores in enumerate(scores):
        ids, margin = route(config, token_scores, bias)
        margins[t] = min(margins[t], margin)
        w = token_scores[ids]
        if config.norm_topk_prob:
            w = w / (w.sum() + 1e-20)
        mix[t, ids] = w * config.routed_scaling_factor
    out = np.zeros_like(x)
    for expert in range(config.num_experts):
        tokens = np.nonzero(mix[:, expert])[0]
        if len(tokens):
            y = swiglu(weights, f"{prefix}experts.{expert}.", x[tokens])
            out[tokens] += mix[tokens, expert, None] * y
    if config.num_shared_experts > 0:
        out += swiglu(weights, prefix + "shared_experts.", x)
    return out


# ---- the whole ---------------------------------------------------------------------------------


class Result:
    """logits [T, V]; hidden [L + 1, T, D]: the residual stream after the embedding and every layer;
    margins [T]: the smallest distance of a routing decision of the token from another one."""

    def __init__(self, logits, hidden, margins):
        self.logits, self.hidden, self.margins = logits, hidden, margins


def forward(config, weights, tokens):
    h = weights["model.word_embeddings.weight"][np.asarray(tokens)]
    hidden, margins, eps = [h], np.full(len(h), np.inf), config.rms_norm_eps
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        a = rms_norm(h, weights[prefix + "input_layernorm.weight"], eps)
        h = h + attention(config, weights, layer, a)
        b = rms_norm(h, weights[prefix + "post_attention_layernorm.weight"], eps)
        if config.is_dense(layer):
            h = h + swiglu(weights, prefix + "mlp.", b)
        else:
            h = h + mixture(config, weights, prefix + "mlp.", b, margins)
        hidden.append(h)
    head = "model.word_embeddings.weight" if config.tie_word_embeddings else "lm_head.weight"
    logits = rms_norm(h, weights["model.norm.weight"], eps) @ weights[head].T
    return Result(logits, np.array(hidden), margins)
