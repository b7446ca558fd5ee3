"""The commands with which other engines run a path of a model that they load."""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from cola_jax.config import ModelConfig
from cola_jax.deploy.serve.architectures import ARCHITECTURES, LAYERS_FIELD, PATH_FIELD, name_of
from cola_jax.errors import InputError, check_belongs, printed
from cola_jax.formats.config_json import model_type_of
from cola_jax.formats.families import FAMILIES, read_config
from cola_jax.formats.huggingface import CONFIG, read_config_file
from cola_jax.formats.identity import HUB_ID, Identity
from cola_jax.path import LayerPath, ascending_ranges, format_path, is_whole_path, validate
from cola_jax.steps import MLP, is_whole, part_of

# model types whose classes exllamav3 1.4.1 has; layer maps came with 0.0.31
EXLLAMAV3 = {
    *("arcee", "ernie4_5_moe", "exaone4", "gemma2", "gemma3_text", "glm4", "glm4_moe", "gpt_oss"),
    *("llama", "minimax_m2", "ministral3", "mistral", "mixtral", "olmo3", "olmo_hybrid", "phi3"),
    *("qwen2", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next"),
    *("seed_oss", "smollm3"),
}
REVISION = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_./-]*")  # a commit, tag or branch
ONCE = (
    "export the identity path with --format hf once, and give that directory as --source, or the "
    "Hub id of the same model in Hugging Face layout"
)


class BaseWeights(NamedTuple):
    """The weights that an engine loads: a model of the Hub, or a directory in its layout."""

    name: str
    revision: str | None
    on_hub: bool

    @classmethod
    def of(cls, metadata: Mapping[str, Any], source: str | None = None) -> "BaseWeights":
        """Return what a checkpoint was converted from, or `source`, in its place.

        That is a Hub id, also as ID@REVISION, or a directory. Raises InputError where engines
        cannot load it, and for a directory with a model of another shape.
        """
        model = Identity.of(metadata)
        origin = metadata["origin"]
        name, at, revision = (source or "").partition("@")
        if origin.get("multimodal") and (source is None or name == model.hub_id):
            raise InputError(
                f"{model.name} has layers beside those of its text model, with which no engine "
                f"runs a path: {ONCE}."
            )
        if source is not None:
            if os.path.isdir(source):
                check_directory(source, ModelConfig.from_json(metadata["config"]))
                return cls(os.path.abspath(source), None, on_hub=False)
            is_revision = not at or REVISION.fullmatch(revision)
            if not ("/" in name and HUB_ID.fullmatch(name) and is_revision):
                raise InputError(
                    f"--source {printed(source)} is neither a directory nor a Hub id such as "
                    "HuggingFaceTB/SmolLM2-135M-Instruct, or as ID@REVISION."
                )
            return cls(name, revision or None, on_hub=True)
        if model.hub_id is not None:
            return cls(model.hub_id, model.revision, on_hub=True)
        if origin["kind"] != "directory":
            raise InputError(
                f"{model.name} was converted from a {origin['kind']} file, through whose layers no "
                f"engine runs a path: {ONCE}."
            )
        if not os.path.isdir(origin["name"]):
            raise InputError(
                f"{origin['name']}, which the model was converted from, is not a directory here: "
                "give --source the directory or the Hub id of the same model."
            )
        return cls(origin["name"], None, on_hub=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def public(self) -> "BaseWeights":
        """The same without the folders above a directory, for files that others read."""
        if self.on_hub:
            return self
        return self._replace(name=" ".join(PurePath(self.name).name.split()))


def check_directory(folder: str, config: ModelConfig) -> None:
    """Raise InputError where a directory has no model of the same shape as a config's."""
    values = read_config_file(Path(folder))
    theirs, _ = read_config(values)
    shape = {"model_type": values["model_type"], "layers": theirs.num_layers, "width": theirs.width}
    ours = {"model_type": model_type_of(config), "layers": config.num_layers, "width": config.width}
    action = "give the directory of the same model in Hugging Face layout"
    check_belongs(f"the {CONFIG} of {folder}", shape, "this model", ours, action)


def vllm_overrides(config: ModelConfig, path: LayerPath) -> dict[str, Any]:
    """Return what vLLM's `--hf-overrides` takes, so that its plugin runs a path of a model.

    The rest of the config stays that of the base model. Raises InputError where vLLM cannot run it.
    """
    path = validate(path, config.num_layers)
    if all(part_of(step) == MLP for step in path):
        raise InputError(
            f"path {format_path(path)} has no attention, and vLLM runs no model without a cache: "
            "run it in transformers with cola_jax.apply_path."
        )
    model_type = model_type_of(config)
    architecture = f"{FAMILIES[model_type].name}ForCausalLM"
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"models of type {model_type} cannot be served along a path in vLLM: "
            f"{architecture} is not among those of the plugin. Export with --format hf."
        )
    return {
        "architectures": [name_of(architecture)],
        PATH_FIELD: [step if is_whole(step) else format_path([step]) for step in path],
        LAYERS_FIELD: config.num_layers,
    }


