"""BailingMoeLinearV2ForCausalLM in JAX, for training: an implementation of its own, in float32.

Weights are a flat dict named like the checkpoint, except that query_key_value is three matrices ("q", "k",
"v") and the experts of a layer are stacked [E, out, in]. B sequences of T tokens, D hidden size, H heads,
d head size, E experts, K experts per token. Several documents share a sequence: segments [B, T] numbers
them from 1 and 0 is padding; no token sees another document.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 64  # tokens of a chunk of linear attention
BLOCK = 128  # queries of a block of softmax attention, more in long sequences


class Shape:
    """Sizes of a model; layers: one letter each, "l" for linear attention and "s" for softmax."""

    def __init__(self, layers="llslls", hidden=128, heads=4, kv_heads=2, head_dim=32, dense=384, expert=128,
                 experts=8, per_token=2, groups=4, kept_groups=2, norm_groups=2, vocab=640, theta=1e6,
                 rotary=0.5, scaling=2.5, eps=1e-6):
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})
        self.n_layers, self.rotary_dim = len(layers), int(head_dim * rotary)

    def config(self, eos, pad):
        """config.json of a checkpoint. All layers linear, or softmax only at other places than group ends,
        have no such file; an all-softmax model is a group of one layer."""
        group = self.layers.index("s") + 1
        assert self.layers == ("l" * (group - 1) + "s") * (self.n_layers // group)
        return {
            "architectures": ["BailingMoeLinearV2ForCausalLM"], "model_type": "bailing_moe_linear",
            "hidden_size": self.hidden, "num_hidden_layers": self.n_layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim, "intermediate_size": self.dense,
            "moe_intermediate_size": self.expert, "moe_shared_expert_intermediate_size": self.expert,
            "num_shared_experts": 1, "num_experts": self.experts, "num_experts_per_tok": self.per_token,
            "n_group": self.groups, "topk_group": self.kept_groups, "first_k_dense_replace": 1,
            "layer_group_size": group, "group_norm_size": self.norm_groups, "linear_silu": False,
            "use_qk_norm": True, "use_bias": False, "use_qkv_bias": False, "use_rmsnorm": True,
            "rms_norm_eps": self.eps, "hidden_act": "silu", "rope_theta": int(self.theta),
            "partial_rotary_factor": self.rotary, "rope_scaling": None, "max_position_embeddings": 32768,
            "score_function": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": self.scaling,
            "router_dtype": "fp32", "moe_router_enable_expert_bias": True, "num_nextn_predict_layers": 0,
            "vocab_size": self.vocab, "tie_word_embeddings": False, "eos_token_id": eos, "pad_token_id": pad,
            "torch_dtype": "bfloat16", "use_cache": True}


def initial(shape, seed=0):
    """Random weights; what writes into the residual stream begins small, the router at zero bias."""
    rng = np.random.default_rng(seed)

    def matrix(*size, gain=1.0):
        return rng.standard_normal(size, dtype=np.float32) * np.float32(gain / math.sqrt(size[-1]))

    s, w = shape, {}
    wide, narrow, small = s.heads * s.head_dim, s.kv_heads * s.head_dim, 1 / math.sqrt(2 * s.n_layers)
    w["embed"] = rng.standard_normal((s.vocab, s.hidden), dtype=np.float32) * np.float32(0.5)
    w["norm"], w["head"] = np.ones(s.hidden, np.float32), matrix(s.vocab, s.hidden, gain=0.5)
    for i, kind in enumerate(s.layers):
        p, other = f"{i}.", wide if kind == "l" else narrow
        w[p + "in_norm"], w[p + "post_norm"] = np.ones((2, s.hidden), np.float32)
        w[p + "q"], w[p + "k"], w[p + "v"] = (matrix(n, s.hidden) for n in (wide, other, other))
        w[p + "q_norm"], w[p + "k_norm"] = np.full((2, s.head_dim), 1.0 if kind == "l" else 1.5, np.float32)
        w[p + "dense"] = matrix(s.hidden, wide, gain=small)
        if kind == "l":
            w[p + "g"], w[p + "g_norm"] = matrix(wide, s.hidden), np.ones(wide, np.float32)
        mlp = [("mlp.", (), s.dense)] if i == 0 else [("experts.", (s.experts,), s.expert), ("shared.", (), s.expert)]
        for name, stack, width in mlp:
            w[p + name + "gate"], w[p + name + "up"] = (matrix(*stack, width, s.hidden) for _ in "gu")
            w[p + name + "down"] = matrix(*stack, s.hidden, width, gain=small)
        if i > 0:
            w[p + "router"], w[p + "bias"] = matrix(s.experts, s.hidden), np.zeros(s.experts, np.float32)
    return {name: jnp.asarray(value) for name, value in w.items()}


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def linear(x, weight):
    """x [..., in] times weight [out, in]."""
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def rope_tables(shape, n):
    """cos and sin [n, R / 2], computed in float64."""
    pairs = np.arange(shape.rotary_dim // 2)
    angle = np.arange(n)[:, None] * shape.theta ** (-2.0 * pairs / shape.rotary_dim)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rope(x, tables):
    """x [B, T, heads, d]: channel j of the first R pairs with j + R / 2."""
    cos, sin = (t[:, None, :] for t in tables)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def decay_rates(shape, layer):
    """[H]: -log of what the state is multiplied by at each token. H is a power of two here."""
    slopes = 2.0 ** (-8.0 * np.arange(1, shape.heads + 1) / shape.heads)
    return slopes * (1.0 - layer / (shape.n_layers - 1) + 1e-5)


def linear_attention(q, k, v, rates, segments):
    """q, k, v [B, T, H, d], T a multiple of CHUNK: S <- lambda S + k^T v, o = q S, chunk by chunk."""
    batch, length, heads, d = q.shape
    n = length // CHUNK
    q, k, v = (x.reshape(batch, n, CHUNK, heads, d) for x in (q, k, v))
    seg = segments.reshape(batch, n, CHUNK)
    i = np.arange(CHUNK)
    apart = i[:, None] - i[None, :]
    inside = np.where(apart >= 0, np.exp(-rates[:, None, None] * np.maximum(apart, 0)), 0.0).astype(np.float32)
    same = (seg[..., :, None] == seg[..., None, :]).astype(q.dtype)  # [B, n, C, C]
    scores = jnp.einsum("bnihd,bnjhd->bnhij", q, k) * inside * same[:, :, None]
    out = jnp.einsum("bnhij,bnjhd->bnihd", scores, v)
    # What each chunk adds to the state at its end, only of the document that is open there.
    to_end = np.exp(-rates[None, :] * (CHUNK - 1 - i)[:, None]).astype(np.float32)  # [C, H]
    open_at_end = (seg == seg[..., -1:]).astype(q.dtype)
    added = jnp.einsum("bnjhd,bnjhe->bnhde", k * (open_at_end[..., None] * to_end)[..., None], v)
    # The state before chunk c: sum of what chunks before it added to the document open at its start.
    c = np.arange(n)
    between = c[:, None] - 1 - c[None, :]
    carry = np.where(between >= 0, np.exp(-rates[:, None, None] * CHUNK * np.maximum(between, 0)), 0.0)
    before = jnp.concatenate([jnp.full((batch, 1), -1), seg[:, :-1, -1]], axis=1)  # [B, n]
    open_before = (before[:, :, None] == seg[:, None, :, -1]).astype(q.dtype)  # [B, c, c']
    carry = carry.astype(np.float32)[None] * open_before[:, None]
    states = jnp.einsum("bhcn,bnhde->bchde", carry, added)
    from_start = np.exp(-rates[None, :] * (i + 1)[:, None]).astype(np.float32)
    reads = (seg == before[..., None]).astype(q.dtype)
    out = out + jnp.einsum("bnihd,bnhde->bnihe", q * (reads[..., None] * from_start)[..., None], states)
    return out.reshape(batch, length, heads * d)


def softmax_attention(q, k, v, segments):
    """q [B, T, H, d], k, v [B, T, Hkv, d]; blocks of queries see the keys up to their end."""
    batch, length, heads, d = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, d)
    block, outs = min(max(BLOCK, length // 8), length), []
    for start in range(0, length, block):
        end = start + block
        scores = jnp.einsum("btkgd,bskd->bkgts", q[:, start:end], k[:, :end])
        past = np.arange(end)[None, :] <= np.arange(start, end)[:, None]
        seen = past & (segments[:, start:end, None] == segments[:, None, :end])
        scores = scores + jnp.where(seen, 0.0, -1e30)[:, None, None]
        p = jax.nn.softmax(scores, axis=-1)
        outs.append(jnp.einsum("bkgts,bskd->btkgd", p, v[:, :end]))
    return jnp.concatenate(outs, axis=1).reshape(batch, length, heads * d)


def attention(shape, w, layer, a, tables, segments):
    p, kind, d = f"{layer}.", shape.layers[layer], shape.head_dim
    q, k, v = w[p + "q"], w[p + "k"], w[p + "v"]
    qkv = linear(a, jnp.concatenate([q, k, v], axis=0))
    q, k, v = jnp.split(qkv, [q.shape[0], q.shape[0] + k.shape[0]], axis=-1)
    q, k, v = (x.reshape(*x.shape[:2], -1, d) for x in (q, k, v))
    q = rope(rms_norm(q, w[p + "q_norm"] * d ** -0.5, shape.eps), tables)
    k = rope(rms_norm(k, w[p + "k_norm"], shape.eps), tables)
    if kind == "s":
        return linear(softmax_attention(q, k, v, segments), w[p + "dense"])
    out = linear_attention(q, k, v, decay_rates(shape, layer), segments)
    grouped = out.reshape(*out.shape[:2], shape.norm_groups, -1)
    out = rms_norm(grouped, 1.0, shape.eps).reshape(out.shape) * w[p + "g_norm"]
    return linear(out * jax.nn.sigmoid(linear(a, w[p + "g"])), w[p + "dense"])


def swiglu(w, p, x):
    return linear(jax.nn.silu(linear(x, w[p + "gate"])) * linear(x, w[p + "up"]), w[p + "down"])


def route(shape, scores, bias):
    """scores [N, E] -> ids [N, K]: the best K of the experts of the best groups, lower index first."""
    ranked = jax.lax.stop_gradient(scores) + bias
    groups = ranked.reshape(-1, shape.groups, shape.experts // shape.groups)
    best_two = jax.lax.top_k(groups, 2)[0].sum(-1) if groups.shape[-1] > 2 else groups.sum(-1)
    kept = jax.lax.top_k(best_two, shape.kept_groups)[1]
    mask = jnp.any(kept[:, :, None] == jnp.arange(shape.groups), axis=1)
    return jax.lax.top_k(jnp.where(mask[:, :, None], groups, -jnp.inf).reshape(ranked.shape), shape.per_token)[1]


@jax.custom_vjp
def to_slots(x, source, places):
    """x [N, D] -> [S, D]: slot s holds token source[s] (N: none). places [N, K]: the slots of a token (S: none)."""
    return jnp.concatenate([x, jnp.zeros((1, x.shape[1]), x.dtype)])[source]


def _to_slots_forward(x, source, places):
    return to_slots(x, source, places), places


def _to_slots_backward(places, g):
    g = jnp.concatenate([g, jnp.zeros((1, g.shape[1]), g.dtype)])
    return sum(g[places[:, k]] for k in range(places.shape[1])), None, None


to_slots.defvjp(_to_slots_forward, _to_slots_backward)


@jax.custom_vjp
def from_slots(y, place, slot_of, weight):
    """y [S, D], place [N, K] -> [N, D]: the sum of a token's slots, each times weight [N, K]."""
    y = jnp.concatenate([y, jnp.zeros((1, y.shape[1]), y.dtype)])
    return sum(y[place[:, k]] * weight[:, k, None] for k in range(place.shape[1]))


