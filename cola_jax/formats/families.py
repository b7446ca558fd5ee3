"""The supported families, and configs that are read by their tables."""

from collections.abc import Mapping
from typing import Any

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, nearest, shown
from cola_jax.formats.attributes import load_config, read_attributes
from cola_jax.formats.dense import DENSE
from cola_jax.formats.experts import MIXTURES
from cola_jax.formats.gemma import GEMMAS
from cola_jax.formats.granite import GRANITES
from cola_jax.formats.multimodal import MULTIMODAL, NOT_AS_TEXT
from cola_jax.formats.olmo import OLMOS
from cola_jax.formats.qwen import QWENS
from cola_jax.formats.table import Row, rows_of

FAMILIES = {**DENSE, **QWENS, **GEMMAS, **OLMOS, **GRANITES, **MIXTURES, **MULTIMODAL}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Read a Hugging Face config; return ours and the rows of its weights.

    Raises InputError for a family or an attribute that is not supported.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        differs = f", as it has {NOT_AS_TEXT[kind]}" if kind in NOT_AS_TEXT else ""
        near = nearest(str(kind), FAMILIES)
        differs += f" (nearest: {near})" if near else ""
        raise InputError(
            f"model_type {shown(kind)} is not supported{differs}. Supported: "
            f"{', '.join(sorted(FAMILIES))}. convert/README.md shows how to add a family."
        )
    config = ModelConfig.from_fields(read_fields(kind, values))
    return config, rows_of(FAMILIES[kind].weights, config)


def read_fields(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a config of a model_type; of a multimodal one, those of its text part."""
    family = FAMILIES[kind]
    if not family.texts:
        return {"model_type": kind, **read_attributes(kind, family.attributes, values)}
    text = load_config(kind, values).text_config.model_type
    if text not in family.texts:
        raise InputError(
            f"text_config has model_type {shown(text)}: text parts of a {kind} may be "
            f"{' or '.join(family.texts)}."
        )
    name = "tie_word_embeddings"
    tied = read_attributes(kind, family.attributes, values)["tied"]
    given = {} if values.get(name) is None else {name: tied}
    return read_fields(text, values.get("text_config", {}) | given)


def has_attribute(model_type: str, name: str) -> bool:
    """Return whether the configs of a family have an attribute."""
    return any(row.theirs == name for row in FAMILIES[model_type].attributes)
