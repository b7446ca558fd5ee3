"""Families: how each reads a config.json, its defaults, and refusals."""

import json
from pathlib import Path

import pytest

from cola_jax.errors import reading
from cola_jax.formats.families import read_config
from cola_jax.question import digest
from tests import oracle


def lines(name):
    return Path(__file__).with_name(name).read_text().splitlines()


@pytest.fixture
def values(pair):
    """Return a function that reads the config.json of a variant."""
    return lambda variant: json.loads((pair(variant).folder / "config.json").read_text())


def edited(values, **changes):
    """Change attributes of a config; `...` removes one."""
    return {k: v for k, v in (values | changes).items() if v is not ...}


def config_of(values, **changes):
    with reading("config.json"):
        return read_config(edited(values, **changes))[0]


@pytest.mark.parametrize("line", lines("refused.jsonl"))
def test_read_config_refuses_what_it_would_misread(values, line):
    case = json.loads(line)
    with pytest.raises(ValueError, match=case["message"]):
        config_of(values(case["variant"]), **case["changes"])


def test_read_config_checks_qwen_layer_types(values):
    qwen = values("qwen2-window")
    for types in (["full_attention"] * 5, ["full_attention"] * 5 + ["chunked_attention"]):
        with pytest.raises(ValueError, match=r"layer_types|layers have types \['chunked"):
            config_of(qwen, layer_types=types)
    qwen["layer_types"] = ["sliding_attention", "full_attention"] * 3
    assert config_of(qwen).windows == (5, None, 5, None, 5, None)
    with pytest.raises(ValueError, match="sliding_attention, but there is no window"):
        config_of(qwen, use_sliding_window=False)
    assert config_of(qwen, layer_types=...).windows == (None, None, None, 5, 5, 5)


def test_read_config_gives_mistral_the_default_window_of_transformers(values):
    mistral = values("mistral-window")
    assert config_of(mistral, sliding_window=...).windows == (4096,) * 6
    assert config_of(mistral, sliding_window=None).windows == (None,) * 6


@pytest.mark.parametrize("variant", ["llama-gqa", "llama-linear-rope", "llama-llama3-rope"])
def test_read_config_reads_older_ropes(values, variant):
    new = values(variant)
    rope = dict(oracle.VARIANTS[variant][1].get("rope_parameters", {}))
    theta = rope.pop("rope_theta", 10000.0)
    ropes = {"rope_theta": theta, "rope_scaling": rope or None, "rope_parameters": ...}
    old = edited(new, **ropes, torch_dtype="float32", dtype=...)
    assert config_of(old) == config_of(new)
    if rope:  # the oldest spelling
        rope["type"] = rope.pop("rope_type")
        assert config_of(old, rope_scaling=rope) == config_of(new)


def test_read_config_reads_older_gemma_configs(values):
    """As released: a pattern for the kinds of layers, and both thetas at the top level."""
    new = values("gemma3")
    config = config_of(new)
    assert config.windows == (5, 5, None, 5, 5, None)
    assert config.layer_ropes == (1, 1, 0, 1, 1, 0)
    assert [rope.theta for rope in config.ropes] == [10000, 50]
    removed = dict.fromkeys(("layer_types", "rope_parameters", "_sliding_window_pattern"), ...)
    scaling = {"rope_type": "linear", "factor": 2.5}
    ropes = {"rope_theta": 10000, "rope_scaling": scaling, "rope_local_base_freq": 50}
    old = edited(new, **removed, **ropes, cache_implementation="hybrid")
    assert config_of(old, sliding_window_pattern=3) == config
    assert config_of(old).windows == (5, 5, 5, 5, 5, None)


@pytest.mark.parametrize("line", lines("released.jsonl"), ids=lambda line: json.loads(line)["name"])
def test_read_config_reads_released_configs(line):
    """As the Hub has them, whatever defaults transformers has today."""
    released = json.loads(line)
    fields = config_of(released["config"]).to_json()
    text = released["config"].get("text_config", {})
    names = text.get("model_type", ""), released["config"]["model_type"] + "_text"
    assert any(fields["model_type"] in name for name in names)
    del fields["model_type"]
    assert digest(fields)[:16] == released["digest"]
