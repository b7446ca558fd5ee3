"""YAML from elsewhere: what it may hold, and the one line that says what is wrong."""

from typing import Any

import pytest
import yaml

from cola_jax import yaml_text
from cola_jax.yaml_text import parse_yaml

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"


def test_yaml_is_read_as_text_and_booleans() -> None:
    text = "a: [1, 0.5, 2001-01-01, 0x10, '1', \"null\"]\nb: {c: yes, d: off, e: ~, f: }\n"
    text += "g: &m x\nh: *m"
    assert parse_yaml(text, "file") == {
        "a": ["1", "0.5", "2001-01-01", "0x10", "1", "null"],
        "b": {"c": True, "d": False, "e": None, "f": None},
        "g": "x",
        "h": "x",
    }
    assert parse_yaml("", "file") is None


@pytest.mark.parametrize("loader", dict.fromkeys((yaml_text.LOADER, yaml.BaseLoader)))
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"^file is not YAML \(.* node content.*in line \d\)\.$"),
        ("a: b: c", r"file is not YAML \(mapping values are not allowed .*in line 1\)"),
        ("a: *b", r"file, line 1: \*b refers to no text"),
        ("%YAML 9.9", "file is not YAML"),
        ('"\\UFFFFFFFF"', "file is not YAML"),
        ("\0", "file is not YAML"),
        (BOMB, r"file, line 2: \*a refers to no text"),
        ("a: &a [*a]", r"file, line 1: \*a refers to no text"),
        ("a: 1\nb: 2\na: 3", "file, line 3: 'a' is given twice"),
        ("? [a]\n: 3", "file, line 1: a name belongs before the colon"),
        ("a: !!python/object/apply:os.system [ls]", "file, line 1: the tag '.*os.system' is not"),
        ("a: !!int 3", "the tag 'tag:yaml.org,2002:int' is not read"),
        ("a: " + "[" * 5000, "file is nested too deeply"),
        ("- " * 5000, "file is nested too deeply"),
        ("#" * 500_001, "file has 500,001 characters of YAML, but at most 500,000"),
        ("a: 1\n---\nb: 2", "file, line 2: a second document begins"),
    ],
)
def test_other_text_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, loader: Any, text: str, message: str
) -> None:
    monkeypatch.setattr(yaml_text, "LOADER", loader)
    with pytest.raises(ValueError, match=message) as error:
        parse_yaml(text, "file")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
