"""Configs: what a model has once and what its layers have, and the flat dictionary of both."""

import dataclasses

import pytest

from cola_jax.config import LayerConfig, ModelConfig, Rope, written
from cola_jax.errors import InputError

RECURRENT = {
    "num_heads": 2,
    "num_kv_heads": 1,
    "value_dim": 4,
    "convolution": 2,
    "qkv_bias": False,  # as the first kind: written all the same
}


def fields_of(**changes):
    """Return the fewest fields of a model of three layers, and changes."""
    sizes = {"vocab_size": 11, "num_layers": 3, "width": 8, "context": 32, "mlp_width": 6}
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4}
    layers = {"layer_ropes": (0, None, 0), "windows": (4, None, None)}
    once = {"norm_eps": 1e-6, "ropes": (Rope(theta=1e4),), "tied": True}
    return {**sizes, **heads, **layers, **once, **changes}


def hybrid(**changes):
    return ModelConfig.from_fields(fields_of(kinds=(RECURRENT,), layer_kinds=(1, 0, 1), **changes))


def test_no_field_is_of_a_model_and_of_a_layer():
    model, layer = (
        {field.name for field in dataclasses.fields(each)} for each in (ModelConfig, LayerConfig)
    )
    assert not model & layer


def test_further_kinds_differ_from_the_first_in_the_fields_that_are_given():
    config = hybrid(qkv_bias=False, output_gate=True)
    first, second = config.kinds
    assert first == LayerConfig(
        num_heads=4, num_kv_heads=2, head_dim=4, mlp_width=6, output_gate=True
    )
    assert second == dataclasses.replace(
        first, num_heads=2, num_kv_heads=1, value_dim=4, convolution=2
    )
    assert [config.kind_of(i) for i in range(3)] == [1, 0, 1]


@pytest.mark.parametrize("config", [ModelConfig.from_fields(fields_of()), hybrid()])
def test_a_config_is_rebuilt_from_its_fields_and_its_json(config):
    assert ModelConfig.from_fields(config.fields()) == config
    assert ModelConfig.from_json(config.to_json()) == config
    assert hash(ModelConfig.from_json(config.to_json())) == hash(config)


def test_json_has_the_first_fields_at_their_defaults_and_later_ones_where_they_differ():
    plain = ModelConfig.from_fields(fields_of()).to_json()
    assert plain["qkv_bias"] is False
    assert plain["query_scale"] == 1.0
    assert not {"kinds", "layer_kinds", "sinks", "rooted_scales", "restated"} & {*plain}
    assert plain["ropes"] == [
        {"theta": 1e4, "linear_factor": 1.0, "llama3": None, "divisors": None}
    ]
    assert ModelConfig.from_fields(fields_of(sinks=True)).to_json() == plain | {"sinks": True}


def test_json_has_the_fields_that_a_kind_restates():
    assert hybrid().to_json()["kinds"] == (RECURRENT,)
    assert hybrid(num_heads=2).to_json()["kinds"] == (RECURRENT,)


def test_a_new_field_with_a_default_changes_no_json():
    @dataclasses.dataclass(frozen=True)
    class Later(Rope):
        new: int | None = None

    rope = {"theta": 1e4, "linear_factor": 1.0, "llama3": None, "divisors": None}
    assert written(rope | {"new": None}, Later) == rope
    assert written(rope | {"new": 2}, Later) == rope | {"new": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "4 query heads cannot share 3"),
        ({"mlp_width": 0}, "must have an MLP or experts"),
        ({"experts": 2}, "experts need experts_per_token"),
        ({"windows": (None,)}, "windows has 1 entries for 3 layers"),
        ({"layer_kinds": (0, 1, 0)}, "layer_kinds must be 0 to 0"),
        ({"layer_ropes": (0, 1, 0)}, "layer_ropes must be 0 to 0"),
        ({"ropes": (Rope(theta=1e4, pairs=4),)}, "rotates 4 pairs of 4 channels"),
        ({"keys_of": (None, None, 2)}, "of an earlier one alone"),
        ({"rooted_scales": True}, "no scales to take roots of"),
        ({"convolution": 2}, "recurrent layers need a value_dim"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_fields(fields_of(**changes))


@pytest.mark.parametrize("changes", [{"unknown": 1}, {"kinds": [{"unknown": 1}]}, {"width": "8"}])
def test_json_of_other_fields_is_refused(changes):
    fields = ModelConfig.from_fields(fields_of()).to_json() | changes
    with pytest.raises(InputError, match="the model config"):
        ModelConfig.from_json(fields)
