"""The commands with which other engines run a path of a model that they load."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from cola_jax.config import ModelConfig
from cola_jax.deploy.serve.architectures import ARCHITECTURES, LAYERS, PATH, name_of
from cola_jax.errors import InputError
from cola_jax.formats.config_json import model_type_of
from cola_jax.formats.families import FAMILIES
from cola_jax.path import LayerPath, validate


def vllm_overrides(config: ModelConfig, path: LayerPath) -> dict[str, Any]:
    """Return what vLLM's `--hf-overrides` takes, so that its plugin runs a path of a model.

    The rest of the config stays that of the base model. Raises InputError where vLLM cannot run it.
    """
    path = validate(path, config.num_layers)
    model_type = model_type_of(config)
    architecture = f"{FAMILIES[model_type].name}ForCausalLM"
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"models of type {model_type} cannot be served along a path in vLLM: "
            f"{architecture} is not among those of the plugin. Export with --format hf."
        )
    return {"architectures": [name_of(architecture)], PATH: list(path), LAYERS: config.num_layers}


def vllm_command(base: str, revision: str | None, overrides: Mapping[str, Any]) -> str:
    """Return the command that serves a path, in vLLM's environment with the plugin."""
    revised = f" --revision {revision}" if revision else ""
    return f"vllm serve {shlex.quote(base)}{revised} --hf-overrides {shlex.quote(json.dumps(overrides))}"
