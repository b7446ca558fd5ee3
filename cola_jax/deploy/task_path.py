"""`find_path`: one path for a task, from a session to what it does on held-out questions."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cola_jax.deploy.mutation import Path
from cola_jax.deploy.settings import StaticSettings
from cola_jax.deploy.static import (
    evolve,
    finalists,
    most_evaluations,
    pareto_front,
    score,
    training_and_validation,
)
from cola_jax.execute.metrics import Metrics
from cola_jax.path import STOP, identity, pad_path
from cola_jax.runs.stored import stored_verdicts
from cola_jax.scoring.verdicts import Verdicts

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

HELD_OUT = "held-out"  # folder of the run of the held-out questions


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A path, and whether it answered the questions of each part."""

    path: Path
    training: np.ndarray  # [n] bool
    validation: np.ndarray
    held_out: np.ndarray
    on_front: bool = True  # of accuracy and length on validation questions


@dataclasses.dataclass(frozen=True, eq=False)
class TaskPath:
    """The path that was chosen for a task, the pretrained model, and the other finalists."""

    chosen: Measured
    plain: Measured
    finalists: tuple[Measured, ...]
    tried: int  # paths evaluated on all training questions


def find_path(
    session: "Session",
    out: str,
    settings: StaticSettings,
    metrics: Metrics | None = None,
) -> TaskPath:
    """Searches one path on the training questions, and measures it on questions not searched on.

    Args:
      session: with held-out questions.
      out: run directory; an interrupted search is resumed.

    Raises:
      ValueError: for a session without held-out questions, settings that allow no path, and a run
        directory of other settings.
    """
    held_out, layers = session.held_out, session.num_layers
    lengths, plain = settings.lengths(layers), identity(layers)
    ids = [one.question.id for one in session.encoded]
    train, rest = training_and_validation(ids, settings.validation)
    golds = np.array([one.question.answer for one in session.encoded])
    recorded = {"command": "static", "rules": dataclasses.asdict(settings)}
    metrics = Metrics() if metrics is None else metrics
    metrics.total = most_evaluations(settings, len(train)) + settings.finalists * (
        len(rest) + len(held_out)
    )
    longest = max(lengths.longest, layers)
    with session.recording(out, recorded, metrics) as evaluate:

        def evaluate_on(paths: Sequence[Path], questions: np.ndarray) -> Verdicts:
            wave = np.full((len(golds), len(paths), longest), STOP, np.int32)
            wave[questions] = [pad_path(path, longest) for path in paths]
            return evaluate(wave).take(questions)

        candidates = evolve(
            lambda paths, indices: evaluate_on(paths, train[indices]),
            golds[train],
            layers,
            settings,
        )
        paths = list(dict.fromkeys([plain, *finalists(candidates, settings.finalists)]))
        verdicts = evaluate_on(paths, np.arange(len(golds)))
    fitness = score(verdicts.take(rest), golds[rest], settings.fitness)
    allowed = [i for i, path in enumerate(paths) if len(path) <= lengths.longest]
    front = [
        allowed[i] for i in pareto_front([paths[i] for i in allowed], [fitness[i] for i in allowed])
    ]
    run = session.evaluate(str(epath.Path(out) / HELD_OUT), paths, metrics, held_out=True)
    right = stored_verdicts(run, held_out, len(paths)).verdict
    measured = [
        Measured(path, own[train], own[rest], right[:, i], i in front)
        for i, (path, own) in enumerate(zip(paths, verdicts.verdict.T, strict=True))
    ]
    best = max(allowed, key=lambda i: (fitness[i], -len(paths[i])))
    return TaskPath(measured[best], measured[0], tuple(measured[1:]), len(candidates))
