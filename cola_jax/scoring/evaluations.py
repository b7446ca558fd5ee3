"""`Evaluations`: evaluates paths of questions, no path of a question twice."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from cola_jax.path import STOP, unpad_path
from cola_jax.question import Question
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts

Path = tuple[int, ...]
Known = Sequence[Mapping[Path, Verdicts]]  # of each question, the verdict [1] of each path
Write = Callable[[np.ndarray, Verdicts], None]  # takes paths [B, C, P], and verdicts [B, C]


class Evaluations:
    """A function from paths [B, C, P] to Verdicts [B, C] that remembers what it evaluated.

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
        """Takes what evaluates paths of B questions.

        Args:
          known: what other runs evaluated.
          resumed: what an earlier start of the same work evaluated: it counts as new.
          write: is handed what is new, call by call.
          call_size: the most evaluations of a call; None for a whole wave.
        """
        self.evaluate, self.write, self.call_size = evaluate, write, call_size
        self.questions = questions
        self.options = max(1, *(len(each.options) for each in questions))
        self.waves: list[Verdicts] = []  # fields [B, C]
        # for each question, the wave, row and column of every path known
        self.known: list[dict[Path, tuple[int, int, int]]] = [{} for _ in questions]
        for b, rows in enumerate(known or ()):
            for path, verdict in rows.items():
                self.take(b, path, verdict)
        self.resumed = resumed or [{} for _ in questions]

    def take(self, question: int, path: Path, verdict: Verdicts) -> None:
        """Takes the verdict [1] of a path that was evaluated before."""
        self.known[question][path] = len(self.waves), 0, 0
        self.waves.append(verdict.take((None, slice(None))))

    def __call__(self, paths: np.ndarray) -> Verdicts:
        return self.look_up(np.arange(len(self.questions)), paths)[0]

    def of_searches(
        self, question: np.ndarray, target: np.ndarray, paths: np.ndarray
    ) -> tuple[Verdicts, np.ndarray]:
        """Returns the verdicts [S, C] of S searches, and which of them were known before [S, C].

        Args:
          question: [S], the question of each search.
          target: [S], the option that it looks for.
          paths: [S, C, P], STOP-padded; an entry of STOP alone is none.
        """
        verdicts, reused = self.look_up(question, paths)
        gold = np.array([each.answer for each in self.questions])[question]
        others = (paths[:, :, 0] != STOP) & (target != gold)[:, None]
        if others.any():
            index = np.nonzero(others)
            verdicts.put(index, verdicts.take(index).of_target(target[index[0]]))
        return verdicts, reused

    def look_up(self, question: np.ndarray, paths: np.ndarray) -> tuple[Verdicts, np.ndarray]:
        """Evaluates what is new of paths [S, C, P] of questions [S].

        Returns:
          Verdicts [S, C], and which of the paths were known before [S, C].
        """
        reused = paths[:, :, 0] != STOP
        entries = [(s, c, unpad_path(paths[s, c])) for s, c in np.argwhere(reused).tolist()]
        new: list[dict[Path, np.ndarray]] = [{} for _ in self.questions]
        for s, c, path in entries:
            b = question[s]
            if path not in self.known[b] and path not in new[b]:
                reused[s, c] = False
                if path in self.resumed[b]:
                    self.take(b, path, self.resumed[b][path])
                else:
                    new[b][path] = paths[s, c]
        for wave in self.cut(new, paths.shape[2]):
            self.add(wave, self.evaluate(wave))
        out = Verdicts.empty(paths.shape[:2], self.options)
        for s, c, path in entries:
            out.put((s, c), self.verdict(question[s], path))
        return out, reused

    def verdict(self, question: int, path: Path) -> Verdicts:
        """Returns the verdict, fields [], of a known path of a question."""
        wave, row, column = self.known[question][path]
        return self.waves[wave].take((row, column))

    def of_question(self, question: int, paths: Sequence[Path]) -> Verdicts:
        """Returns the verdicts [C] of known paths of a question."""
        out = Verdicts.empty((len(paths),), self.options)
        for c, path in enumerate(paths):
            out.put((c,), self.verdict(question, path))
        return out

    def cut(
        self, missing: Sequence[Mapping[Path, np.ndarray]], positions: int
    ) -> Iterator[np.ndarray]:
        """Yields waves [B, C, P] of at most `call_size` paths, one of every question first."""
        columns = itertools.zip_longest(*(rows.values() for rows in missing))
        order = [(b, row) for rows in columns for b, row in enumerate(rows) if row is not None]
        size = self.call_size or max(1, len(order))
        for first in range(0, len(order), size):
            chosen: list[list[np.ndarray]] = [[] for _ in missing]
            for b, row in order[first : first + size]:
                chosen[b].append(row)
            wave = np.full((len(missing), max(map(len, chosen)), positions), STOP, np.int32)
            for b, rows in enumerate(chosen):
                wave[b, : len(rows)] = np.reshape(rows, (len(rows), positions))
            yield wave

    def add(self, paths: np.ndarray, verdicts: Verdicts) -> None:
        """Adds verdicts [B, C] of paths [B, C, P], and writes them."""
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist():
            self.known[b][unpad_path(paths[b, c])] = len(self.waves), b, c
        self.waves.append(verdicts)
        if self.write is not None:
            self.write(paths, verdicts)
