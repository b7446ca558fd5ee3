"""RYS's configurations: the meaning of blocks, all layouts, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola_jax.formats.peers import document
from cola_jax.formats.peers.document import Field
from cola_jax.formats.peers.rys import read_rys, rys_paths

PLAIN = tuple(range(8))


def read(folder, content, num_layers=8):
    (folder / "list").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_rys(folder / "list", num_layers)


@given(st.integers(1, 40).flatmap(lambda j: st.tuples(st.integers(0, j - 1), st.just(j))))
def test_a_block_runs_twice(block):
    i, j = block
    assert rys_paths(Field("f", "", [[i, j]]), 40) == [(*range(j), *range(i, 40))]


def test_a_block_of_no_layer_is_the_identity(tmp_path):
    assert read(tmp_path, "(0, 0)\n") == read(tmp_path, [[0, 0]]) == [PLAIN]


def test_blocks_are_inserted_one_after_another(tmp_path):
    # the second one goes after the last run of its end
    (path,) = read(tmp_path, "blocks:2,4;3,4")
    assert path == (0, 1, 2, 3, 2, 3, 3, 4, 5, 6, 7)
    (path,) = read(tmp_path, "5,7;(1, 3)")
    assert path == (0, 1, 2, 1, 2, 3, 4, 5, 6, 5, 6, 7)
    assert read(tmp_path, "blocks:2,4;0,0") == read(tmp_path, "2,4")


def test_all_layouts_are_read(tmp_path):
    doubled = (0, 1, 2, 2, 3, 4, 5, 6, 7)
    lines = "# found on 16 questions\n(2, 3)\n\n2,3  # bare\nBlocks: 2,3\nlayers:0,1, 2,2\n"
    assert read(tmp_path, lines) == [doubled] * 3 + [(0, 1, 2, 2)]
    assert read(tmp_path, [[2, 3], "(2,3)", [0, 1, 2], "layers:7"]) == [
        *(doubled, doubled, (0, 1, 2), (7,))
    ]
    queue = [
        {"idx": 0, "layers": [1, 2], "spec": "layers:1,2", "legacy_key": [2, 3]},
        {"idx": 1, "key": [2, 3]},
        {"idx": 2, "key": "(2, 3)"},
        {"idx": 3, "blocks": "2,3"},
        {"idx": 4, "layer_indices": [3]},
        {"idx": 5, "layers": None, "spec": "layers:5"},
    ]
    assert read(tmp_path, queue) == [(1, 2), doubled, doubled, doubled, (3,), (5,)]
    manifest = {"source_num_layers": 8, "layer_indices": [0, 1, 1]}
    assert read(tmp_path, manifest) == read(tmp_path, {"rys_relayer": manifest}) == [(0, 1, 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("(2,3)\n(4, 4)", r"line 2 is '\(4, 4\)': a block .* i < j; \(4, 4\)"),
        ("(5,3)", "i < j"),
        ("(3,0)", "i < j"),
        ("(2,3)\n(2, 9)", r"line 2 .* largest layer id of the file is 8, .* layers 0..7"),
        ("(2,3)\n0-5,7", "line 2 is '0-5,7': this is no configuration of RYS"),
        ("(2,3)\n1,2,3", "this is no configuration"),
        ("(2,3)\n(1,2", "this is no configuration"),
        ("blocks:", "this is no configuration"),
        ("blocks:1,2;-1,2", "this is no configuration"),
        ("layers:", "layer ids separated by commas"),
        ("layers:1,,2", "layer ids separated by commas"),
        ("layers:1,8", "largest layer id of the file is 8"),
        ("layers:1,99999999999", "layer ids separated by commas"),
        pytest.param("blocks:" + "0,8;" * 1251, "at most 10000 layers", id="long"),
        ([[2, 3], [2, True]], r"\[1\]\[1\] is True: an integer"),
        ([[2, 3], [2, 9]], r"\[1\] is \[2, 9\]: the largest layer id of the file is 8"),
        ([[2, 3], [9, 2]], "i < j"),
        ([[2, 3], []], r"\[1\] is \[\]: a path has 1 to 10000"),
        ([[2, 3], 4], r"\[1\] is 4: text belongs"),
        ([{"idx": 3}], "it has none of layers, layer_indices, blocks, key, spec"),
        ([{"layers": "0,1"}], r"\[0\].layers is '0,1': a list"),
        ([{"spec": 3}], r"\[0\].spec is 3: text"),
        ({"layer_indices": [0], "source_num_layers": 64}, "is 64: but the model has 8 layers"),
        ({"rys_relayer": [0]}, "a mapping belongs here"),
        ({"layers": [0]}, "it has no 'layer_indices'"),
        ("[[2, 3]", "cannot be read"),
    ],
)
def test_read_rys_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as refused:
        read(tmp_path, content)
    assert str(refused.value).startswith(str(tmp_path / "list"))
    assert len(str(refused.value)) < 500


def test_too_many_configurations_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "MOST_PATHS", 2)
    with pytest.raises(ValueError, match="more than 2 paths"):
        read(tmp_path, [[0, 1]] * 3)
