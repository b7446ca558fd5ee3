"""Answers of a user's own file that no completion can give."""

import pytest

from cola_jax.tasks.task import TaskConfig
from tests import tiny


def prepare(file, **settings):
    return TaskConfig(file, **settings).prepare(
        tiny.tokenizer(), context=400, stop_tokens=lambda: (1, 7)
    )


@pytest.mark.parametrize(
    ("answer", "settings", "message"),
    [
        (
            "4\n5",
            {},
            r"can give the answer '4\\n5', of which the rule 'line' finds '4'",
        ),
        ("Paris", {"rule": "number"}, "the rule 'number' finds None"),
        ("Paris", {"rule": "hashes"}, "the rule 'hashes' finds None"),
        ("a } b", {"format": "direct"}, "the rule 'boxed' finds 'a'"),
        ("rock " * 120, {}, r"has \d+ tokens, but at most 50 are decoded: raise --max-new-tokens"),
        ("rock rain leaf bird fish", {"max_new_tokens": 1}, "but at most 1 are decoded"),
    ],
)
def test_check_answerable_names_the_question(write, answer, settings, message):
    good = {"prompt": "What is 2 + 2?", "answer": "4"}
    file = write(good, {"id": "bad", "prompt": "What is it?", "answer": answer})
    with pytest.raises(ValueError, match=f"^question bad: .*{message}"):
        prepare(file, **settings)


@pytest.mark.parametrize("rule", ["line", "number", "hashes", "boxed", "minerva"])
@pytest.mark.parametrize("answer", ["$1,000$", "-3.5", "1000."])
def test_check_answerable_accepts_what_can_be_given(write, rule, answer):
    file = write({"prompt": "How many?", "answer": answer})
    assert len(prepare(file, rule=rule).encoded) == 1
