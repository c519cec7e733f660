"""The checkpoints of tests/fixtures/models: what each variant is, and its synthetic weights.

Magnitudes are like those of a trained net: every part of a layer moves the logits visibly. Numbers
are uniform and come from Philox words directly, so that they depend on no library version.
"""

import zlib

import numpy as np

import dtypes
import safetensors_io

# Keys as published; variants override them.
BASE = {
    "architectures": ["BailingMoeLinearV2ForCausalLM"], "model_type": "bailing_moe_linear",
    "hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 80, "moe_intermediate_size": 12,
    "moe_shared_expert_intermediate_size": 12, "num_shared_experts": 1, "num_experts": 8,
    "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
    "layer_group_size": 3, "group_norm_size": 2, "linear_silu": False, "use_qk_norm": True,
    "use_bias": False, "use_qkv_bias": False, "use_rmsnorm": True, "rms_norm_eps": 1e-3,
    "hidden_act": "silu", "rope_theta": 10000, "partial_rotary_factor": 0.5, "rope_scaling": None,
    "max_position_embeddings": 512, "score_function": "sigmoid", "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "router_dtype": "fp32", "moe_router_enable_expert_bias": True,
    "num_nextn_predict_layers": 0, "vocab_size": 96, "tie_word_embeddings": False,
    "eos_token_id": 95, "pad_token_id": 95, "torch_dtype": "bfloat16", "use_cache": True,
}

SOFTMAX_ONLY = {"architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe",
                "layer_group_size": None, "group_norm_size": None, "linear_silu": None}

# Sizes at which FP8 blocks of 128 are cut at the right and at the bottom of most matrices.
FP8_SIZES = {"hidden_size": 144, "head_dim": 16, "intermediate_size": 136,
             "moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 12,
             "rms_norm_eps": 1e-2}

BLOCK_CONFIG = {"quantization_config": {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [128, 128]}}

