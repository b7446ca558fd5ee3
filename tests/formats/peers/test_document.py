"""Fields of files: what they hold, and errors that name the file, the place and the value."""

import pytest

from cola_jax.formats.peers import document
from cola_jax.formats.peers.document import Field, check_count, check_layers, parse_json


def field(value):
    return Field("f.json", "samples[3]", value)


def test_child_names_the_place():
    content = parse_json("f.json", '{"samples": [{"a b": [1, 2]}]}')
    child = content.child("samples").child(0).child("a b").child(1)
    assert (child.place, child.value) == ("samples[0]['a b'][1]", 2)
    assert content.get("others") is None
    with pytest.raises(ValueError, match=r"f.json: the file is .*: it has no 'others'"):
        content.require("others")
    escape = parse_json("f.json", '{"\\u001b[31m\\ud800": 1}')
    assert escape.child("\x1b[31m\ud800").place == "['\\x1b[31m\\ud800']"


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (Field.mapping, [1], "a mapping belongs here"),
        (Field.size, {"a": 1}, "a list belongs here"),
        (Field.size, "0,1,2", "a list belongs here"),
        (Field.text, 3, "text belongs here"),
        (Field.label, True, "text belongs here"),
        (Field.label, [1], "text belongs here"),
        (Field.integer, True, "True: an integer from 0 up"),
        (Field.integer, -1, "-1: an integer"),
        (Field.integer, 2.0, "2.0: an integer"),
        (Field.integer, "2", "'2': an integer"),
        (Field.integer, None, "None: an integer"),
        (Field.right, 1.5, "1.5: a score from 0 to 1"),
        (Field.right, "1", "a score from 0 to 1"),
        (Field.right, float("nan"), "nan: a score from 0 to 1"),
        (Field.path, [], "1 to 10000 layers, this one has 0"),
        (Field.path, [0] * 10_001, "1 to 10000 layers, this one has 10001"),
        (Field.path, [0, True], r"samples\[3\]\[1\] is True: an integer"),
        (Field.path, [0, [1]], r"samples\[3\]\[1\] is \[1\]: an integer"),
        (Field.path, [0, 1e400], r"samples\[3\]\[1\] is inf: an integer"),
        (Field.paths, [[0], 1], r"samples\[3\]\[1\] is 1: a list"),
        pytest.param(Field.integer, -(16**6000), "a huge number: an integer", id="huge"),
    ],
)
def test_field_refuses(read, value, message):
    with pytest.raises(ValueError, match=message) as refused:
        read(field(value))
    assert str(refused.value).startswith("f.json: samples[3]")
    assert len(str(refused.value)) < 400


def test_field_reads():
    assert field([0, 1, 1]).path() == (0, 1, 1)
    assert field([[0], [1, 2], [0]]).paths() == [(0,), (1, 2)]
    assert [field(value).right() for value in (0, 1, True, False, 0.5, 1.0)] == [
        *(False, True, True, False, False, True)
    ]
    assert [field(value).label() for value in ("x", 3, 0.5)] == ["x", "3", "0.5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n]', r"f.json cannot be read \(.* line 2"),
        pytest.param("[" * 100_000, "recursion", id="deep"),
        pytest.param("[" + "1" * 5000 + "]", "cannot be read", id="huge"),
        ("[1] [2]", "Extra data"),
    ],
)
def test_parse_json_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json("f.json", text)


def test_limits_are_named(monkeypatch):
    monkeypatch.setattr(document, "MOST_PATHS", 2)
    check_count("f.json", 2)
    with pytest.raises(ValueError, match="has more than 2 paths"):
        check_count("f.json", 3)
    with pytest.raises(ValueError, match="more than 2 paths"):
        field([[0], [1], [2]]).paths()
    check_layers(field([4]), 4, 5)
    with pytest.raises(ValueError, match=r"largest layer id of the file is 5, .* layers 0..4"):
        check_layers(field([5]), 5, 5)
