"""What other runs evaluated of the same questions."""

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.reuse import Reuse, stored_verdicts
from cola_jax.runs.schema import evaluation_rows, question_row
from cola_jax.scoring import Encoded, Verdicts

SETTINGS = {"model": "abc", "dtype": "float32", "scorer": "options", "questions": 2}
PATHS = [(0, 1, 2), (0, 1, 1, 2), (2,)]
SCORES = np.array([[-1.0, -2], [-3, -2], [-1, -1.5]])


def encode(name, text="?"):
    zeros = np.zeros(2, np.int32)
    prompts = Prompts(ids=zeros, positions=zeros, branch=zeros)
    return Encoded(Question(name, text, ("x", "y"), 0), prompts, np.zeros(0, np.int32), text)


@pytest.fixture
def run(tmp_path):
    """A run of two questions, of which the scores of the second are those of the first less 1."""
    with RunDirectory(tmp_path / "run").open(SETTINGS, {"num_layers": 3}) as run:
        for i, encoded in enumerate((encode("a"), encode("b"))):
            rows = evaluation_rows(encoded, PATHS, Verdicts.of_scores(SCORES - i, 0))
            run.write(rows, [question_row(encoded, len(PATHS))])
    return run


def test_known_are_the_paths_that_fit(run):
    reuse = Reuse([str(run.directory)], SETTINGS, [encode("a"), encode("c")])
    known = reuse.known(encode("a"), 3)
    assert list(known) == [(0, 1, 2), (2,)]
    assert known[2,].margin.tolist() == [0.5]
    assert known[2,].scores.tolist() == [[-1, -1.5]]
    assert reuse.known(encode("c"), 3) == {}


def test_reuse_refuses_other_models_and_words(run):
    directory = str(run.directory)
    with pytest.raises(InputError, match="model: 'abc' and 'xyz'"):
        Reuse([directory], SETTINGS | {"model": "xyz"}, [encode("a")])
    with pytest.raises(InputError, match="none of these questions in the same words"):
        Reuse([directory], SETTINGS, [encode("a", "which?")])


def test_stored_verdicts_are_in_the_order_of_questions(run):
    verdicts = stored_verdicts(run, [encode("b"), encode("a")], len(PATHS))
    np.testing.assert_array_equal(verdicts.scores, np.stack([SCORES - 1, SCORES]))
    np.testing.assert_array_equal(verdicts.verdict, [[True, False, True]] * 2)
    with pytest.raises(InputError, match="evaluations of 'a', which is none of its questions"):
        stored_verdicts(run, [encode("b")], len(PATHS))
    with pytest.raises(InputError, match="evaluations of 3 paths, but its settings name 2"):
        stored_verdicts(run, [encode("b"), encode("a")], 2)
