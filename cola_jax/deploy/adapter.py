"""PEFT adapters that run layers of a base model more than once, without a copy of their weights.

`layer_replication` of `LoraConfig` rebuilds the layers of the base model from ranges of them, which
share weights. The adapter itself does nothing: its one low-rank matrix, of rank 1, is zero.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.deploy.shards import save_tensors
from cola_jax.errors import InputError
from cola_jax.formats.hf_config import FAMILIES, model_type_of
from cola_jax.path import ascending_ranges

MODULE = "q_proj"  # of the first layer; which one does not matter, but PEFT wants one


def check_replication(config: ModelConfig, path: Sequence[int], text: str) -> None:
    """Raises ValueError where PEFT cannot run a path through the layers of a base model.

    `text` is what the path is called: that of the original, whose other layers a base may lack. The
    families whose config has `layer_types` look up a layer's kind of attention by its place in
    that list, which PEFT neither reorders nor extends.
    """
    model_type = model_type_of(config)
    if "layer_types" not in FAMILIES[model_type].attributes:
        return
    kinds = list(zip(config.windows, config.layer_ropes, strict=True))
    if len(path) > config.num_layers:
        reason = f"the path has {len(path)} layers and the list {config.num_layers}"
    elif wrong := [place for place, layer in enumerate(path) if kinds[layer] != kinds[place]]:
        reason = f"the layer at place {wrong[0]} of the path is of another kind than that place"
    else:
        return
    raise InputError(
        f"path {text} cannot be shared by PEFT's layer_replication: models of type "
        f"{model_type} look up a layer's kind of attention by its place in config.layer_types, "
        f"which PEFT leaves as it is, and {reason}. Export without --share."
    )


def write_adapter(
    folder: Path, path: Sequence[int], config: ModelConfig, base: str, revision: str | None
) -> None:
    """Writes an adapter that runs a path of the base model's layers.

    `config` is that of the base model, `base` its Hub id or directory.
    """
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [MODULE],
        "layers_to_transform": [0],
        "layer_replication": [[run.start, run.stop] for run in ascending_ranges(path)],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    name = f"base_model.model.model.layers.0.self_attn.{MODULE}"
    zeros = {
        f"{name}.lora_A.weight": np.zeros((1, config.width), np.float32),
        f"{name}.lora_B.weight": np.zeros((config.num_heads * config.head_dim, 1), np.float32),
    }
    save_tensors(folder / "adapter_model.safetensors", zeros)
