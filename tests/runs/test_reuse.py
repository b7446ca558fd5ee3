"""`Reuse`: which evaluations of another run a search takes for its own."""

import numpy as np
import pytest

from cola_jax.engine.question_set import QuestionSet
from cola_jax.errors import InputError
from cola_jax.runs.reuse import Reuse
from cola_jax.runs.run import Run
from cola_jax.runs.schema import Part, evaluation_rows, known_verdicts, question_row
from cola_jax.scoring import Encoded, Grade, Options, Verdicts
from cola_jax.scoring.encoder import Encoder
from tests.runs.conftest import asking

SCORER = Options(None)
SETTINGS = {"model": "abc", "dtype": "float32", "scorer": "options", "questions": 2}
PATHS = [(0, 1, 2), (0, 1, 1, 2), (2,)]
SCORES = np.array([[-1.0, -2], [-3, -2], [-1, -1.5]])


def asked(*sample: Encoded) -> QuestionSet:
    """Questions that are all in the sample."""
    return QuestionSet([each.question for each in sample], Encoder(()), [*sample])


@pytest.fixture
def run(tmp_path):
    """A run of two questions; a path of the second was not graded."""
    with Run(tmp_path / "run").open(SETTINGS, {"num_layers": 3}) as run:
        for i, encoded in enumerate((asking("a"), asking("b"))):
            rows = evaluation_rows(encoded, PATHS, Verdicts.of_scores(SCORES - i, 0))
            if i == 1:
                rows[2] |= {"grade": Grade.UNGRADED.value}
            run.write(Part(rows, [question_row(encoded, len(PATHS))]))
    return run


def test_reuse_knows_what_was_asked_in_the_same_words(run):
    encoded = [asking(name) for name in "abc"]
    reuse = Reuse([run], SETTINGS, asked(*encoded))
    assert "c" not in reuse.tables
    known = known_verdicts(reuse.tables["a"], encoded[0], SCORER)
    assert list(known) == PATHS
    assert known[2,].margin.tolist() == [0.5]
    assert known[2,].scores.tolist() == [[-1, -1.5]]
    graded = known_verdicts(reuse.tables["b"], encoded[1], SCORER)
    assert list(graded) == PATHS[:2]
    assert known_verdicts(reuse.tables["a"], asking("a", "which?"), SCORER) == {}


def test_runs_that_cannot_serve_are_refused(run):
    with pytest.raises(InputError, match="its model is abc, here it is xyz"):
        Reuse([run], SETTINGS | {"model": "xyz"}, asked(asking("a")))
    for other in (asking("c"), asking("a", "which?")):
        with pytest.raises(InputError, match="none of these questions in the same words"):
            Reuse([run], SETTINGS, asked(other))