ROW_CONFIG = {"quantization_config": {
    "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
        "num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}}}}}

PROJECTIONS = ("query_key_value.weight", "dense.weight", "g_proj.weight", "gate_proj.weight",
               "up_proj.weight", "down_proj.weight")


def is_projection(name):
    return name.endswith(PROJECTIONS)


def all_as(dtype):
    return lambda name: dtype


def stored_bf16(name):
    return "F32" if name.endswith("expert_bias") else "BF16"


def stored_block(name):
    return "BLOCK" if is_projection(name) else stored_bf16(name)


def stored_row(name):
    return "ROW" if is_projection(name) else stored_bf16(name)


def stored_head(name):
    return "ROW" if name == "lm_head.weight" else stored_block(name)


def stored_mixed(name):
    """A different type for every kind of tensor."""
    kinds = {"shared_experts": "BF16", ".experts.": "BLOCK", "g_proj": "F16", "expert_bias": "BF16",
             "query_key_value": "ROW", "attention.dense": "ROW", "norm": "F32", "mlp.gate.": "F32",
             "word_embeddings": "F16", "lm_head": "F32"}
    return next((dtype for part, dtype in kinds.items() if part in name), "BF16")


FLOATING = ("F32", "F16", "BF16")
# What the weights of one part of a layer's experts are drawn from.
EXPERT_POOLS = (FLOATING + ("BLOCK", "ROW"), ("BLOCK", "ROW"), ("BF16", "BLOCK"))


def draw(choices, name):
    """The number 789 gives FP8 to the table and to both routers, and all kinds to others."""
    return choices[int(Random(f"type 789 of {name}").uniform((1,), 0, len(choices))[0])]


def stored_random(name):
    """A type drawn for every tensor, an expert's weights and scales too; vectors stay floating."""
    if "norm" in name or name.endswith(("bias", "_scale", "_scale_inv")):
        return draw(FLOATING, name)
    if ".experts." in name:
        layer, part = name.split(".")[2], name.split(".")[-2]
        return draw(draw(EXPERT_POOLS, f"layer {layer}, {part}"), name)
    return draw(FLOATING + ("BLOCK", "ROW"), name)


def all_f32(name):
    return "F32"


class Variant:
    """One fixture. stored(name): F32, F16, BF16, or FP8 with BLOCK or ROW scales; of scales, whose
    names it is given by stored_scale(name), a floating type."""

    def __init__(self, name, config=None, stored=stored_bf16, prompt=70, generate=12, shards=1,
                 row_scale_columns=True, stored_scale=all_f32):
        self.name, self.stored, self.shards = name, stored, shards
        self.stored_scale = stored_scale
        self.prompt, self.generate = prompt, generate
        self.row_scale_columns = row_scale_columns  # scales [N, 1] rather than [N]
        merged = {**BASE, **(config or {})}
        self.config = {key: value for key, value in merged.items()
                       if value is not None or key == "rope_scaling"}


VARIANTS = [
    Variant("base-bf16", {"rms_norm_eps": 1e-6, "rope_theta": 1000000, "hidden_size": 64,
                          "num_hidden_layers": 4, "layer_group_size": 2},
            prompt=150, generate=24),
    Variant("ragged-tail", {"num_hidden_layers": 5, "layer_group_size": 3, "rms_norm_eps": 1e-2},
            prompt=130),
    Variant("heads-12", {"num_attention_heads": 12, "num_key_value_heads": 4, "group_norm_size": 3,
                         "hidden_size": 48}),
    Variant("slopes-32", {"num_attention_heads": 32, "num_key_value_heads": 4, "hidden_size": 32,
                          "group_norm_size": 4, "num_hidden_layers": 2, "layer_group_size": 2}),
    Variant("linear-silu", {"use_linear_silu": True, "linear_silu": False}),
    Variant("no-qk-norm", {"use_qk_norm": False}),
    Variant("biases", {"use_qkv_bias": True, "use_bias": True}),
    Variant("all-moe", {"first_k_dense_replace": 0, "hidden_size": 48}),
    Variant("all-dense", {"first_k_dense_replace": 3, "intermediate_size": 100}),
    Variant("no-shared", {"num_shared_experts": 0}, prompt=60, generate=16),
    Variant("two-shared", {"num_shared_experts": 2}),
    Variant("one-group", {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 3}),
    Variant("no-renorm", {"norm_topk_prob": False, "routed_scaling_factor": 1.5}),
    Variant("softmax-scores", {"score_function": "softmax", "num_experts": 12}),
    Variant("tied", {"tie_word_embeddings": True}),
    Variant("rotary-full", {"partial_rotary_factor": 1.0}),
    Variant("yarn", {"head_dim": 32, "partial_rotary_factor": 1.0, "max_position_embeddings": 2048,
                     "rope_scaling": {"type": "yarn", "factor": 4.0,
                                      "original_max_position_embeddings": 512}}, prompt=110),
    Variant("f16", {"torch_dtype": "float16"}, stored=all_as("F16")),
    Variant("f32", {"torch_dtype": "float32"}, stored=all_as("F32")),
    Variant("fp8-block", {**FP8_SIZES, **BLOCK_CONFIG}, stored=stored_block, prompt=90),
    Variant("fp8-row", {**FP8_SIZES, **ROW_CONFIG}, stored=stored_row),
    Variant("fp8-head", {**FP8_SIZES, **BLOCK_CONFIG, "vocab_size": 136}, stored=stored_head),
    Variant("mixed", {**FP8_SIZES, **BLOCK_CONFIG, "hidden_size": 136}, stored=stored_mixed,
            row_scale_columns=False),
    Variant("random-types", {**FP8_SIZES, **BLOCK_CONFIG, "vocab_size": 136,
                             "intermediate_size": 40, "tie_word_embeddings": True},
            stored=stored_random, prompt=40, generate=8, stored_scale=stored_random),
    Variant("decay-offset-1", {"decay_offset": 1, "num_hidden_layers": 4, "layer_group_size": 2}),
    Variant("no-expert-bias", {"moe_router_enable_expert_bias": False, "num_experts_per_tok": 1}),
    Variant("head-dim-128", {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1,
                             "num_hidden_layers": 2, "layer_group_size": 2}),
    Variant("softmax-only", SOFTMAX_ONLY, prompt=140),
    Variant("softmax-only-fp8",
            {**FP8_SIZES, **BLOCK_CONFIG, **SOFTMAX_ONLY, "head_dim": 32,
             "max_position_embeddings": 2048,
             "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                              "original_max_position_embeddings": 256}}, stored=stored_block),
    Variant("sharded", {"num_hidden_layers": 5, "layer_group_size": 4, "moe_intermediate_size": 8,
                        "moe_shared_expert_intermediate_size": 8}, shards=3),
]


class Random:
    """Uniform numbers from the words of a Philox generator keyed by a text."""

    def __init__(self, text):
        self.generator = np.random.Philox(key=zlib.crc32(text.encode()))

    def uniform(self, shape, low, high):
        words = self.generator.random_raw(int(np.prod(shape))) >> np.uint64(11)
        return (low + (high - low) * (words.astype(np.float64) * 2.0 ** -53)).reshape(shape)

    def matrix(self, n_out, n_in, gain):
        """[n_out, n_in] such that inputs of size 1 give outputs of about `gain`, rows uneven."""
        bound = gain * np.sqrt(3.0 / n_in)
        return self.uniform((n_out, n_in), -bound, bound) * self.uniform((n_out, 1), 0.6, 1.4)

    def tokens(self, n, vocab_size):
        return [int(x) for x in self.uniform((n,), 0, vocab_size)]


def swiglu_weights(random, prefix, width, hidden_size, gain):
    return {prefix + "gate_proj.weight": random.matrix(width, hidden_size, 1.5),
            prefix + "up_proj.weight": random.matrix(width, hidden_size, 1.0),
            prefix + "down_proj.weight": random.matrix(hidden_size, width, gain)}


def attention_weights(random, prefix, config, is_softmax):
    c = config
    width = c.num_attention_heads * c.head_dim
    rows = width + 2 * c.num_key_value_heads * c.head_dim if is_softmax else 3 * width
    w = {"query_key_value.weight": random.matrix(rows, c.hidden_size, 1.0),
         "dense.weight": random.matrix(c.hidden_size, width, 1.0)}
    if c.use_qkv_bias:
        w["query_key_value.bias"] = random.uniform((rows,), -0.5, 0.5)
    if c.use_bias:
        w["dense.bias"] = random.uniform((c.hidden_size,), -0.5, 0.5)
    if c.use_qk_norm:
        w["query_layernorm.weight"] = random.uniform((c.head_dim,), 0.8, 1.8)
        w["key_layernorm.weight"] = random.uniform((c.head_dim,), 0.8, 1.8)
    if not is_softmax:
        w["g_proj.weight"] = random.matrix(width, c.hidden_size, 1.0)
        w["g_norm.weight"] = random.uniform((width,), 0.5, 1.5)
    return {prefix + name: value for name, value in w.items()}


def mlp_weights(random, prefix, config, is_dense):
    c = config
    if is_dense:
        return swiglu_weights(random, prefix, c.intermediate_size, c.hidden_size, 1.0)
    w = {prefix + "gate.weight": random.matrix(c.num_experts, c.hidden_size, 1.5)}
    if c.moe_router_enable_expert_bias:
        spread = 0.1 if c.score_function == "sigmoid" else 0.02
        w[prefix + "gate.expert_bias"] = random.uniform((c.num_experts,), -spread, spread)
    for expert in range(c.num_experts):
        w.update(swiglu_weights(random, f"{prefix}experts.{expert}.", c.moe_intermediate_size,
                                c.hidden_size, 0.8))
    if c.num_shared_experts > 0:
        w.update(swiglu_weights(random, prefix + "shared_experts.",
                                c.moe_intermediate_size * c.num_shared_experts, c.hidden_size, 1.0))
    return w


def make_weights(random, config):
    """{name: float64 array}, before rounding to what the file stores."""
    c = config
    w = {"model.word_embeddings.weight": random.uniform((c.vocab_size, c.hidden_size), -0.9, 0.9)}
    for layer in range(c.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        w[prefix + "input_layernorm.weight"] = random.uniform((c.hidden_size,), 0.6, 1.4)
        w.update(attention_weights(random, prefix + "attention.", c, c.is_softmax(layer)))
        w[prefix + "post_attention_layernorm.weight"] = random.uniform((c.hidden_size,), 0.6, 1.4)
        w.update(mlp_weights(random, prefix + "mlp.", c, c.is_dense(layer)))
    w["model.norm.weight"] = random.uniform((c.hidden_size,), 0.6, 1.4)
    if not c.tie_word_embeddings:
        w["lm_head.weight"] = random.matrix(c.vocab_size, c.hidden_size, 3.0)
    return w


def block_scales(name, w):
    """Scales [ceil(N/128), ceil(K/128)] as the family's converter makes them: those of
    attention.dense and of routed gate and up are rounded up to a power of two."""
    rows, columns = -(-w.shape[0] // 128), -(-w.shape[1] // 128)
    padded = np.zeros((rows * 128, columns * 128))
    padded[:w.shape[0], :w.shape[1]] = np.abs(w)
    scale = padded.reshape(rows, 128, columns, 128).max(axis=(1, 3)).clip(1e-4) / 448.0
    if "attention.dense" in name or ".experts." in name and "down_proj" not in name:
        scale = 2.0 ** np.ceil(np.log2(scale))
    return scale.astype(np.float32)


def stored_fp8(variant, name, w, kind):
    """The codes and the scales of a weight: {name: (dtype, words)}."""
    suffix = "_scale_inv" if kind == "BLOCK" else "_scale"
    scale = block_scales(name, w) if kind == "BLOCK" else (
        np.abs(w).max(axis=1, keepdims=True) / 448.0).astype(np.float32)
    dtype = variant.stored_scale(name + suffix)
    words = dtypes.encode(scale, dtype)
    full = dtypes.decode(words, dtype)
    if kind == "BLOCK":
        full = safetensors_io.expand_blocks(full, w.shape)
    elif not variant.row_scale_columns:
        words = words[:, 0]
    return {name: ("F8_E4M3", dtypes.encode_e4m3(w / full)), name + suffix: (dtype, words)}


def stored_tensors(variant, weights):
    """{name: (dtype, words)} as the file holds them."""
    tensors = {}
    for name, w in weights.items():
        dtype = variant.stored(name)
        if dtype in ("BLOCK", "ROW"):
            tensors.update(stored_fp8(variant, name, w, dtype))
        else:
            tensors[name] = (dtype, dtypes.encode(w, dtype))
    if variant.shards > 1:  # buffers that some exporters leave in; a reader skips them
        frequencies = np.ones(4, np.float32)
        tensors["model.layers.0.attention.rotary_emb.inv_freq"] = ("F32", frequencies)
        tensors["model.layers.0.attention.slope"] = ("F32", frequencies)
    return tensors
