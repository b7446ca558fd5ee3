"""Which families are supported, and how each one's config and weights are read."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cola_jax.config import ModelConfig
from cola_jax.convert import llama, qwen
from cola_jax.convert.attributes import Attributes
from cola_jax.convert.table import Row


class Family(NamedTuple):
    """How to read one model_type: its config, and its table of weights for that config."""

    read: Callable[[Attributes], ModelConfig]
    rows: Callable[[ModelConfig], tuple[Row, ...]]


FAMILIES = {
    "llama": Family(llama.read_llama, llama.rows),
    "mistral": Family(llama.read_mistral, llama.rows),
    "qwen2": Family(qwen.read_qwen2, qwen.rows),
    "qwen3": Family(qwen.read_qwen3, qwen.rows),
}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Reads a Hugging Face config; returns ours and the table of weights that goes with it.

    Raises ValueError for a family or an attribute that is not supported.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"config.json: model_type {kind!r} is not supported; {', '.join(sorted(FAMILIES))} "
            "are. convert/README.md shows how to add a family."
        )
    family = FAMILIES[kind]
    attributes = Attributes(values)
    config = family.read(attributes)
    attributes.refuse_unknown()
    return config, family.rows(config)
