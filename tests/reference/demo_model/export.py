#!/usr/bin/env python3
"""Makes a Hugging Face checkpoint of a training state, and what its logits must be.

    python3 tests/reference/demo_model/export.py DIR/last.npz OUT

    OUT/config.json, model.safetensors (BF16), tokenizer.json, tokenizer_config.json, generation_config.json
    OUT/golden.json        [{"tokens": [...], "rows": [...]}]: 32 problems, working and all
    OUT/golden_logits.npy  float32 [all rows, V], by network.forward in float64 on the BF16 weights
"""

import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(1, os.path.join(os.path.dirname(__file__), ".."))
import data  # noqa: E402
import dtypes  # noqa: E402
import make_suites  # noqa: E402
import network  # noqa: E402
import safetensors_io  # noqa: E402
import tokenizer as tokens  # noqa: E402
import train  # noqa: E402

GOLDEN_PROMPTS = 32
NAMES = {"in_norm": "input_layernorm", "post_norm": "post_attention_layernorm", "q_norm": "attention.query_layernorm",
         "k_norm": "attention.key_layernorm", "dense": "attention.dense", "g": "attention.g_proj",
         "g_norm": "attention.g_norm", "router": "mlp.gate"}
MLP = {"mlp": "mlp", "shared": "mlp.shared_experts"}


def checkpoint(shape, w):
    """{tensor name: float32 array} as the family's checkpoints have them."""
    out = {"model.word_embeddings.weight": w["embed"]}
    for i in range(shape.n_layers):
        p, to = f"{i}.", f"model.layers.{i}."
        out[to + "attention.query_key_value.weight"] = np.concatenate([w[p + "q"], w[p + "k"], w[p + "v"]])
        for key in (k[len(p):] for k in w if k.startswith(p)):
            value, (first, *rest) = w[p + key], key.split(".")
            if key == "bias":
                out[to + "mlp.gate.expert_bias"] = value
            elif first == "experts":
                for e in range(shape.experts):
                    out[f"{to}mlp.experts.{e}.{rest[0]}_proj.weight"] = value[e]
            elif rest:
                out[f"{to}{MLP[first]}.{rest[0]}_proj.weight"] = value
            elif key in NAMES:
                out[f"{to}{NAMES[key]}.weight"] = value
    out["model.norm.weight"], out["lm_head.weight"] = w["norm"], w["head"]
    return out


def bf16(value):
    return dtypes.decode(dtypes.encode_bf16(value), "BF16")


def rounded(w):
    """The weights as the checkpoint holds them, as float64; expert_bias stays float32 there."""
    return {name: np.float64(value) if name.endswith("bias") else bf16(value) for name, value in w.items()}


def golden(shape, tokenizer, w):
    """(list for golden.json, logits [rows, V]): after the question, in the working, before the answer ends."""
    jax.config.update("jax_enable_x64", True)
    w = {name: jnp.asarray(value, jnp.float64) for name, value in rounded(w).items()}
    problems = [p for _, p in make_suites.make(tokenizer, with_keys=True)["suite-small.jsonl"]]
    forward = jax.jit(lambda w, ids, segments: network.forward(shape, w, ids, segments)[0])
    entries, logits = [], []
    for problem in problems[::-(-len(problems) // GOLDEN_PROMPTS)] + problems[1:4:2]:
        ids, mask = data.encode(tokenizer, problem)
        first = int(np.argmax(mask)) - 1
        rows = sorted({first, (first + len(ids)) // 2, len(ids) - 2})
        padded = np.zeros((1, 512), np.int64)
        padded[0, :len(ids)] = ids
        segments = (np.arange(512) < len(ids)).astype(np.int64)[None]
        logits.append(np.asarray(forward(w, padded, segments))[0, rows])
        entries.append({"tokens": ids[:-1].tolist(), "rows": rows})
    assert len(entries) == GOLDEN_PROMPTS
    return entries, np.concatenate(logits).astype(np.float32)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, out = sys.argv[1], pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    w = {name: np.asarray(value) for name, value in train.load(source)[0].items()}
    shape, tokenizer = network.Shape(), tokens.train()
    tokens.write(tokenizer, out)
    eos, pad = tokenizer.token_to_id("<|role_end|>"), tokenizer.token_to_id("<|endoftext|>")
    (out / "config.json").write_text(json.dumps(shape.config(eos, pad), indent=1) + "\n", encoding="utf-8")
    tensors = {}
    for name, value in checkpoint(shape, w).items():
        dtype = "F32" if name.endswith("expert_bias") else "BF16"
        tensors[name] = (dtype, dtypes.encode(np.float64(value), dtype))
    safetensors_io.write_checkpoint(str(out), tensors)
    entries, logits = golden(shape, tokenizer, w)
    text = ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries)
    (out / "golden.json").write_text("[\n" + text + "\n]\n", encoding="utf-8")
    np.save(out / "golden_logits.npy", logits)
    print(f"{sum(v.size for v in w.values())} weights, {(out / 'model.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
