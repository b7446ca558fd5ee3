"""config.json of our configs, and configs that it cannot hold."""

import dataclasses

import pytest

from cola_jax.config import Rope
from cola_jax.formats.hf_config import read_config, select_layers, with_llama3, write_config

LLAMA3 = Rope(theta=500000.0, llama3=(32.0, 1.0, 4.0, 8192))


def test_select_layers_moves_attributes_with_the_layers(pair):
    config = pair("gemma3").ours.config
    assert config.windows == (5, 5, None, 5, 5, None)
    moved = select_layers(config, (2, 0, 0, 5))
    assert moved.windows == (None, 5, 5, None)
    assert moved.layer_ropes == (0, 1, 1, 0)
    assert write_config(moved, "float32")["layer_types"] == [
        *("full_attention", "sliding_attention", "sliding_attention", "full_attention")
    ]


@pytest.mark.parametrize(
    ("path", "first"),
    [((0, 1, 3, 4), 2), ((3, 4), 0), ((0, 1, 2), 3)],
)
def test_write_config_says_max_window_layers_where_it_can(pair, path, first):
    config = pair("qwen2-window").ours.config  # layers 3, 4 and 5 have a window
    values = write_config(select_layers(config, path), "float32")
    assert values["max_window_layers"] == first
    assert values["use_sliding_window"] is any(layer >= 3 for layer in path)


def test_write_config_names_what_cannot_be_held(pair):
    config = pair("qwen2-window").ours.config
    two = dataclasses.replace(config, windows=(None, 5, 5, 5, 5, 7))
    with pytest.raises(ValueError, match=r"model_type qwen2 cannot hold \{'windows'"):
        write_config(two, "float32")


def test_with_llama3_recognises_the_divisors_of_gguf_files(pair):
    plain = Rope(theta=500000.0)
    divisors = plain.frequencies(64) / LLAMA3.frequencies(64)
    stored = dataclasses.replace(plain, divisors=tuple(float(x) for x in divisors))
    assert with_llama3(stored, 64) == LLAMA3
    config = dataclasses.replace(pair("llama-gqa").ours.config, head_dim=64, ropes=(stored,))
    assert read_config(write_config(config, "float32"))[0].ropes == (LLAMA3,)
    other = dataclasses.replace(plain, divisors=(1.0,) * 31 + (2.0,))
    with pytest.raises(ValueError, match=r"divisors that are not those of Llama 3\.1"):
        with_llama3(other, 64)
