"""Self-consistency: its number of samples, the majority of stored answers, and unfit runs."""

import numpy as np
import pytest

from cola_jax.deploy.verify.consistency import majority, samples
from cola_jax.runs.run import Run
from cola_jax.runs.schema import evaluation_rows, question_row
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Completion, Verdicts
from tests.runs.conftest import asking

SETTINGS = {"model": "abc", "scorer": "generation", "paths": [[0, 1, 2]], "temperature": 0.7}
START = {"num_layers": 3, "scorer": {"open": True, "decodes": True}}
ENCODED = [asking(name) for name in ("a", "b", "c", "d")]
GOLD = "x"
ANSWERS = ["xyy?", "xyx?", "yzx?"]  # of each sample to each question; ? is truncated


def write(folder, answers, encoded=ENCODED, start=START, **settings) -> Run:
    """Write a run of an answer to each question, in another order."""
    with Run(folder).open(SETTINGS | settings, start) as run:
        for each, text in reversed([*zip(encoded, answers, strict=True)]):
            grade = Grade.RIGHT if text == GOLD else Grade.WRONG
            score = 1.0 if grade is Grade.RIGHT else -1.0
            verdicts = Verdicts.of_scores(np.array([[score, -score]]), 0)
            made = Completion(text, text, "stop", text == "?", grade, (1,), -1.0)
            verdicts = verdicts._replace(completion=np.array([made], object))
            rows = evaluation_rows(each, [(0, 1, 2)], verdicts)
            run.write(rows, [question_row(each, 1)])
    return run


def test_samples_run_no_more_layers_than_the_path():
    layers = [12, 30, 59.9, 60, 75.5]
    assert [samples(each, 30) for each in layers] == [1, 1, 1, 2, 2]


def test_majority_is_graded_by_its_first_sample(tmp_path):
    runs = [write(tmp_path / str(i), row, sample_seed=i) for i, row in enumerate(ANSWERS)]
    assert majority(runs, ENCODED).tolist() == [True, False, True, False]
    assert majority(runs[:2], ENCODED).tolist() == [True, False, False, False]  # a tie: the first
    assert majority(runs[1:], ENCODED[::-1]).tolist() == [False, True, False, True]


def test_majority_refuses_other_runs(tmp_path):
    run = write(tmp_path / "run", ANSWERS[0], sample_seed=0)
    paths = [[0, 1, 2], [0, 2]]
    for i, (changes, message) in enumerate(
        [
            ({"sample_seed": 0}, "are the same sample: give each a --sample-seed"),
            ({"temperature": 0.8}, "its temperature is 0.7, here it is 0.8"),
            ({"paths": paths}, "is not of all layers alone"),
            ({"start": START | {"scorer": {"decodes": False}}}, "no decoded answers"),
            ({"answers": "xyy", "encoded": ENCODED[:3]}, r"or is not finished \(d\)"),
        ]
    ):
        settings = {"answers": ANSWERS[1], "sample_seed": 1} | changes
        with pytest.raises(ValueError, match=message):
            majority([run, write(tmp_path / str(i), **settings)], ENCODED)
