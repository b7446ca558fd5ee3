"""Which families are supported, and how each one's config and weights are read."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cola_jax.config import ModelConfig
from cola_jax.convert import gemma, llama, moe, olmo, qwen
from cola_jax.convert.attributes import Attributes
from cola_jax.convert.table import Row


class Family(NamedTuple):
    """How to read one model_type: its config, and its table of weights for that config."""

    read: Callable[[Attributes], ModelConfig]
    rows: Callable[[ModelConfig], tuple[Row, ...]]
    others: tuple[str, ...] = ()  # how names of tensors begin that are no part of the decoder


FAMILIES = {
    "gemma3": Family(gemma.read_gemma3, gemma.multimodal_rows, gemma.VISION),
    "gemma3_text": Family(gemma.read_gemma3_text, gemma.rows),
    "llama": Family(llama.read_llama, llama.rows),
    "mistral": Family(llama.read_mistral, llama.rows),
    "olmo2": Family(olmo.read_olmo2, olmo.olmo2_rows),
    "olmoe": Family(olmo.read_olmoe, olmo.olmoe_rows),
    "qwen2": Family(qwen.read_qwen2, qwen.rows),
    "qwen2_moe": Family(moe.read_qwen2_moe, moe.qwen2_rows),
    "qwen3": Family(qwen.read_qwen3, qwen.rows),
    "qwen3_moe": Family(moe.read_qwen3_moe, moe.qwen3_rows),
}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Reads a Hugging Face config; returns ours and the table of weights that goes with it.

    Raises ValueError for a family or an attribute that is not supported.
    """
    family = family_of(values)
    attributes = Attributes(values)
    config = family.read(attributes)
    attributes.refuse_unknown()
    return config, family.rows(config)


def family_of(values: Mapping[str, Any]) -> Family:
    """Returns the family of a config; ValueError, which lists those we know, for another."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"config.json: model_type {kind!r} is not supported; {', '.join(sorted(FAMILIES))} "
            "are. convert/README.md shows how to add a family."
        )
    return FAMILIES[kind]
