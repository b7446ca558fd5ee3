"""Gains on open questions without any path: the answers that are frequent in a task.

`python -m experiments.guessing --model CHECKPOINT --task.task arithmetic` prints, for questions
that the pretrained model answers wrongly, the share on which one of n guesses is gold, beyond the
share on which one is the decoy that a control search looks for. The guesses are the n answers that
are gold most often on the other questions. They propose no paths, so they are no preset of a
search. Samples of the model are in the report of every search.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import tyro

import cola_jax
from cola_jax.runs.session import Session
from cola_jax.scoring.net import Net
from cola_jax.scoring.preference import Targets
from cola_jax.tasks.task import TaskConfig
from experiments.tables import points, show

BUDGETS = (25, 50, 100, 200)


@dataclasses.dataclass(frozen=True)
class Guessing:
    """Compare frequent answers with a search."""

    model: str
    """Checkpoint directory."""
    task: TaskConfig
    decoys: str | None = None
    """Run with the model's answers on other paths, of which questions get their decoys."""


def guessed(golds: Sequence[str], answers: Sequence[str | None], guesses: int) -> np.ndarray:
    """Return whether each answer [B] is among the most frequent golds of other questions."""
    counts, hits = Counter(golds), []
    for gold, answer in zip(golds, answers, strict=True):
        counts[gold] -= 1
        # of equals those that come first in the task
        most = [name for name, count in counts.most_common() if count > 0][:guesses]
        hits.append(answer in most)
        counts[gold] += 1
    return np.array(hits)


def main(settings: Guessing) -> None:
    session = Session.prepare(settings.model, settings.task.prepare, decoys=settings.decoys)
    asked = session.asked.questions
    model, scorer = session.model.load(), session.asked.scorer
    right = cola_jax.evaluate(model, asked, scorer=scorer).verdicts.verdict[:, 0]
    compared = ~right & np.array([len(question.options) > 1 for question in asked])
    golds = [question.gold for question in asked]
    decoys = [question.options[1] if len(question.options) > 1 else None for question in asked]
    rows = []
    for n in BUDGETS:
        gold, decoy = (guessed(golds, answers, n)[compared] for answers in (golds, decoys))
        hits = np.stack([gold, decoy], axis=1)
        alike = np.zeros(hits.shape)
        net = Net.of(Targets(hits, alike, alike, weighted=False))
        rows.append([f"{n}", f"{100 * gold.mean():.1f} %", points(net)])
    show(["guesses", f"W→C of {compared.sum()}", "net of control, points"], rows)


if __name__ == "__main__":
    main(tyro.cli(Guessing, description=__doc__))
