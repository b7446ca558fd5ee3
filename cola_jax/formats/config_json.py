"""The `config.json` of a model whose layers are those of a path."""

from collections.abc import Sequence
from typing import Any

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, reading
from cola_jax.formats.attributes import write_attributes
from cola_jax.formats.families import FAMILIES, has_attribute, read_config
from cola_jax.formats.ropes import with_llama3
from cola_jax.steps import MLP, layer_of, part_of


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the attributes of a `config.json` of the same model.

    The names are those of files on the Hub, which all versions of transformers read. Raises
    InputError where the attributes would not read back as this very config.
    """
    model_type = model_type_of(config)
    family = FAMILIES[model_type]
    fields: dict[str, Any] = config.fields() | {"model_type": model_type}
    if not has_attribute(model_type, "original_max_position_embeddings"):  # of longrope
        width = fields["head_dim"]
        fields["ropes"] = tuple(with_llama3(rope, width) for rope in config.ropes)
    values = {
        "architectures": [f"{family.name}ForCausalLM"],
        "model_type": model_type,
        "dtype": dtype,
        **write_attributes(family.attributes, fields),
    }
    with reading(f"a config.json of model_type {model_type}"):
        read = read_config(values)[0].fields()
    wrong = {name: value for name, value in fields.items() if read[name] != value}
    if wrong:
        raise InputError(
            f"a config.json of model_type {model_type} cannot hold {wrong}: this model cannot be "
            "written in Hugging Face layout."
        )
    return values


def model_type_of(config: ModelConfig) -> str:
    """Return the model_type that the config was read from, or whose blocks it describes."""
    fields = config.fields()
    if config.model_type is not None:
        return config.model_type
    if fields["norm_offset"] == 1.0:
        return "gemma3_text"
    if fields["projection_norms"]:
        return "olmoe" if fields["experts"] else "olmo2"
    if fields["experts"]:
        return "qwen3_moe" if fields["head_norms"] else "qwen2_moe"
    if fields["head_norms"]:
        return "qwen3"
    if fields["qkv_bias"] and not fields["output_bias"]:
        return "qwen2"
    return "mistral" if any(fields["windows"]) else "llama"


def select_layers(config: ModelConfig, path: Sequence[int]) -> ModelConfig:
    """Return the config of the model whose layers are those of a path, with their attributes.

    Kinds of layers that share keys are left out where the path has none of them. A step that lacks
    a part is a layer as others, but one without attention lends no keys.
    """
    fields = config.fields()
    layers = [layer_of(step) for step in path]
    keys_of: list[int | None] = []
    for place, layer in enumerate(layers if config.keys_of else ()):
        source = config.keys_of[layer]
        attends = part_of(path[place]) != MLP
        before = [
            i
            for i in range(place)
            if layers[i] == source and not (attends and part_of(path[i]) == MLP)
        ]
        keys_of.append(before[-1] if before else None)
    if config.keys_of and not any(source is not None for source in keys_of):
        own = [kind for kind in fields["kinds"] if "own_keys" not in kind]  # the first ones
        fields["kinds"] = [{n: x for n, x in kind.items() if n != "shared_at"} for kind in own]
        fields["shared_at"] = None
        keys_of = []
    for name in ("windows", "layer_ropes", "layer_kinds"):
        fields[name] = tuple(fields[name][layer] for layer in layers if fields[name])
    return ModelConfig.from_fields(
        fields
        | {
            "num_layers": len(path),
            "keys_of": tuple(keys_of),
            "rooted_scales": False,  # the roots are the scales of the copies
        }
    )
