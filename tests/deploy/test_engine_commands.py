"""Commands of other engines: the path that they name, and the models that they refuse."""

import json
import re
import shlex

import pytest

from cola_jax.checkpoint import read_metadata
from cola_jax.config import ModelConfig
from cola_jax.deploy.engine_commands import (
    EXLLAMAV3,
    BaseWeights,
    commands_of,
    exllamav3_command,
    layer_map,
    transformers_code,
    vllm_overrides,
)
from cola_jax.errors import InputError
from cola_jax.formats.families import FAMILIES
from cola_jax.path import parse_path

COMMIT = "c" * 40
ON_HUB = BaseWeights("someone/tiny", COMMIT, on_hub=True)


def parse_layer_map(text):
    """Read a layer map as `parse_int_list` of exllamav3 documents it."""
    layers = []
    for part in text.split(","):
        first, last = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part).groups()
        layers += range(int(first), int(last or first) + 1)
    return tuple(layers)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((0, 1, 2, 3), "0..3"),
        ((0,), "0"),
        ((0, 1, 1, 2, 5), "0..1,1..2,5"),
        ((4, 3, 2, 2), "4,3,2,2"),
        ((*range(16), *range(11, 32)), "0..15,11..31"),  # of its own help
    ],
)
def test_layer_map_has_both_ends_of_ranges(path, text):
    assert layer_map(path) == text
    assert parse_layer_map(text) == path


def test_layer_map_refuses_parts_and_shares():
    with pytest.raises(InputError, match=r"path 0,1a has parts or shares .* --format hf, and sh"):
        layer_map(parse_path("0,1a", 2))


def config_of(pair, variant):
    return ModelConfig.from_json(read_metadata(pair(variant).checkpoint)["config"])


def test_commands_name_the_model_its_revision_and_the_path(pair):
    config = config_of(pair, "llama-gqa")
    path = (0, 1, 1, 2)
    commands = commands_of(ON_HUB, config, path)
    assert [*commands] == ["cola", "transformers", "vllm", "exllamav3"]
    assert f"--model someone/tiny@{COMMIT} --path '0,1,1,2' " in commands["cola"]
    assert f'from_pretrained("someone/tiny", revision="{COMMIT}")' in commands["transformers"]
    assert 'cola_jax.apply_path(model, "0,1,1,2")' in commands["transformers"]
    words = shlex.split(commands["vllm"])
    assert words[:5] == ["vllm", "serve", "someone/tiny", "--revision", COMMIT]
    assert json.loads(words[-1])["cola_path"] == [0, 1, 1, 2]
    assert commands["exllamav3"] == (
        f"hf download someone/tiny --revision {COMMIT} --local-dir tiny && "
        "python examples/chat.py -m tiny -layer_map 0..1,1..2"
    )
    local = BaseWeights("/home/me/my models/a'b", None, on_hub=False)
    for engine in ("vllm", "exllamav3"):
        assert local.name in shlex.split(commands_of(local, config, path)[engine])
    assert "/home" not in str(commands_of(local.public, config, path))


def test_commands_name_steps(pair):
    """exllamav3 has none, so its command is missing."""
    commands = commands_of(ON_HUB, config_of(pair, "llama-gqa"), parse_path("0,1a,(2-3)*0.5", 6))
    assert [*commands] == ["cola", "transformers", "vllm"]
    overrides = json.loads(shlex.split(commands["vllm"])[-1])
    assert overrides["cola_path"] == [0, "1a", "2*0.5", "3*0.5"]
    with pytest.raises(InputError, match=r"path \(0-1\)m has no attention"):
        vllm_overrides(config_of(pair, "llama-gqa"), parse_path("0m,1m", 6))
    assert "--path '0,1a,(2-3)*0.5' " in commands["cola"]
    assert 'cola_jax.apply_path(model, "0,1a,(2-3)*0.5")' in commands["transformers"]


def test_code_for_transformers_applies_the_path(pair):
    made = pair("llama-gqa")
    base = BaseWeights(str(made.folder), None, on_hub=False)
    names = {}
    exec(compile(transformers_code(base, (0, 1, 1, 2)), "card", "exec"), names)
    layers = names["model"].model.layers
    assert len(layers) == 4
    assert layers[1].mlp is layers[2].mlp


def test_commands_are_those_of_engines_that_can_run_the_path(pair):
    config = config_of(pair, "olmoe")
    with pytest.raises(InputError, match="olmoe cannot run along a path in exllamav3, which has a"):
        exllamav3_command(ON_HUB, config, (0, 1))
    assert [*commands_of(ON_HUB, config, (0, 1))] == ["cola", "transformers", "vllm"]
    config = config_of(pair, "gemma4-e")
    with pytest.raises(InputError, match="Gemma4ForCausalLM is not among those of the plugin"):
        vllm_overrides(config, (0, 1))
    assert [*commands_of(ON_HUB, config, (0, 1))] == ["cola", "transformers"]


def test_base_weights_are_what_the_checkpoint_was_converted_from(pair, tmp_path):
    made = pair("llama-gqa")
    metadata = read_metadata(made.checkpoint)
    folder = str(made.folder)
    assert BaseWeights.of(metadata) == (folder, None, False)
    assert BaseWeights.of(metadata, folder).name == folder
    assert BaseWeights.of(metadata, "me/base") == ("me/base", None, True)
    assert BaseWeights.of(metadata, "me/base@v1") == ("me/base", "v1", True)
    hub = metadata | {"origin": {"kind": "hub", "name": "someone/tiny", "revision": COMMIT}}
    assert BaseWeights.of(hub) == ON_HUB
    cached = f"/x/models--someone--tiny/snapshots/{COMMIT}"
    assert BaseWeights.of(metadata | {"origin": {"kind": "directory", "name": cached}}) == ON_HUB
    other = str(pair("qwen3").folder)
    for origin, source, message in (
        ({"kind": "gguf", "name": "/x/a.gguf"}, None, r"^a\.gguf was converted from a gguf file"),
        ({"kind": "hub", "name": "a/b", "revision": COMMIT, "multimodal": "gemma3"}, None, "once"),
        ({"kind": "hub", "name": "a/b", "revision": COMMIT, "multimodal": "gemma3"}, "a/b", "once"),
        ({"kind": "directory", "name": "/x/gone"}, None, "/x/gone, .* is not a directory here"),
        (metadata["origin"], "nowhere", "--source nowhere is neither a directory nor a Hub id"),
        (metadata["origin"], str(tmp_path), r"config\.json"),
        (metadata["origin"], other, r"its model_type is qwen3, here it is llama.*Give the direc"),
    ):
        with pytest.raises(InputError, match=message):
            BaseWeights.of(metadata | {"origin": origin}, source)


def test_models_of_exllamav3_are_ours():
    assert FAMILIES.keys() > EXLLAMAV3