def _from_slots_forward(y, place, slot_of, weight):
    return from_slots(y, place, slot_of, weight), (y, place, slot_of, weight)


def _from_slots_backward(saved, g):
    """slot_of [S]: index into the flattened [N, K] of what the slot holds (N K: nothing)."""
    y, place, slot_of, weight = saved
    n, k = place.shape
    flat = jnp.concatenate([weight.reshape(-1), jnp.zeros(1, weight.dtype)])[slot_of]
    g_pad = jnp.concatenate([g, jnp.zeros((1, g.shape[1]), g.dtype)])
    dy = g_pad[jnp.minimum(slot_of // k, n)] * flat[:, None]
    y_pad = jnp.concatenate([y, jnp.zeros((1, y.shape[1]), y.dtype)])
    dw = jnp.stack([jnp.sum(y_pad[place[:, j]] * g, axis=-1) for j in range(k)], axis=-1)
    return dy, None, None, dw


from_slots.defvjp(_from_slots_forward, _from_slots_backward)


def mixture(shape, w, p, x, capacity, valid):
    """x [N, D] -> ([N, D], tokens per expert [E], share of choices dropped).

    capacity: slots per expert as a multiple of the mean load; what does not fit is dropped, which
    balanced experts make rare. None: every expert runs on every token, as inference would have it."""
    n, k, e = x.shape[0], shape.per_token, shape.experts
    scores = jax.nn.sigmoid(linear(x, w[p + "router"]))
    ids = route(shape, scores, w[p + "bias"])
    chosen = jnp.take_along_axis(scores, ids, axis=1)
    weight = chosen / (chosen.sum(-1, keepdims=True) + 1e-20) * shape.scaling
    hot = ids[:, :, None] == jnp.arange(e)  # [N, K, E]
    load = jnp.sum(hot & valid[:, None, None], axis=(0, 1))
    gate, up, down = (w[p + "experts." + name] for name in ("gate", "up", "down"))
    if capacity is None:
        mix = jnp.einsum("nk,nke->ne", weight, hot.astype(x.dtype))
        inner = jax.nn.silu(jnp.einsum("nd,ehd->enh", x, gate)) * jnp.einsum("nd,ehd->enh", x, up)
        routed = jnp.einsum("enh,edh,ne->nd", inner, down, mix)
        return routed + swiglu(w, p + "shared.", x), load, 0.0
    slots = -(-int(capacity * n * k / e) // 16) * 16
    flat = jnp.where(valid[:, None], ids, e).reshape(-1)  # padding goes nowhere
    order = jnp.argsort(flat, stable=True)  # [N K], by expert
    starts = jnp.concatenate([jnp.zeros(1, load.dtype), jnp.cumsum(load)])[:e]
    within = jnp.arange(slots)[None, :]
    held = within < load[:, None]
    slot_of = jnp.where(held, order[jnp.minimum(starts[:, None] + within, n * k - 1)], n * k).reshape(-1)
    rank = jnp.zeros(n * k, order.dtype).at[order].set(jnp.arange(n * k, dtype=order.dtype))
    own = rank - jnp.concatenate([starts, jnp.zeros(1, starts.dtype)])[flat]
    place = jnp.where((own < slots) & (flat < e), flat * slots + own, e * slots).reshape(n, k)
    xs = to_slots(x, jnp.minimum(slot_of // k, n), place).reshape(e, slots, -1)
    inner = jax.nn.silu(jnp.einsum("esd,ehd->esh", xs, gate)) * jnp.einsum("esd,ehd->esh", xs, up)
    ys = jnp.einsum("esh,edh->esd", inner, down).reshape(e * slots, -1)
    routed = from_slots(ys, place, slot_of, weight)
    dropped = jnp.sum(jnp.maximum(load - slots, 0)) / jnp.maximum(load.sum(), 1)
    return routed + swiglu(w, p + "shared.", x), load, dropped


def forward(shape, w, tokens, segments, capacity=None):
    """tokens, segments [B, T] -> (logits [B, T, V], loads [layers - 1, E], share dropped)."""
    tables, eps, loads, drops = rope_tables(shape, tokens.shape[1]), shape.eps, [], []
    valid = (segments > 0).reshape(-1)
    h = w["embed"][tokens]
    for i in range(shape.n_layers):
        p = f"{i}."
        h = h + attention(shape, w, i, rms_norm(h, w[p + "in_norm"], eps), tables, segments)
        b = rms_norm(h, w[p + "post_norm"], eps)
        if i == 0:
            h = h + swiglu(w, p + "mlp.", b)
        else:
            out, load, dropped = mixture(shape, w, p, b.reshape(-1, shape.hidden), capacity, valid)
            h = h + out.reshape(h.shape)
            loads.append(load)
            drops.append(dropped)
    return linear(rms_norm(h, w["norm"], eps), w["head"]), jnp.stack(loads), jnp.mean(jnp.stack(drops))


def loss(shape, w, tokens, segments, mask, capacity):
    """Mean cross entropy of the next token where mask is 1. Gives (loss, (loads, dropped, right))."""
    logits, loads, dropped = forward(shape, w, tokens, segments, capacity)
    logits, targets, mask = logits[:, :-1], tokens[:, 1:], mask[:, 1:]
    top = jax.scipy.special.logsumexp(logits, axis=-1)
    hit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    right = jnp.sum((hit >= jnp.max(logits, axis=-1)) * mask) / mask.sum()
    return jnp.sum((top - hit) * mask) / mask.sum(), (loads, dropped, right)


gradient = partial(jax.value_and_grad, has_aux=True)
