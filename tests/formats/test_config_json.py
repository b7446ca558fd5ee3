"""Written configs: they hold what was read, and follow the layers of a path."""

import copy
import dataclasses

import pytest
import transformers

from cola_jax.config import Rope
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


@pytest.mark.parametrize("variant", sorted({*oracle.FIRST} - {"gemma4"}))
def test_write_config_holds_every_switch(variant):
    """An attribute that is true or false is read and written at both; Gemma 4's go together."""
    family, fields = oracle.VARIANTS[variant]
    values = values_of(family, **fields)
    plain, _ = read_config(values)
    for row in FAMILIES[family].attributes:
        switch = values.get(row.theirs)
        if row.read is not None and row.ours and not row.only and isinstance(switch, bool):
            config, _ = read_config(values | {row.theirs: not switch})
            assert config != plain, row
            if row.write is not None:
                assert write_config(config, "float32")[row.theirs] is not switch, row


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
    config = dataclasses.replace(pair("llama-gqa").ours.config, head_dim=64, ropes=(stored,))
    assert read_config(write_config(config, "float32"))[0].ropes == (named,)
    other = dataclasses.replace(plain, divisors=(1.0,) * 31 + (2.0,))
    with pytest.raises(ValueError, match=r"divisors that are not those of Llama 3\.1"):
        with_llama3(other, 64)
