"""Written configs: they hold what was read, and follow the layers of a path."""

import copy
import dataclasses

import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError
from cola_jax.formats.config_json import select_layers, write_config
from cola_jax.formats.families import FAMILIES, read_config
from cola_jax.formats.ropes import with_llama3
from tests import oracle


def values_of(family, **fields):
    """Return the config.json of a tiny model, without making its weights."""
    fields = copy.deepcopy({**oracle.SIZES, **fields})
    return transformers.AutoConfig.for_model(family, **fields).to_dict()


@pytest.mark.parametrize("variant", oracle.VARIANTS)
def test_write_config_holds_every_variant(variant):
    family, fields = oracle.VARIANTS[variant]
    config, _ = read_config(values_of(family, **fields))
    assert read_config(write_config(config, "float32"))[0] == config


WITHOUT_EFFECT = {"intermediate_size"}  # where all layers have experts, which have their own width
REFUSED = {"moe_layer_interval"}  # with dense layers between others, a model cannot be written
TOGETHER = {  # attributes that cannot change alone
    "mamba_d_head": {"mamba_d_head": 8, "mamba_n_heads": 8},
    "vocab_size_per_layer_input": {"vocab_size": 50, "vocab_size_per_layer_input": 50},
}


def other_values(value):
    """Return values that an attribute might have instead."""
    match value:
        case bool():
            return [not value]
        case int():
            return [2 * value, value // 2, value + 2, value - 4]
        case float():
            return [round(1.5 * value, 9), 0.5 * value]
        case str():
            return ["rope", "nope"]  # of positions
        case list():
            return [value[::-1]]
        case dict():
            theta = {"rope_theta": 77.0}
            by_kind = {kind: rope | theta for kind, rope in value.items() if isinstance(rope, dict)}
            return [value | (by_kind or theta)]
    return [16, 0.5, 0.34]  # None


def changes_of(row, fields, values):
    """Yield fields of a config that differ in an attribute, and in what goes with it."""
    if row.theirs in TOGETHER:
        yield fields | TOGETHER[row.theirs]
    for value in other_values(values.get(row.theirs, fields.get(row.theirs))):
        outer, _, inner = row.place.partition(".")
        if inner and outer in fields:
            yield fields | {outer: fields[outer] | {inner: value}}
        changed = fields | {row.theirs: value}
        if row.theirs == "num_hidden_layers":  # and the lists that have a value for each
            changed = {k: v[:value] if isinstance(v, list) else v for k, v in changed.items()}
        yield changed


def holds(family, fields, plain):
    """Return whether a config is another one, and is written as it was read."""
    try:
        config, _ = read_config(values_of(family, **fields))
    except (InputError, ValueError, TypeError, IndexError, StrictDataclassError):  # no such model
        return False
    return config != plain and read_config(write_config(config, "float32"))[0] == config


@pytest.mark.parametrize("family", sorted({*oracle.FAMILIES}))
def test_write_config_holds_every_attribute(family):
    """Each attribute that is read is written at another value than that of some variant."""
    variants = [fields for name, fields in oracle.VARIANTS.values() if name == family]
    written = [values_of(family, **fields) for fields in variants]
    bases = [(f, v, read_config(v)[0]) for f, v in zip(variants, written, strict=True)]
    lost = [
        row.theirs
        for row in FAMILIES[family].attributes
        if row.ours and row.theirs and row.read and not row.only and row.theirs not in REFUSED
        if not any(
            holds(family, changed, plain)
            for fields, values, plain in bases
            for changed in changes_of(row, fields, values)
        )
    ]
    assert {*lost} <= WITHOUT_EFFECT


def test_select_layers_moves_attributes_with_the_layers(pair):
    config = pair("gemma3").ours.config
    assert config.windows == (5, 5, None, 5, 5, None)
    moved = select_layers(config, (2, 0, 0, 5))
    assert moved.windows == (None, 5, 5, None)
    assert moved.layer_ropes == (0, 1, 1, 0)
    types = [layer.partition("_")[0] for layer in write_config(moved, "float32")["layer_types"]]
    assert types == ["full", "sliding", "sliding", "full"]


def test_write_config_says_max_window_layers_where_it_can(pair):
    config = pair("qwen2-window").ours.config  # layers 3, 4 and 5 have a window
    for path, first in (((0, 1, 3, 4), 2), ((3, 4), 0), ((0, 1, 2), 3)):
        values = write_config(select_layers(config, path), "float32")
        assert values["max_window_layers"] == first
        assert values["use_sliding_window"] is any(layer >= 3 for layer in path)
    two = dataclasses.replace(config, windows=(None, 5, 5, 5, 5, 7))
    with pytest.raises(ValueError, match=r"model_type qwen2 cannot hold \{'windows'"):
        write_config(two, "float32")


def test_with_llama3_recognises_the_divisors_of_gguf_files(pair):
    plain, named = Rope(theta=500000.0), Rope(theta=500000.0, llama3=(32.0, 1.0, 4.0, 8192))
    divisors = plain.frequencies(64) / named.frequencies(64)
    stored = dataclasses.replace(plain, divisors=tuple(float(x) for x in divisors))
    assert with_llama3(stored, 64) == named
    fields = pair("llama-gqa").ours.config.fields() | {"head_dim": 64, "ropes": (stored,)}
    config = ModelConfig.from_fields(fields)
    assert read_config(write_config(config, "float32"))[0].ropes == (named,)
    other = dataclasses.replace(plain, divisors=(1.0,) * 31 + (2.0,))
    with pytest.raises(ValueError, match=r"divisors that are not those of Llama 3\.1"):
        with_llama3(other, 64)
