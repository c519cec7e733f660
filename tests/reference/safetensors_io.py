"""Reads and writes safetensors files: 8 bytes of header length, a JSON header, the data.

A tensor here is a pair (dtype name, array of stored words); see dtypes.py for the values.
"""

import glob
import json
import os

import numpy as np

import dtypes


def write_file(path, tensors):
    """tensors: {name: (dtype, words)}; written in the order given."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, words) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(words.shape),
                        "data_offsets": [offset, offset + words.nbytes]}
        offset += words.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, words in tensors.values():
            file.write(np.ascontiguousarray(words).tobytes())


def read_file(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header, data = json.loads(file.read(size)), file.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            words = np.frombuffer(data[begin:end], dtypes.STORAGE[entry["dtype"]])
            tensors[name] = (entry["dtype"], words.reshape(entry["shape"]))
    return tensors


def write_checkpoint(directory, tensors, n_shards=1):
    """model.safetensors, or n_shards files of about as many tensors each, and their index."""
    if n_shards == 1:
        write_file(os.path.join(directory, "model.safetensors"), tensors)
        return
    names, weight_map = list(tensors), {}
    for shard in range(n_shards):
        file = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        part = names[len(names) * shard // n_shards:len(names) * (shard + 1) // n_shards]
        write_file(os.path.join(directory, file), {name: tensors[name] for name in part})
        weight_map.update({name: file for name in part})
    total = sum(words.nbytes for _, words in tensors.values())
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file, indent=1)
        file.write("\n")


def expand_blocks(scale, shape):
    """Scales [ceil(N/128), ceil(K/128)] of 128x128 blocks as an [N, K] array."""
    return scale.repeat(128, axis=0)[:shape[0]].repeat(128, axis=1)[:, :shape[1]]


def read_weights(directory):
    """{name: float64 array} of a checkpoint directory, FP8 scales applied."""
    def scales(name):
        dtype, words = stored[name]
        return dtypes.decode(words, dtype)

    stored = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        stored.update(read_file(path))
    weights = {}
    for name, (dtype, words) in stored.items():
        if name.endswith(("_scale", "_scale_inv")):
            continue
        value = dtypes.decode(words, dtype)
        if name + "_scale_inv" in stored:  # one scale per block; a factor despite its name
            value = value * expand_blocks(scales(name + "_scale_inv"), value.shape)
        elif name + "_scale" in stored:  # one scale per row, [N] or [N, 1]
            value = value * scales(name + "_scale").reshape(-1, 1)
        weights[name] = value
    return weights
