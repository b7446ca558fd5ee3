"""Files of paths: recognised by content, read, refused with the place, written for mergekit."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.formats.peers import merge_path, mergekit_config, read_paths, with_blocks

VALID, INVALID = "final_valid_transitions", "final_invalid_transitions"
POLAR = {
    "num_layers": 3,
    "samples": [
        {VALID: [[0, 2], [0, 1, 1, 2]], INVALID: [[0, 1, 2], [2]]},
        {VALID: [[0, 1, 2]], INVALID: [[1]]},
        {VALID: [], INVALID: [[0]]},
    ],
}
DRLLM = {
    "num_layers": 3,
    "questions": ["1 + 1?", "2 + 2?", "3 + 3?"],
    "best_response": ["2", {"text": ["4"]}, {"text": []}],
    "original_correct": [0, 1, 0],
    "best_path": [[0, 2], [0, 1, 2], [0]],
    "good_paths": [[[0, 2], [0, 1, 1, 2]], [], []],
    "mcts_correct": [1, 1, 0],
}
CORRECT = [(0, 2), (0, 1, 1, 2), (0, 1, 2)]
MERGE = """
slices:
  - sources:
    - model: someone/model
      layer_range: [0, 2]
  - sources:
    - {model: someone/model, layer_range: [1, 3]}
