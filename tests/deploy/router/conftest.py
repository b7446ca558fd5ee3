"""A run over the tiny checkpoint whose verdicts are made up, so that no search has to find them."""

import dataclasses

import numpy as np
import pytest

from cola_jax.runs.devices import Devices
from cola_jax.runs.run import Run
from cola_jax.runs.schema import Part, evaluation_rows, question_row
from cola_jax.runs.session import RunConfig, Session
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.tasks.task import TaskConfig
from tests import tiny

PATHS = [(0, 1, 2, 3, 4), (0, 1, 3, 4), (0, 1, 1, 2, 3, 4), (0, 2, 1, 3, 4)]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model, a task, and a run of it."""

    model: str
    task: str
    run: str

    def session(self, **task):
        config = RunConfig(devices=Devices(data=1))
        return Session.prepare(self.model, TaskConfig(self.task, **task).prepare, config)


@pytest.fixture(scope="session")
def setting(tiny_checkpoint, tmp_path_factory):
    """24 questions: a third is right on a shorter path, a third on a longer one alone."""
    folder = tmp_path_factory.mktemp("router")
    task = str(tiny.write_questions(folder / "task.jsonl", 24))
    setting = Setting(str(tiny_checkpoint), task, str(folder / "run"))
    session = setting.session()
    part = Part([], [])
    for i, encoded in enumerate(session.encoded):
        right = np.array([[True, True, False, False], [False, False, True, True], [False] * 4])
        scores = np.where(right[i % 3], 1.0, -1.0)[:, None] * np.array([1.0, 0.0])
        gold = encoded.question.answer
        options = np.zeros((4, len(encoded.question.options)))
        options[:, gold] = scores[:, 0]
        options[:, 1 - min(gold, 1)] -= scores[:, 0]
        verdicts = Verdicts.of_scores(options, gold)
        part.evaluations.extend(evaluation_rows(encoded, PATHS, verdicts))
        part.questions.append(question_row(encoded, 4))
    with Run(setting.run).open(session.settings, session.environment) as run:
        run.write(part.evaluations, part.questions)
    return setting
