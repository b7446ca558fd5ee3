"""Gains on open questions without any path: sampled answers, and frequent answers.

`python -m experiments.guessing --model CHECKPOINT --task.task arithmetic` prints, for questions
that the pretrained model answers wrongly, the share on which one of n guesses is gold, beyond the
share on which one is the decoy that a control search looks for:

- sampling: n completions drawn at temperature 1. One forward pass gives the probability p of an
  answer, so the expected share is exact, 1 - (1 - p)^n, and nothing is drawn.
- frequent: the n answers that are gold most often on the other questions.

They propose no paths, so they are no presets of a search.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import tyro

import cola_jax
from cola_jax.path import identity
from cola_jax.prompts import Prompts
from cola_jax.runs.session import Session
from cola_jax.scoring import Encoded
from cola_jax.scoring.exact import EncodedAnswer
from cola_jax.scoring.preference import Net, Targets
from cola_jax.scoring.statistics import Mean
from cola_jax.tasks.task import TaskConfig
from experiments.paper.results import points, show

BUDGETS = (25, 50, 100, 200)


@dataclasses.dataclass(frozen=True)
class Guessing:
    """Compare sampled and frequent answers with a search."""

    model: str
    """Checkpoint directory."""
    task: TaskConfig
    decoys: str | None = None
    """Run with the model's answers on other paths, of which questions get their decoys."""


def answer_probabilities(session: Session) -> np.ndarray:
    """Return the probability [B, 2] of decoding gold and decoy at temperature 1; NaN for none.

    An answer's end may be one of many tokens, of which the scorer reads the first eight, so the
    result is a lower bound.
    """
    every = session.asked.encode(session.model)
    paths = [[identity(session.model.config.num_layers)]] * len(every)
    prompts = Prompts.stack([encoded.prompts for encoded in every])
    readings = cola_jax.run_paths(session.model.load(), prompts, paths)
    logprob = np.asarray(readings.logprob)[:, 0]
    return np.array(
        [[probability(encoded, logprob[b], j) for j in range(2)] for b, encoded in enumerate(every)]
    )


def probability(encoded: Encoded, logprob: np.ndarray, option: int) -> float:
    """Return the probability of one answer and its end from the log-probabilities read."""
    assert isinstance(encoded, EncodedAnswer), "the scorer is exact"
    if option >= len(encoded.question.options):
        return float("nan")
    own = encoded.option == option
    logprob = logprob[: len(own)]
    body, end = logprob[own & ~encoded.end], logprob[own & encoded.end]
    return float(np.exp(body.sum()) * (np.exp(end).sum() if len(end) else 1))


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
    chances = answer_probabilities(session)[compared]
    golds = [question.gold for question in asked]
    decoys = [question.options[1] if len(question.options) > 1 else None for question in asked]
    rows = []
    for n in BUDGETS:
        gold, decoy = (1 - (1 - chances) ** n).T
        net = Mean.of(gold - decoy)
        rows.append(["sampling", f"{n}", f"{100 * gold.mean():.1f} %", points(net)])
    for n in BUDGETS:
        gold, decoy = (guessed(golds, answers, n)[compared] for answers in (golds, decoys))
        hits = np.stack([gold, decoy], axis=1)
        net = Net.of(Targets(hits, np.zeros(hits.shape), weighted=False))
        rows.append(["frequent", f"{n}", f"{100 * gold.mean():.1f} %", points(net)])
    show(["strategy", "guesses", f"W→C of {compared.sum()}", "net of control, points"], rows)


if __name__ == "__main__":
    main(tyro.cli(Guessing, description=__doc__))
