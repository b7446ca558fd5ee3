"""Searches without a model: the answer on a path is a formula of its layer ids."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring import Evaluate, Verdicts

GOLD = 1
OPTIONS = ("a", "b", "c", "d")

Path = tuple[int, ...]


def questions(count: int) -> list[Question]:
    """Makes questions of four options, of which the second is right."""
    return [Question(f"q{i}", "?", OPTIONS, GOLD) for i in range(count)]


def checksum(*parts: Any) -> int:
    """A number that depends on nothing but the parts."""
    return zlib.crc32(",".join(map(str, parts)).encode())


def checksum_answer(b: int, path: Path) -> int:
    """Answers any of the options, with every path another."""
    return checksum(*path) % 4


def formula(
    answer: Callable[[int, Path], int] = checksum_answer, ran: list[tuple[int, Path]] | None = None
) -> Evaluate:
    """Makes a function from paths to verdicts; it appends what it evaluates to `ran`."""

    def evaluate(paths: np.ndarray) -> Verdicts:
        present = paths[..., 0] != STOP
        scores = np.full((*paths.shape[:2], len(OPTIONS)), -5.0)
        for b, c in np.argwhere(present).tolist():
            path = tuple(paths[b, c][paths[b, c] != STOP].tolist())
            scores[b, c, answer(b, path)] = -1 - checksum(*path) % 97 / 100
            if ran is not None:
                ran.append((b, path))
        return Verdicts.of_scores(scores, GOLD, present, log_likelihoods=True)

    return evaluate
