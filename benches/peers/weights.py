"""Reads a GPT-2 model folder the way every converter here needs it."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def read(folder):
    """Returns (config, {name without `transformer.`: f32 array})."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    return config, {
        name.removeprefix("transformer."): tensor.astype(np.float32) for name, tensor in tensors.items()
    }


def tokenizer(folder):
    """Returns (tokens in the order of their ids, merges as "left right")."""
    model = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return tokens, merges
