"""What messages take from errors, the hints that they give, and things that do not belong."""

import errno

import pytest

from cola_jax import errors
from cola_jax.errors import InputError, check_belongs, did_you_mean, of_system, printed


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("serch", " (did you mean search?)"),
        ("--MAX_SKP", " (did you mean max-skip?)"),
        ("max", " (did you mean max-skip?)"),  # the shortest that begins so
        *(("zzz", ""), ("s" * 10**6, ""), ("", "")),
    ],
)
def test_did_you_mean(name, hint):
    assert did_you_mean(name, ["search", "max-skip-block", "max-skip"]) == hint


def test_texts_are_short_and_of_one_line():
    assert errors.first_line(ValueError("it failed.\nRequest ID: 1")) == "it failed"
    assert errors.first_line(TimeoutError()) == "TimeoutError"
    assert [errors.count(n, "model") for n in (1, 2000)] == ["1 model", "2,000 models"]
    assert errors.shorten(["a", "b", "c"], limit=2) == "a, b and 1 more"
    assert printed("a\nb") == "'a\\nb'"
    assert len(printed("a" * 10_000)) < 100
    assert errors.one_line("a\nb\x1b[0m é [/x]") == "a\\nb\\x1b[0m é [/x]"
    assert len(errors.one_line("x" * 100_000)) < 2100


def test_of_system_names_the_file(tmp_path):
    with pytest.raises(OSError, match="Is a directory") as caught:
        tmp_path.write_text("")
    assert of_system(caught.value).startswith(f"{printed(str(tmp_path))}: Is a directory. Give")
    assert of_system(OSError("a message of ours")) == "a message of ours"
    full = OSError(errno.ENOSPC, "No space left on device", "from", None, "to")
    assert of_system(full).startswith("to: No space left on device. Make room")


def test_check_belongs_names_what_differs_and_ignores_what_one_side_does_not_know():
    theirs = {"model": "a" * 64, "path": None, "questions": {"q": "1", "r": "2", "s": "3"}}
    check_belongs("f", theirs, "this model", {"path": "x", "questions": {"q": "1"}}, "stop")
    ours = {"model": "b" * 64, "questions": {"q": "1", "r": "9"}}
    message = (
        "menu.json does not belong to this model: its model is aaaaaaaaaaaa, here it is "
        r"bbbbbbbbbbbb; 1 of 3 questions have changed \('r'\). Make it again."
    )
    with pytest.raises(InputError, match=message):
        check_belongs("menu.json", theirs, "this model", ours, "make it again")