merge_method: passthrough
dtype: float16
"""
SLICES = {"slices": yaml.safe_load(MERGE)["slices"]}
# as mergekit_config.yml
MODULE = yaml.safe_dump({"merge_method": "passthrough", "modules": {"default": SLICES}})


def merge(old, new):
    """Change a part of MERGE."""
    assert old in MERGE
    return MERGE.replace(old, new)


def write(folder, content):
    (folder / "paths").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "paths"


@pytest.mark.parametrize(
    ("content", "layers", "paths"),
    [
        ("0-2\n0,2 # short\n\n0-2\n", 3, [(0, 1, 2), (0, 2)]),
        ("(0-1)x2,2\n0-0,2\n", 3, [(0, 1, 0, 1, 2), (0, 2)]),
        ("0..2,1,2..4\n", 5, [(0, 1, 2, 1, 2, 3, 4)]),
        ("(1,2)\n0,2\n", 3, [(0, 1, 1, 2), (0, 1, 0, 1, 2)]),
        ([[1, 2], [0, 0]], 3, [(0, 1, 1, 2), (0, 1, 2)]),
        (POLAR, 3, [*CORRECT, (2,), (1,), (0,)]),
        ([{VALID: [[0, 1]], INVALID: None}], 3, [(0, 1)]),
        ({"a": {VALID: [{"path": [0, 1]}], INVALID: [[1]]}}, 3, [(0, 1), (1,)]),
        (DRLLM, 3, [*CORRECT, (0,)]),
        (mergekit_config((0, 1, 1, 2), "m"), 3, [(0, 1, 1, 2)]),
        ("# of RYS\n(1, 2)\n\nBlocks: 1,2;0,0\n0,2  # bare\n", 3, [(0, 1, 1, 2), (0, 1, 0, 1, 2)]),
        ("(0, 0)", 3, [(0, 1, 2)]),
        ([[1, 2], [0, 1, 2], [2]], 3, [(0, 1, 1, 2), (0, 1, 2), (2,)]),
        (MERGE, 3, [(0, 1, 1, 2)]),
        (MERGE + "base_model: someone/model\ntokenizer_source: base\n", 3, [(0, 1, 1, 2)]),
        (MODULE, 3, [(0, 1, 1, 2)]),
    ],
)
def test_read_paths_recognises_the_format(tmp_path, content, layers, paths):
    assert read_paths(write(tmp_path, content), layers) == paths


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0-2\n0-3", ":2: .*layers 0..2"),
        ("0,1\n0,2\n", r"only pairs such as '0,1', .* write \(0,1\) for the block, or 0-0,1"),
        ("0-2,0-2,0-2", ":1: .*more than 6 layers"),
        ({"samples": []}, "has no path"),
        ({"a": 1}, "format is unknown"),
        ("(1,2)\n(2, 2)", r":2: .*got \(2, 2\)"),
        ("(1,2)\n0-5,7", ":2: '0-5,7' is not a configuration of RYS"),
        ("blocks:" + "0,3;" * 1251, "more than 6 layers"),
        ([[1, 2], [2, True]], "cannot be read .1.1: Input should be a valid integer, got True"),
        ([[0, 1, 2] * 3], "9 layers, but at most 6"),
        (mergekit_config((0, 5), "m"), "end <= 3, the number of layers"),
        (POLAR | {"num_layers": 4}, "of a model of 4 layers, but the model has 3"),
        (POLAR | {"num_layers": None, "samples": [{VALID: [[3]]}]}, r"question 1: .* ids \[3\]"),
        ([{VALID: [[0, 1], [0, True]]}], "transitions.1.1: .*got True"),
        (DRLLM | {"best_path": [[0]]}, "cannot be read .zip"),
        pytest.param("[" * 100_000, "recursion", id="deep"),
        ('{"a": 1,\n]', "cannot be read"),
        (merge("passthrough", "slerp"), "merge_method: .*'passthrough', got 'slerp'"),
        (merge("1, 3]}", "1, 3], parameters: {}}"), "sources.0.parameters: Extra inputs"),
        (merge("dtype: float16", "parameters: {scale: 2}"), "parameters: Extra inputs"),
        (merge("{model: someone/model", "{model: other/model"), "several models"),
        (merge("- {", "- {model: b, layer_range: [0, 1]}\n    - {"), "at most 1 item"),
        (merge("slices:", "models:"), "models: Extra inputs"),
        (merge("slices:", "modules: {text: 1, vision: 2}\nbase_model:"), "modules"),
        (merge("[1, 3]", "!!python/object/apply:os.system [exit]"), "a constructor for the tag"),
    ],
)
def test_read_paths_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_paths(write(tmp_path, content), 3)
    assert str(refused.value).startswith(str(tmp_path / "paths"))
    assert len(str(refused.value)) < 800


def test_read_paths_allows_longer_ones(tmp_path):
    assert len(read_paths(write(tmp_path, [[0, 1, 2] * 3]), 3, max_length=9)[0]) == 9


@given(st.integers(1, 40).flatmap(lambda j: st.tuples(st.integers(0, j - 1), st.just(j))))
def test_a_block_runs_twice(block):
    i, j = block
    assert with_blocks([block], 40, 80) == (*range(j), *range(i, 40))


def test_blocks_are_inserted_after_the_last_run_of_their_end():
    assert with_blocks([(2, 4), (3, 4)], 8, 16) == (0, 1, 2, 3, 2, 3, 3, 4, 5, 6, 7)
    assert with_blocks([(5, 7), (1, 3)], 8, 16) == (0, 1, 2, 1, 2, 3, 4, 5, 6, 5, 6, 7)


def test_mergekit_config_stacks_ascending_ranges():
    config = yaml.safe_load(mergekit_config((0, 1, 2, 2, 3, 7, 6, -1, -1), "a/model"))
    assert config == {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a/model", "layer_range": bounds}]}
            for bounds in ([0, 3], [2, 4], [7, 8], [6, 7])
        ],
    }


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_a_merge_is_read_back(path):
    assert merge_path(yaml.safe_load(mergekit_config(path, "model")), 41) == tuple(path)


@pytest.mark.parametrize("name", ["1e5", "a: b", "# a", "~/my models/ä"])
def test_mergekit_config_keeps_the_name_of_the_model(name):
    config = yaml.safe_load(mergekit_config((0, 1), name))
    assert config["slices"][0]["sources"][0]["model"] == name


def test_mergekit_config_refuses():
    for path, name, message in (
        ((), "model", "at least one layer"),
        ((0,), "a+b", r"\+ \(a LoRA\)"),
        ((0,), "a@b@c", "one @revision"),
    ):
        with pytest.raises(ValueError, match=message):
            mergekit_config(path, name)
