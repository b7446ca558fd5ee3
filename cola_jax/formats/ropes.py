"""Rotary embeddings in a config: a row for each attribute of each type, read and written."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cola_jax.config import Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attribute, Attributes, Fields, each_layer, extend, ignored

ATTENTION_KINDS = "full_attention", "sliding_attention"  # of layers, in the order of their ropes
GGUF_LLAMA3 = (1.0, 4.0, 8192)  # low, high and original context of all Llama 3.1 to 3.3


def yarn_scale(scale: float | None, parameters: Fields) -> float:
    """Return the scale of cosines and sines, which follows from the factor."""
    if scale is not None:
        return scale
    growth = 0.1 * math.log(max(1.0, parameters["factor"]))
    one, all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if one and all_dim:
        return (1 + one * growth) / (1 + all_dim * growth)
    return 1 + growth


def longrope_scale(scale: float | None, parameters: Fields) -> float:
    """Return the scale of cosines and sines, up to the original context."""
    if scale is not None:
        return scale
    growth = max(0.0, math.log(parameters["factor"]))
    return math.sqrt(1 + growth / math.log(parameters["original_max_position_embeddings"]))


# by type, the first that has the fields of a rope is written; several names make a tuple
ROPES: dict[str, Attributes] = {
    "default": (),
    "linear": (Attribute("linear_factor", "factor"),),
    "llama3": (
        Attribute(
            "llama3",
            "factor low_freq_factor high_freq_factor original_max_position_embeddings",
            default=(None,) * 4,
        ),
    ),
    "yarn": (
        Attribute(
            "yarn",
            "factor beta_fast beta_slow original_max_position_embeddings truncate",
            default=(None, 32.0, 1.0, None, True),  # what transformers sets
        ),
        Attribute("scale", "attention_factor", yarn_scale),
        *ignored("mscale", "mscale_all_dim"),
    ),
    "proportional": (
        Attribute("linear_factor", "factor", write=lambda x, _: None if x == 1 else x, default=1.0),
        Attribute("rotated_share", "partial_rotary_factor", default=1.0),
    ),
    "longrope": (
        Attribute("divisors", "short_factor", lambda x, _: tuple(x), lambda x, _: list(x)),
        # which a checkpoint does not have
        Attribute("divisors", "long_factor", None, lambda x, _: list(x)),
        Attribute("scale", "attention_factor", longrope_scale),
        *ignored("factor", "original_max_position_embeddings"),
    ),
}


def read_rope(parameters: Mapping[str, Any], handled: tuple[str, ...] = ()) -> Rope:
    """Read a rotary embedding from `rope_parameters`; `handled` are attributes that others read."""
    kind = parameters["rope_type"]
    if not isinstance(kind, str) or kind not in ROPES:
        raise InputError(
            f"rope type {shown(kind)} is not supported. Supported: {', '.join(ROPES)}."
        )
    names = {name for row in ROPES[kind] for name in row.theirs.split()}
    known = {"rope_type", "type", "rope_theta", *names, *handled}
    unknown = {name: value for name, value in parameters.items() if name not in known}
    if unknown.get("partial_rotary_factor") == 1:
        del unknown["partial_rotary_factor"]
    if unknown:
        raise InputError(f"rope type {kind!r} has unsupported attributes: {shown(unknown)}.")
    rope = Rope(theta=parameters["rope_theta"])
    for row in ROPES[kind]:
        if row.read is not None:
            value = row.read(find_parameters(parameters, row), parameters)
            rope = dataclasses.replace(rope, **{row.ours: value})
    return rope


def find_parameters(parameters: Mapping[str, Any], row: Attribute) -> Any:
    """Return the value of a rope's attribute, or a tuple of several."""
    names = row.theirs.split()
    if len(names) == 1:
        value = parameters.get(row.theirs)
        return row.default if value is None else value
    values = map(parameters.get, names)
    return tuple(d if x is None else x for x, d in zip(values, row.default, strict=True))


def write_rope(rope: Rope) -> dict[str, Any]:
    """Return the `rope_parameters` of a rotary embedding."""
    fields = {
        field.name: getattr(rope, field.name)
        for field in dataclasses.fields(rope)
        if getattr(rope, field.name) != field.default and field.name not in ("theta", "pairs")
    }
    kind = next(kind for kind, rows in ROPES.items() if fields.keys() <= {row.ours for row in rows})
    values: dict[str, Any] = {"rope_theta": rope.theta, "rope_type": kind}
    for row in ROPES[kind]:
        if row.write is not None:
            value = row.write(getattr(rope, row.ours), fields)
            names = row.theirs.split()
            values |= zip(names, value, strict=True) if len(names) > 1 else {row.theirs: value}
    return {name: value for name, value in values.items() if value is not None}


def write_scaling(rope: Rope) -> dict[str, Any] | None:
    """Return the `rope_scaling` of a rotary embedding, None for a plain one."""
    values = write_rope(rope)
    del values["rope_theta"]
    return None if values == {"rope_type": "default"} else values


def one_rope(*handled: str) -> Attributes:
    """Return the rows of a model with one rotary embedding, written by the older names.

    `handled` are parameters of it that other rows read.
    """
    return (
        Attribute("ropes", "rope_parameters", lambda x, _: (read_rope(x, handled),), None),
        Attribute("ropes", "rope_theta", None, lambda ropes, _: ropes[0].theta),
        Attribute("ropes", "rope_scaling", None, lambda ropes, _: write_scaling(ropes[0])),
    )


def read_ropes(parameters: Mapping[str, Any], fields: Fields) -> tuple[Rope, ...]:
    """Read the ropes of layers without and with a window."""
    if unknown := set(parameters) - set(ATTENTION_KINDS):
        raise InputError(f"rope_parameters has {shown(sorted(unknown))}, not kinds of layer.")
    return tuple(read_rope(parameters[kind]) for kind in ATTENTION_KINDS)


def write_ropes(ropes: tuple[Rope, ...], fields: Fields) -> dict[str, Any]:
    """Return the `rope_parameters` of layers without and with a window."""
    return dict(zip(ATTENTION_KINDS, map(write_rope, ropes), strict=True))


BY_TYPE = Attribute("ropes", "rope_parameters", read_ropes, write_ropes)
OF_TYPE = Attribute(
    "layer_ropes",
    "",
    each_layer({kind: i for i, kind in enumerate(ATTENTION_KINDS)})[0],
    place="layer_types",
)
# the older names give a window's rope the default theta
TWO_ROPES = extend(BY_TYPE, OF_TYPE, ignored("rope_theta", "rope_scaling"))


def with_llama3(rope: Rope, head_dim: int) -> Rope:
    """Return a rope with the divisors of a GGUF file as the llama3 rope that they came from.

    Raises InputError for other divisors, which no config.json of these families can hold.
    """
    if rope.divisors is None:
        return rope
    llama3 = (round(max(rope.divisors), 4), *GGUF_LLAMA3)
    named = dataclasses.replace(rope, divisors=None, llama3=llama3)
    if not np.allclose(named.frequencies(head_dim), rope.frequencies(head_dim), rtol=1e-6, atol=0):
        raise InputError(
            "the rotary embedding has divisors that are not those of Llama 3.1 to 3.3, and "
            "config.json cannot hold them: export from a checkpoint that was converted from "
            "safetensors."
        )
    return named
