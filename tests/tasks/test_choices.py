"""Options in a cell, and what answers mean that are numbers."""

import pytest

from cola_jax.errors import InputError
from cola_jax.tasks.choices import (
    Numbered,
    answer_index,
    choose_meaning,
    meanings_of,
    options_by_label,
    quoted_list,
)

FOUR = {"A": "red", "B": "blue", "C": "green", "D": "grey"}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("['a', 'b']", ["a", "b"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),  # of NumPy
        ("""["Ann's", 'say "x"']""", ["Ann's", 'say "x"']),
        (r"['it\'s', 'two\nlines', 'back\\slash']", ["it's", "two\nlines", "back\\slash"]),
        ("['']", [""]),
    ],
)
def test_quoted_list_reads_texts(text, options):
    assert quoted_list(text) == options


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a, b",
            "[a, b]",
            "['a', b]",
            "['a', None]",
            "['a'] + ['b']",
            "['a', 'b'",
            "[]",
            "['a',]",
        ),
        *("[]", "['a', f'b']", "['a'.upper()]", "[__import__('os')]", r"['\x41']", "['a', ['b']]"),
    ],
)
def test_quoted_list_reads_nothing_else(text):
    assert quoted_list(text) is None


def test_quoted_list_is_linear():
    assert quoted_list("['" + "\\'" * 200_000 + "]") is None
    assert quoted_list("['a'" + " " * 200_000 + "b]") is None


def test_options_by_label_refuses_labels_that_are_not_theirs():
    with pytest.raises(ValueError, match=r"labels .* of the 2 options must be theirs"):
        options_by_label({"text": ["a", "b"], "label": ["A", "A"]})


def numbered(*answers, options=FOUR):
    return [Numbered(f"row {i}", x, meanings_of(x, options)) for i, x in enumerate(answers)]


@pytest.mark.parametrize(
    ("answers", "options", "meaning"),
    [
        ((0, 3), FOUR, "0"),
        ((1, 4), FOUR, "1"),
        (("1.0", 4.0), FOUR, "1"),
        ((1, 2), {"1": "red", "2": "blue"}, "label"),
        ((0, 1), {"1": "red", "2": "blue"}, "0"),  # though the columns count from 1
        ((15, 20), {"A": 15, "B": 20}, "text"),
        ((2, 9), FOUR, "1"),  # 9 is refused where it is used
        ((), FOUR, "0"),
    ],
)
def test_choose_meaning_takes_the_one_that_fits_all_rows(answers, options, meaning):
    rows = numbered(*answers, options=options)
    if answers == (2, 9):
        rows += numbered(4)
    assert choose_meaning(rows) == meaning


def test_choose_meaning_refuses_what_stays_open():
    for answers, message in (
        ((1, 2), "row 0: the answer 1 may count from 0 or from 1.*--answers-from 0 or"),
        ((0, 4), r"neither from 0 \(row 1: 4\) nor from 1 \(row 0: 0\)"),
    ):
        with pytest.raises(InputError, match=message):
            choose_meaning(numbered(*answers))
    with pytest.raises(InputError, match=r"may count from 1 or be the text .*--answers-from 1 "):
        choose_meaning(
            numbered(2, options={"A": 1, "B": 3, "C": 2})
            + numbered(3, options={"A": 3, "B": 1, "C": 2})
        )


def test_answer_index_takes_one_option_alone():
    options = {"A": "B", "B": "A", "C": "AB"}
    assert answer_index("(c)", options, "0") == 2
    assert answer_index("AB", options, "0") == 2
    with pytest.raises(InputError, match=r"the number \(1 to 3\), the letter or the text of an op"):
        answer_index(0, options, "1")
    for answer in ("A", "D", "", True, 7, None):
        with pytest.raises(InputError, match="not of two options"):
            answer_index(answer, options, "0")
