"""What messages take from errors, and the hints that they give."""

import errno

import pytest

from cola_jax.errors import (
    count,
    did_you_mean,
    first_line,
    nearest,
    of_system,
    one_line,
    printed,
    shorten,
)


def test_first_line_has_no_stop_and_is_never_empty():
    assert first_line(ValueError("it failed.\nRequest ID: 1")) == "it failed"
    assert first_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("serch", "search"),
        ("--MAX_SKP", "max-skip"),
        ("max", "max-skip"),  # the shortest that begins so
        ("zzz", None),
        ("s" * 10**6, None),
        ("", None),
    ],
)
def test_nearest(name, near):
    assert nearest(name, ["search", "max-skip-block", "max-skip"]) == near
    assert did_you_mean(name, ["search", "max-skip"]) == (
        f" (did you mean {near}?)" if near else ""
    )


def test_count():
    assert [count(n, "model") for n in (0, 1, 2000)] == ["0 models", "1 model", "2,000 models"]


def test_shorten_counts_what_it_omits():
    assert shorten(["a", "b"], limit=2) == "a, b"
    assert shorten(["a", "b", "c"], limit=2) == "a, b and 1 more"


def test_printed_quotes_what_is_no_name():
    assert printed("model.norm.weight") == "model.norm.weight"
    assert printed("a\nb") == "'a\\nb'"
    assert len(printed("a" * 10_000)) < 100


def test_one_line_escapes_and_shortens():
    assert one_line("a\nb\x1b[0m é [/x]") == "a\\nb\\x1b[0m é [/x]"
    assert len(one_line("x" * 100_000)) < 2100


def test_of_system_names_the_file(tmp_path):
    with pytest.raises(OSError, match="Is a directory") as caught:
        tmp_path.write_text("")
    assert of_system(caught.value).startswith(f"{printed(str(tmp_path))}: Is a directory. Give")
    assert of_system(OSError("a message of ours")) == "a message of ours"
    full = OSError(errno.ENOSPC, "No space left on device", "from", None, "to")
    said = "no space is left at to: make room, and start the same command again."
    assert of_system(full) == said
