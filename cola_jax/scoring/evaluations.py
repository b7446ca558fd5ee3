"""`Evaluations`: a cache of the evaluations of questions, so that no path is evaluated twice."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from cola_jax.path import STOP, pad_lists, unpad_path
from cola_jax.question import Question
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts

Path = tuple[int, ...]
Known = Sequence[Mapping[Path, Verdicts]]  # of each question, the verdict [1] of each path
Write = Callable[[np.ndarray, Verdicts], None]  # takes paths [B, C, P], and verdicts [B, C]


class Evaluations:
    """A function from paths [B, C, P] to Verdicts [B, C] that caches its evaluations.

    A search and its control searches, resuming, and reuse of other runs are this one cache, with
    different evaluations known at the start.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        questions: Sequence[Question],
        *,
        known: Known | None = None,
        resumed: Known | None = None,
        write: Write | None = None,
        call_size: int | None = None,
    ):
        """Wrap a function that evaluates paths of B questions.

        Args:
          known: evaluations of other runs.
          resumed: those of an earlier start of the same work, which count as new.
          write: takes new evaluations, call by call.
          call_size: the most evaluations of a call; None for a whole wave.
        """
        self.evaluate, self.write, self.call_size = evaluate, write, call_size
        self.questions = questions
        self.options = max(1, *(len(each.options) for each in questions))
        self.known = [dict(rows) for rows in known or [{}] * len(questions)]
        self.resumed = resumed or [{}] * len(questions)

    def __call__(self, paths: np.ndarray) -> Verdicts:
        return self.look_up(np.arange(len(self.questions)), paths)[0]

    def of_searches(
        self, question: np.ndarray, target: np.ndarray, paths: np.ndarray
    ) -> tuple[Verdicts, np.ndarray]:
        """Evaluate the paths [S, C, P] of S searches, each of a question [S] for a target [S].

        Returns Verdicts [S, C] of the targets, and which evaluations were known before [S, C].
        """
        verdicts, reused = self.look_up(question, paths)
        gold = np.array([each.answer for each in self.questions])[question]
        others = (paths[:, :, 0] != STOP) & (target != gold)[:, None]
        if others.any():
            index = np.nonzero(others)
            verdicts.put(index, verdicts.take(index).of_target(target[index[0]]))
        return verdicts, reused

    def look_up(self, question: np.ndarray, paths: np.ndarray) -> tuple[Verdicts, np.ndarray]:
        """Evaluate the new ones of paths [S, C, P] of questions [S]; returns as `of_searches`."""
        reused = paths[:, :, 0] != STOP
        entries = [
            (s, c, question[s], unpad_path(paths[s, c])) for s, c in np.argwhere(reused).tolist()
        ]
        new: list[dict[Path, None]] = [{} for _ in self.questions]
        for s, c, b, path in entries:
            if path in self.known[b] or path in new[b]:
                continue
            reused[s, c] = False
            if path in self.resumed[b]:
                self.known[b][path] = self.resumed[b][path]
            else:
                new[b][path] = None
        for wave in cut_waves(new, self.call_size, paths.shape[2]):
            self.add(wave, self.evaluate(wave))
        out = Verdicts.empty(paths.shape[:2], self.options)
        for s, c, b, path in entries:
            out.put((s, slice(c, c + 1)), self.known[b][path])
        return out, reused

    def of_question(self, question: int, paths: Sequence[Path]) -> Verdicts:
        """Return the verdicts [C] of known paths of a question."""
        out = Verdicts.empty((len(paths),), self.options)
        for c, path in enumerate(paths):
            out.put((slice(c, c + 1),), self.known[question][path])
        return out

    def add(self, paths: np.ndarray, verdicts: Verdicts) -> None:
        """Add verdicts [B, C] of paths [B, C, P], and write them."""
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist():
            self.known[b][unpad_path(paths[b, c])] = verdicts.take((b, slice(c, c + 1)))
        if self.write is not None:
            self.write(paths, verdicts)


def cut_waves(
    paths: Sequence[Mapping[Path, None]], size: int | None, positions: int
) -> Iterator[np.ndarray]:
    """Yield waves [B, C, P] of at most `size` paths, the first of every question first."""
    columns = itertools.zip_longest(*paths)
    order = [(b, path) for column in columns for b, path in enumerate(column) if path is not None]
    size = size or len(order) or 1
    for first in range(0, len(order), size):
        wave: list[list[Path]] = [[] for _ in paths]
        for b, path in order[first : first + size]:
            wave[b].append(path)
        yield pad_lists(wave, positions)
