"""JSON from elsewhere: what it may hold, and the one line that says what is wrong."""

import pytest

from cola_jax.json_text import parse_json, parse_object


def test_json_is_read() -> None:
    text = '{"a": [1, -2.5, 1e300, true, null, "\\u00e9"], "b": {"c": -9223372036854775808}}'
    parsed = {"a": [1, -2.5, 1e300, True, None, "é"], "b": {"c": -(2**63)}}
    assert parse_object(text, "file") == parse_object(text.encode(), "file") == parsed


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
