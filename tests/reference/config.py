"""A model's config.json as the reference reads it: spec defaults filled in, derived sizes added."""

import json
import os

# Defaults of keys a file may leave out.
DEFAULTS = {
    "architectures": ["BailingMoeLinearV2ForCausalLM"], "first_k_dense_replace": 1,
    "layer_group_size": 1, "group_norm_size": 1, "linear_silu": False, "num_shared_experts": 1,
    "n_group": 8, "topk_group": 4, "routed_scaling_factor": 1.0, "norm_topk_prob": True,
    "score_function": "sigmoid", "moe_router_enable_expert_bias": True, "use_qk_norm": True,
    "use_qkv_bias": False, "use_bias": False, "tie_word_embeddings": False,
    "partial_rotary_factor": 1.0, "rope_theta": 600000.0, "rope_scaling": None,
    "rms_norm_eps": 1e-6, "decay_offset": 0,
}


class Config:
    """Every key of the file as an attribute, and: rotary_dim, hybrid (it has linear layers)."""

    def __init__(self, values):
        for key, value in {**DEFAULTS, **values}.items():
            setattr(self, key, value)
        self.linear_silu = values.get("use_linear_silu", self.linear_silu)
        self.rotary_dim = int(self.head_dim * self.partial_rotary_factor)
        architecture = self.architectures[0]
        if architecture not in ("BailingMoeLinearV2ForCausalLM", "BailingMoeV2ForCausalLM"):
            raise ValueError(f"unknown architecture {architecture}")
        self.hybrid = architecture == "BailingMoeLinearV2ForCausalLM"

    def is_softmax(self, layer):
        """Spec section 4: the last layer of every group, and all of an incomplete last group."""
        group = self.layer_group_size
        whole = self.num_hidden_layers // group * group
        return not self.hybrid or (layer + 1) % group == 0 or layer >= whole

    def is_dense(self, layer):
        return layer < self.first_k_dense_replace


def read_config(directory):
    with open(os.path.join(directory, "config.json")) as file:
        return Config(json.load(file))
