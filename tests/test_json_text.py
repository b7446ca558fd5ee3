"""JSON from elsewhere: what it may hold and what is wrong with it; and JSON that people read."""

import json
import math
from pathlib import PurePath

import pytest

from cola_jax.json_text import parse_json, parse_object, readable_json


def test_json_is_read() -> None:
    text = '{"a": [1, -2.5, 1e300, true, null, "\\u00e9"], "b": {"c": -9223372036854775808}}'
    parsed = {"a": [1, -2.5, 1e300, True, None, "é"], "b": {"c": -(2**63)}}
    assert parse_object(text, "file") == parse_object(text.encode(), "file") == parsed
    assert parse_object('{"a": [1], "a": [1]}', "file") == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"file: this is not JSON \(Expecting value\)\."),
        ('{\n"a": }', r"file: this is not JSON \(Expecting value in line 2\)\."),
        ("[" * 10**6, "file: this is nested too deeply to be read"),
        ('{"a":' * 10**6, "file: this is nested too deeply to be read"),
        ("9" * 5000, "file: an integer of 5,000 digits is out of range"),
        ("-" + "1" * 20, "file: an integer of 20 digits is out of range"),
        ("1e400", "file: the number '1e400' is out of range"),
        ("[NaN]", "file: NaN is not a number that JSON has"),
        ("-Infinity", "file: -Infinity is not a number that JSON has"),
        (b"\xff", "file: this is not UTF-8 text"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "file: 'c' is given two values"),
        ('{"a": "\\ud800"}', r"file: '\\ud800' is half a character"),
    ],
)
def test_other_text_gives_one_line(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_json(text, "file")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_numbers_of_files_of_others_are_left_alone() -> None:
    assert parse_json("1" * 100, "file", finite=False) == int("1" * 100)
    with pytest.raises(ValueError, match="file cannot be read as JSON"):
        parse_json("1" * 5000, "file", finite=False)


def test_an_object_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"file: a JSON object belongs here, not \[1\]"):
        parse_object("[1]", "file")


def test_readable_json_has_a_path_on_one_line() -> None:
    value = {"paths": [[0, 1, 1], (), (2,)], "empty": {}, "é\n": [1.5, True, None, {"a": [3, 4]}]}
    text = readable_json(value)
    assert text.splitlines() == [
        "{",
        '  "paths": [',
        "    [0, 1, 1],",
        "    [],",
        "    [2]",
        "  ],",
        '  "empty": {},',
        '  "\\u00e9\\n": [',
        "    1.5,",
        "    true,",
        "    null,",
        "    {",
        '      "a": [3, 4]',
        "    }",
        "  ]",
        "}",
    ]
    assert json.loads(text) == json.loads(json.dumps(value))


def test_readable_json_takes_the_options_of_dumps() -> None:
    assert readable_json({"at": PurePath("a")}, default=str) == '{\n  "at": "a"\n}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        readable_json([{"a": math.nan}], allow_nan=False)
