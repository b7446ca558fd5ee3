"""Files whose format is recognised by what is in them."""

import json

import pytest

from cola_jax.formats.peers import document
from cola_jax.formats.peers.drllm import drllm_results
from cola_jax.formats.peers.mergekit import mergekit_config
from cola_jax.formats.peers.polar import polar_samples
from cola_jax.formats.peers.read import read_paths, read_searched
from cola_jax.formats.peers.searched import Searched

SEARCHED = [
    Searched("1 + 1?", "2", ((0, 2), (0, 1, 1, 2)), ((0, 1, 2), (2,)), False),
    Searched("2 + 2?", "4", ((0, 1, 2),), ((1,),), True),
]
POLAR = polar_samples(SEARCHED, 3)
DRLLM = drllm_results(SEARCHED, 3, "someone/model", "sums", 100)
MERGE = mergekit_config((0, 1, 1, 2), "someone/model")
CORRECT = [(0, 2), (0, 1, 1, 2), (0, 1, 2)]


def write(folder, content):
    (folder / "paths").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "paths"


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        ("0-2\n0,2 # short\n\n0-2\n", [(0, 1, 2), (0, 2)]),
        ("(0-1)x2,2\n0-0,2\n", [(0, 1, 0, 1, 2), (0, 2)]),
        ("(1,2)\n0,2\n", [(0, 1, 1, 2), (0, 1, 0, 1, 2)]),
        ([[1, 2], [0, 0]], [(0, 1, 1, 2), (0, 1, 2)]),
        (POLAR, [*CORRECT, (2,), (1,)]),
        (DRLLM, CORRECT),
        (MERGE, [(0, 1, 1, 2)]),
        (
            {
                "merge_method": "passthrough",
                "slices": [{"sources": [{"model": "m", "layer_range": [1, 3]}]}],
            },
            [(1, 2)],
        ),
    ],
)
def test_read_paths_recognises_the_format(tmp_path, content, paths):
    assert read_paths(write(tmp_path, content), 3) == paths


def test_read_searched_recognises_the_format(tmp_path):
    assert read_searched(write(tmp_path, POLAR)) == SEARCHED
    assert len(read_searched(write(tmp_path, DRLLM), 3)) == 2
    for content in ({"a": 1}, [[0, 1]]):
        with pytest.raises(ValueError, match="no format that is known here"):
            read_searched(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0-2\n0-3", ":2: .*layers 0..2"),
        ("0,1\n0,2\n", r"only pairs such as '0,1', .* write \(0,1\) for the block, or 0-0,1"),
        ("0-2,0-2,0-2", ":1: .*more than 6 layers"),
        ({"samples": []}, "has no path"),
        ("# nothing\n", "has no path"),
        ({"a": 1}, "no format that is known here"),
        ([1, 2], "no format that is known here"),
        (["(1,4)"], "largest layer id of the file is 3"),
        ([[0, 1, 2] * 3], "path 1 of 1 runs 9 layers, but at most 6"),
        (mergekit_config((0, 5), "m"), "largest layer id of the file is 5, .* layers 0..2"),
        (POLAR | {"num_layers": 4}, "num_layers is 4: but the model has 3"),
        (DRLLM | {"num_layers": 4}, "num_layers is 4: but the model has 3"),
        pytest.param("x" * 100_001, "a line of 100001 characters", id="line"),
        pytest.param("0,x" * 9000, r":1: path '0,x.*\.\.\..* has 'x0'", id="text"),
        pytest.param("[" * 100_000, "recursion", id="deep"),
    ],
)
def test_read_paths_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_paths(write(tmp_path, content), 3)
    assert str(refused.value).startswith(str(tmp_path / "paths"))
    assert len(str(refused.value)) < 1000


def test_read_paths_allows_longer_ones(tmp_path):
    assert len(read_paths(write(tmp_path, [[0, 1, 2] * 3]), 3, max_length=9)[0]) == 9


def test_too_many_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_PATHS", 2)
    with pytest.raises(ValueError, match="more than 2 paths"):
        read_paths(write(tmp_path, "0-2\n" * 3), 3)
