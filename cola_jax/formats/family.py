"""A family of models: one entry with its tables of weights and attributes."""

import re
from typing import Any, NamedTuple

from cola_jax.formats.attributes import Attribute, Attributes, extend
from cola_jax.formats.table import Table


class Family(NamedTuple):
    """A model_type: its name, and its tables."""

    name: str  # of its class in transformers, without ForCausalLM
    weights: Table
    attributes: Attributes
    outside: tuple[str, ...] = ()  # prefixes of tensors that are not of the decoder
    texts: tuple[str, ...] = ()  # model types of its text part, where it has other parts as well


def family(
    name: str,
    weights: Table,
    *parts: Attributes | Attribute,
    outside: tuple[str, ...] = (),
    **facts: Any,
) -> Family:
    """Return a family whose attributes are those of `extend`."""
    return Family(name, weights, extend(*parts, **facts), outside)


def text_part(table: Table, part: str = "language_model") -> Table:
    """Return the table of a text model for files that hold a vision model beside it."""
    return {
        name: row._replace(theirs=re.sub(r"^model\.", f"model.{part}.", row.theirs))
        for name, row in table.items()
    }


def add_prefix(table: Table) -> Table:
    """Return the table of the text part of a multimodal model."""
    return {n: row._replace(theirs=f"language_model.{row.theirs}") for n, row in table.items()}
