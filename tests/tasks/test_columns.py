"""Columns: their fields by name, and fields that a user names."""

import pytest

from cola_jax.errors import InputError
from cola_jax.tasks.columns import families, field_pairs, find_columns


def test_find_columns_knows_names_in_any_spelling():
    columns = find_columns(["ID", "Question Stem", "Option-A", "option_b", "ANSWER_KEY", "note"])
    assert columns.of == {
        "question": ("Question Stem",),
        "options": ("Option-A", "option_b"),
        "answer": ("ANSWER_KEY",),
        "id": ("ID",),
    }
    assert (columns.labels, columns.unused) == (("A", "b"), ("note",))
    assert columns.describe() == (
        "question from 'Question Stem'; options from 'Option-A', 'option_b'; answer from "
        "'ANSWER_KEY'; id from 'ID'"
    )


def test_find_columns_takes_the_users_fields():
    names = ["question", "text", "a+b", "c", "d", "key"]
    columns = find_columns(names, field_pairs("question=text, options=c+d,answer = key"))
    assert columns.of == {"question": ("text",), "options": ("c", "d"), "answer": ("key",)}
    assert columns.unused == ("question", "a+b")
    assert find_columns(names, field_pairs({"prompt": "a+b"})).prompt


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("anser=a", r"no field 'anser' \(did you mean answer\?\)"),
        ("question", r"names the column '', but there are the columns 'a', 'bc'"),
        ("question=b", r"names the column 'b' \(did you mean bc\?\)"),
        ("question=a+bc", "question is one column"),
        ("question=a,context=a", "the column 'a' twice"),
        ("question=a,answer=a", "one column for the question and the answer"),
        ("question=a,prompt=bc", "a question and a prompt"),
    ],
)
def test_find_columns_refuses_other_fields(fields, message):
    with pytest.raises(InputError, match=message):
        find_columns(["a", "bc"], field_pairs(fields))


def test_field_pairs_refuses_other_types():
    with pytest.raises(InputError, match=r"a text or a dict of columns, not \['a'\]"):
        field_pairs(["a"])  # type: ignore[arg-type]


def test_families_are_numbered_or_lettered_columns():
    names = ["ending0", "ending1", "opa", "opb", "opc", "choice 1", "choice 2", "x2", "x4"]
    assert families(names) == [names[:2], names[2:5], names[5:7]]
