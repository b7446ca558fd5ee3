"""Questions: decoys of open ones, what is none, their digests and their order."""

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.question import Question, distinct, open_question, question_digest, split


def test_decoy_of_an_integer_is_plausible_and_others_have_none():
    decoys = {open_question(f"q{i}", "?", "5").options[1] for i in range(200)}
    assert decoys == {"1", "2", "3", "4", "6", "7", "8", "9"}
    for gold in ("0", "1", "-1", "-7", "123456"):
        for i in range(50):
            options = open_question(f"q{i}", "?", gold).options
            assert options == open_question(f"q{i}", "other", gold).options
            value = int(options[1])
            assert value != int(gold)
            assert int(gold) < 0 or value >= 0
    for gold in ("1.5", "1,000", "x", "-0", "007", r"\frac{1}{2}", "9" * 30):
        assert open_question("q", "?", gold).options == (gold,)


def test_question_takes_options_as_an_array():
    question = Question("q", "Which?", np.array(["a", "b"]), np.int64(1))  # type: ignore[arg-type]
    assert (question.options, question.gold) == (("a", "b"), "b")
    assert question == Question("q", "Which?", ("a", "b"), 1)
    with pytest.raises(InputError, match="options must be a list of texts"):
        Question("q", "Which?", np.array([1, 2]), 1)  # type: ignore[arg-type]


def test_open_question_refuses_blank_text_or_answer():
    with pytest.raises(ValueError, match="q has no answer"):
        open_question("q", "?", "  ")
    with pytest.raises(ValueError, match="q is empty"):
        open_question("q", " ", "5")


def test_question_digest_tells_text_options_and_gold_but_not_ids():
    fields = [("Which?", "abc", 1), ("What?", "abc", 1), ("Which?", "abd", 1), ("Which?", "bac", 0)]
    fields.append(("Which?", "abc", 0))
    digests = [question_digest(Question("q", text, (*o,), gold)) for text, o, gold in fields]
    assert len(set(digests)) == 5
    assert question_digest(Question("r", "Which?", ("a", "b", "c"), 1)) == digests[0]


def test_split_depends_on_key_and_id_alone() -> None:
    ids = [f"q{i}" for i in range(20)]
    order = split(ids, "validation")
    assert sorted(order) == list(range(20))
    assert split(ids, "validation") == order != split(ids, "other")
    kept = ids[5:]
    assert [kept[i] for i in split(kept, "validation")] == [ids[i] for i in order if i >= 5]
    assert [ids[i] for i in order[:3]] == ["q19", "q2", "q15"]  # on any machine
    assert split(["same", "same"], "") == [0, 1]


def test_blanks_and_composed_letters_do_not_tell_questions_apart():
    texts = ("Is a caf\u00e9 open?", " Is a  caf\u00e9\nopen?", "Is a cafe\u0301 open?", "Is it?")
    questions = [Question(f"q{i}", text, ("x y", "z")) for i, text in enumerate(texts)]
    questions.append(Question("q4", texts[0], ("z ", "x  y"), 1))
    assert distinct(questions) == [0, 3]