def vllm_command(base: str, revision: str | None, overrides: Mapping[str, Any]) -> str:
    """Return the command that serves a path, in vLLM's environment with the plugin."""
    revised = f" --revision {shlex.quote(revision)}" if revision else ""
    given = shlex.quote(json.dumps(overrides))
    return f"vllm serve {shlex.quote(base)}{revised} --hf-overrides {given}"


def layer_map(path: LayerPath) -> str:
    """Return a path as exllamav3's `-layer_map` takes it: ids, and ranges with both ends.

    InputError for a path with parts or shares of layers.
    """
    if not is_whole_path(path):
        raise InputError(
            f"path {format_path(path)} has parts or shares of layers, and exllamav3 runs whole "
            "ones: export parts with --format hf, and shares with --format vllm."
        )
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in ascending_ranges(path)
    )


def exllamav3_command(base: BaseWeights, config: ModelConfig, path: LayerPath) -> str:
    """Return the command that chats along a path in a checkout of exllamav3.

    It loads a local directory, into which a model of the Hub is downloaded first. Raises InputError
    for a model that exllamav3 does not have.
    """
    path = validate(path, config.num_layers)
    model_type = model_type_of(config)
    if model_type not in EXLLAMAV3:
        raise InputError(
            f"models of type {model_type} cannot run along a path in exllamav3, which has "
            f"{', '.join(sorted(EXLLAMAV3))}. Export with --format hf."
        )
    folder = shlex.quote(base.name)
    download = ""
    if base.on_hub:
        at = f" --revision {shlex.quote(base.revision)}" if base.revision else ""
        folder = shlex.quote(base.name.rpartition("/")[2])
        download = f"hf download {shlex.quote(base.name)}{at} --local-dir {folder} && "
    return f"{download}python examples/chat.py -m {folder} -layer_map {layer_map(path)}"


def cola_command(base: BaseWeights, path: LayerPath) -> str:
    """Return the command that completes a prompt along a path."""
    return (
        f"cola generate --model {shlex.quote(str(base))} --path '{format_path(path)}' "
        "--prompt 'The largest planet is'"
    )


def transformers_code(base: BaseWeights, path: LayerPath) -> str:
    """Return Python that loads a model in transformers, and applies a path to it."""
    place = json.dumps(base.name)
    place += f", revision={json.dumps(base.revision)}" if base.revision else ""
    return (
        "import cola_jax\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({place})\n"
        f'cola_jax.apply_path(model, "{format_path(path)}")'
    )


def commands_of(base: BaseWeights, config: ModelConfig, path: LayerPath) -> dict[str, str]:
    """Return how each engine that can run a path of a model runs it, by its name."""
    commands = {"cola": cola_command(base, path), "transformers": transformers_code(base, path)}
    with contextlib.suppress(InputError):
        overrides = vllm_overrides(config, path)
        commands["vllm"] = vllm_command(base.name, base.revision, overrides)
    with contextlib.suppress(InputError):
        commands["exllamav3"] = exllamav3_command(base, config, path)
    return commands
