"""Files of paths: recognised by content, read, refused with the place, written for mergekit."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.formats.families import FAMILIES
from cola_jax.formats.peers import (
    PROJECTIONS,
    merge_path,
    mergekit_config,
    read_paths,
    with_blocks,
)
from cola_jax.formats.table import output_names
from cola_jax.path import parse_path
from cola_jax.steps import ATTENTION, MLP


def cases(name):
    return [json.loads(x) for x in Path(__file__).with_name(name).read_text().splitlines()]


def write(folder, content):
    (folder / "paths").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "paths"


@pytest.mark.parametrize("case", cases("paths.jsonl"), ids=lambda case: case["name"])
def test_read_paths_recognises_the_format(tmp_path, case):
    paths = read_paths(write(tmp_path, case["content"]), case["layers"])
    assert paths == [tuple(path) for path in case["paths"]]


LONG = [
    {"content": "[" * 100_000, "message": "recursion"},
    {"content": "blocks:" + "0,3;" * 1251, "message": "more than 6 layers"},
]


@pytest.mark.parametrize("case", [*cases("broken_paths.jsonl"), *LONG])
def test_read_paths_refuses(tmp_path, case):
    with pytest.raises(ValueError, match=case["message"]) as refused:
        read_paths(write(tmp_path, case["content"]), 3)
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


def test_a_merge_leaves_out_parts_by_zeros():
    path = parse_path("0-1,(2-3)a,2m,4", 5)
    outputs = {ATTENTION: ["o_proj"], MLP: ["down_proj"]}
    config = yaml.safe_load(mergekit_config(path, "m", outputs))
    assert config["slices"][1]["sources"][0] == {
        "model": "m",
        "layer_range": [2, 4],
        "parameters": {"scale": [{"filter": "down_proj", "value": 0.0}, {"value": 1.0}]},
    }
    assert merge_path(config, 5) == path


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            [{"filter": "o_proj", "value": 0.5}, {"filter": "down_proj", "value": 0.5}],
            "0a\\*0.5,0m",
        ),
        ([{"value": 0.5}], "by other than 0 or 1"),
        ([{"filter": "proj", "value": 0}], "'proj' scales more than the outputs"),
        ([{"filter": "o_proj", "value": [0, 1]}], "valid number"),
        (0.5, "valid list"),
    ],
)
def test_merge_path_refuses_other_scales(scale, message):
    """Of a layer of weights, its MLP reads the scaled attention."""
    source = {"model": "m", "layer_range": [0, 2], "parameters": {"scale": scale}}
    content = {"merge_method": "passthrough", "slices": [{"sources": [source]}]}
    with pytest.raises(ValueError, match=message):
        merge_path(content, 3)


def test_projections_are_those_of_families():
    for family in FAMILIES.values():
        for part, names in PROJECTIONS.items():
            assert {*output_names(family.weights, part)} <= {*names}


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
