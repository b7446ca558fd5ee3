"""Examples: which paths of a run are trained on, and which questions are held out."""

import numpy as np
import pytest

from cola_jax.deploy.router.examples import is_held_out, make_examples, match
from cola_jax.deploy.router.targets import counts_of_path
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.runs.stored import Labels
from cola_jax.scoring.encode import Encoded

L = 4
PATHS = ((0, 1, 2, 3), (0, 2, 3), (0, 1, 1, 2, 3), (0, 2, 1, 3))


def label(i, right, robust=None, prompt=None):
    return Labels(
        question=f"q{i}",
        text="",
        options=(),
        gold=None,
        prompt_hash=prompt or f"hash {i}",
        metadata={},
        paths=PATHS,
        right=np.array(right, bool),
        margin=np.zeros(4, np.float32),
        robust=robust,
    )


def examples(labels, which="shortest", validation=0.3):
    question = np.arange(len(labels))
    return make_examples(labels, question, lambda p: counts_of_path(p, L), which, validation)


HELD = [i for i in range(200) if is_held_out(f"q{i}", 0.3)]
TRAINED = [i for i in range(200) if i not in HELD]


def test_is_held_out_is_a_stable_share():
    assert 30 <= len(HELD) <= 90
    assert HELD[:5] == [i for i in range(20) if is_held_out(f"q{i}", 0.3)][:5]
    assert all(is_held_out(f"q{i}", 0.5) for i in HELD)  # a larger share holds out more


def test_shortest_takes_one_path_a_question():
    labels = [label(i, [1, 1, 1, 0]) for i in (*TRAINED[:3], *HELD[:2])]
    made = examples(labels)
    assert made.paths == [PATHS[1]] * 5
    assert made.training == 3
    assert made.question.tolist() == [0, 1, 2, 3, 4]
    assert made.weights.tolist() == [1] * 5
    assert made.targets.tolist() == [[1, 0, 1, 1]] * 5


def test_all_weighs_the_paths_of_a_question_by_their_number():
    labels = [label(TRAINED[0], [1, 1, 0, 0]), label(TRAINED[1], [0, 0, 1, 0])]
    made = examples([*labels, label(HELD[0], [1, 1, 0, 0])], "all")
    assert made.paths == [PATHS[1], PATHS[0], PATHS[2], PATHS[1]]
    assert made.training == 3
    weights = np.array([0.5, 0.5, 1])
    np.testing.assert_allclose(made.weights[:3], weights / weights.mean(), rtol=1e-6)


def test_what_cannot_be_learned_is_counted():
    labels = [
        label(TRAINED[0], [0, 0, 0, 0]),
        label(TRAINED[1], [0, 0, 0, 1]),
        label(TRAINED[2], [0, 1, 0, 1]),
        label(TRAINED[3], [1, 1, 0, 0], robust={PATHS[0]: True, PATHS[1]: False}),
        label(TRAINED[4], [1, 0, 0, 0], prompt=f"hash {HELD[0]}"),
        label(HELD[0], [1, 0, 0, 0]),
    ]
    made = examples(labels)
    assert made.paths == [PATHS[1], PATHS[0], PATHS[0]]
    assert made.left_out == {
        "questions without a correct path": 1,
        "paths not expressible": 2,
        "questions without an expressible path": 1,
        "questions asked in both parts": 1,
    }


@pytest.mark.parametrize(("kept", "name"), [(TRAINED, "held out"), (HELD, "trained on")])
def test_an_empty_part_is_refused(kept, name):
    with pytest.raises(ValueError, match=f"left to be {name}"):
        examples([label(kept[0], [1, 0, 0, 0])])
    with pytest.raises(ValueError, match="between 0 and 1, it is 1"):
        examples([label(kept[0], [1, 0, 0, 0])], validation=1.0)


def encoded(*ids):
    rows = [Question(id, "", ("a",), 0) for id in ids]
    empty = Prompts.plain(np.zeros(1, np.int32))
    return [Encoded(q, empty, np.zeros(0), f"hash {q.id[1:]}") for q in rows]


def test_match_finds_questions_and_names_the_first_that_is_missing():
    labels = [label(2, [1, 0, 0, 0]), label(0, [1, 0, 0, 0])]
    assert match(labels, encoded("q0", "q1", "q2"), "run").tolist() == [2, 0]
    with pytest.raises(ValueError, match="run has the question q2, but the task does not"):
        match(labels, encoded("q0"), "run")
