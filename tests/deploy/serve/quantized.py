"""Quantize a tiny Llama to 8 bits as compressed-tensors writes it, whole and along a path."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")
INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
SCHEME = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": INT8 | {"strategy": "token", "dynamic": True},
        }
    },
}


def write_quantized(source: Path, base: Path, copy: Path, path: Sequence[int]) -> None:
    """Write the quantized model, and one with copies of the layers of a path."""
    weights = {
        name: tensor
        for each, weight in load_file(source / "model.safetensors").items()
        for name, tensor in quantize(each, weight)
    }
    shared = {name: tensor for name, tensor in weights.items() if not LAYER.match(name)}
    copied = {
        f"model.layers.{position}.{match[2]}": tensor.clone()
        for position, layer in enumerate(path)
        for name, tensor in weights.items()
        if (match := LAYER.match(name)) and int(match[1]) == layer
    }
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": SCHEME}
    write(base, weights, config)
    write(copy, shared | copied, config | {"num_hidden_layers": len(path)})


def quantize(name: str, weight: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return a projection as integers with a scale for each output, others as they are."""
    if "_proj." not in name:
        return [(name, weight)]
    scale = weight.abs().amax(1, keepdim=True) / 127
    integers = (weight / scale).round().clamp(-127, 127).to(torch.int8)
    return [(name, integers), (name.replace(".weight", ".weight_scale"), scale)]


def write(folder: Path, weights: dict[str, torch.Tensor], config: dict) -> None:
    """Write a directory in Hugging Face layout."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
