"""The journal of a run: what it says of a scorer that always chooses the same option."""

import logging

import pytest
from cola_jax.runs.journal import collapse

from cola_jax.runs.session import RunConfig, Session
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from tests import tiny


@pytest.mark.parametrize(
    ("answers", "golds", "said"),
    [
        ([1] * 19 + [0], [0, 1, 2, 3] * 5, "answers B, whatever is asked: to 19 of 20"),
        ([1] * 18 + [0] * 2, [1] * 12 + [0] * 8, "right for 12"),
        ([1] * 17 + [0] * 3, [0, 1, 2, 3] * 5, None),
        ([1] * 20, [1] * 13 + [0] * 7, None),  # as gold is
        ([1] * 19, [0] * 10 + [1] * 9, None),  # too few
        ([-1] * 20, [0, 1, 2, 3] * 5, None),  # no answer
    ],
)
def test_collapse_is_one_option_for_nearly_all_questions(answers, golds, said):
    problem = collapse(list(zip(answers, golds, strict=True)))
    assert problem is None if said is None else said in (problem or "")


@pytest.mark.parametrize("command", ["search", "evaluate"])
def test_session_warns_once_of_a_scorer_that_collapses(
    checkpoint, tmp_path, caplog, monkeypatch, command
):
    task = str(tiny.write_questions(tmp_path / "task.jsonl", 24))
    session = Session.prepare(checkpoint, TaskConfig(task).prepare, RunConfig(batch_size=8))
    golds = {one.question.id: one.question.answer for one in session.encoded}
    monkeypatch.setattr("cola_jax.runs.journal.collapse", lambda pairs: check(pairs, golds))
    settings = Settings(PRESETS["cola"], 4, 2, seed=0, early_stop=False, control="none")
    with caplog.at_level(logging.WARNING, "cola_jax"):
        if command == "search":
            session.search(str(tmp_path / "run"), settings)
        else:
            session.evaluate(str(tmp_path / "run"), [tuple(range(5)), (0, 2, 4)])
    assert [one.getMessage() for one in caplog.records] == ["by the scorer options, all 24 alike"]


def check(pairs, golds):
    """Says that all answers are alike once all are there, each once."""
    assert len(pairs) <= len(golds)
    return "all 24 alike" if len(pairs) == len(golds) else None
