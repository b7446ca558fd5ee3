"""mergekit recipes."""

import pytest
import yaml

from cola_jax.deploy.mergekit import write_recipe


def test_write_recipe_lists_the_ranges_of_the_path(pair, tmp_path):
    config, path = pair("llama-gqa").ours.config, (0, 1, 2, 1, 2, 4, 5)
    write_recipe(path, config, "someone/tiny@abc", tmp_path / "path.yaml")
    recipe = yaml.safe_load((tmp_path / "path.yaml").read_text())
    assert recipe["merge_method"] == "passthrough"
    sources = [source for one in recipe["slices"] for source in one["sources"]]
    assert {source["model"] for source in sources} == {"someone/tiny@abc"}
    ranges = [source["layer_range"] for source in sources]
    assert ranges == [[0, 3], [1, 3], [4, 6]]
    assert tuple(layer for a, b in ranges for layer in range(a, b)) == path
    with pytest.raises(ValueError, match=r"path\.yaml exists already"):
        write_recipe(path, config, "someone/tiny", tmp_path / "path.yaml")


def test_write_recipe_refuses_layers_that_differ(pair, tmp_path):
    for variant in ("gemma3", "qwen2-window"):
        config = pair(variant).ours.config
        with pytest.raises(ValueError, match=r"path 0,2-5 cannot be .* differ in window or rotary"):
            write_recipe((0, 2, 3, 4, 5), config, "m", tmp_path / "path.yaml")
    assert not list(tmp_path.iterdir())
    write_recipe((0, 2), pair("mistral-window").ours.config, "m", tmp_path / "path.yaml")
