"""`Evaluations`: a cache of the evaluations of questions, so that no path is evaluated twice."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from cola_jax.path import LayerPath, pad_lists, unpad_path
from cola_jax.question import Question
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts

Known = Sequence[Mapping[LayerPath, Verdicts]]  # of each question, the verdict [1] of each path
PathLists = Sequence[Sequence[LayerPath]]  # of each question, or of each search
Write = Callable[[PathLists, Verdicts], None]  # takes the paths of B questions, and verdicts [B, C]


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
        in_parts: bool = False,
    ):
        """Wrap a function that evaluates paths of B questions.

        Args:
          known: evaluations of other runs.
          resumed: those of an earlier start of the same work, which count as new.
          write: takes new evaluations, call by call.
          call_size: the most evaluations of a call; None for a whole wave.
          in_parts: whether `evaluate` also takes a function that keeps verdicts before its end.
        """
        self.evaluate = evaluate
        self.write = write
        self.call_size = call_size
        self.in_parts = in_parts
        self.questions = questions
        self.options = max(1, *(len(each.options) for each in questions))
        self.known = [dict(rows) for rows in known or [{}] * len(questions)]
        self.resumed = [dict(rows) for rows in resumed or [{}] * len(questions)]

    def __call__(self, paths: np.ndarray) -> Verdicts:
        lists = [[unpad_path(path) for path in row] for row in paths]
        return self.look_up(range(len(lists)), lists, paths.shape[2])[0]

    def of_searches(
        self, questions: Sequence[int], targets: Sequence[int], paths: PathLists, positions: int
    ) -> tuple[Verdicts, np.ndarray]:
        """Evaluate the paths of S searches, each of a question for a target.

        They are padded to a number of positions. Returns Verdicts [S, C] of the targets, and which
        evaluations were known before [S, C].
        """
        verdicts, reused = self.look_up(questions, paths, positions)
        others = [
            (s, c)
            for s, (b, target) in enumerate(zip(questions, targets, strict=True))
            if target != self.questions[b].answer
            for c in range(len(paths[s]))
        ]
        if others:
            index = tuple(np.transpose(others))
            verdicts.put(index, verdicts.take(index).of_target(np.array(targets)[index[0]]))
        return verdicts, reused

    def look_up(
        self, questions: Sequence[int], paths: PathLists, positions: int
    ) -> tuple[Verdicts, np.ndarray]:
        """Evaluate the new ones of paths; empty ones are none. Returns as `of_searches`."""
        shape = len(paths), max(map(len, paths), default=0)
        reused = np.zeros(shape, bool)
        entries = [
            (s, c, b, path)
            for s, (b, row) in enumerate(zip(questions, paths, strict=True))
            for c, path in enumerate(row)
            if path
        ]
        new: list[dict[LayerPath, None]] = [{} for _ in self.questions]
        for s, c, b, path in entries:
            if path in self.known[b] or path in new[b]:
                reused[s, c] = True
            elif path in self.resumed[b]:
                self.known[b][path] = self.resumed[b][path]
            else:
                new[b][path] = None
        for wave in cut_waves(new, self.call_size):
            self.run(wave, pad_lists(wave, positions))
        out = Verdicts.empty(shape, self.options)
        for s, c, b, path in entries:
            out.put((s, slice(c, c + 1)), self.known[b][path])
        return out, reused

    def run(self, lists: PathLists, paths: np.ndarray) -> None:
        """Evaluate paths, given as lists and padded [B, C, P], and add their verdicts."""
        if not self.in_parts:
            self.add(lists, self.evaluate(paths))
            return

        def keep(entries: np.ndarray, verdicts: Verdicts) -> None:
            part: list[list[LayerPath]] = [[] for _ in lists]
            places = []
            for b, c in entries.T.tolist():
                places.append(len(part[b]))
                part[b].append(lists[b][c])
            out = Verdicts.empty((len(lists), max(map(len, part))), self.options)
            out.put((entries[0], np.array(places, int)), verdicts)
            self.add(part, out)

        self.evaluate(paths, keep)

    def find(self, question: int, path: LayerPath) -> Verdicts | None:
        """Return the verdict [1] of a path of a question, None where it is not known."""
        return self.known[question].get(path) or self.resumed[question].get(path)

    def prefetch(self, paths: PathLists, verdicts: Verdicts) -> None:
        """Take verdicts [B, C] of paths that searches ask about later, and write them.

        They count as new, as those of an earlier start do.
        """
        for b, row in enumerate(paths):
            for c, path in enumerate(row):
                self.resumed[b][path] = verdicts.take((b, slice(c, c + 1)))
        if self.write is not None and any(paths):
            self.write(paths, verdicts)

    def of_question(self, question: int, paths: Sequence[LayerPath]) -> Verdicts:
        """Return the verdicts [C] of known paths of a question."""
        out = Verdicts.empty((len(paths),), self.options)
        for c, path in enumerate(paths):
            out.put((slice(c, c + 1),), self.known[question][path])
        return out

    def add(self, paths: PathLists, verdicts: Verdicts) -> None:
        """Add verdicts [B, C] of the paths of B questions, and write them."""
        for b, row in enumerate(paths):
            for c, path in enumerate(row):
                self.known[b][path] = verdicts.take((b, slice(c, c + 1)))
        if self.write is not None:
            self.write(paths, verdicts)


def cut_waves(paths: Sequence[Mapping[LayerPath, None]], size: int | None) -> Iterator[PathLists]:
    """Yield waves of at most `size` paths of B questions, the first of every question first."""
    columns = itertools.zip_longest(*paths)
    order = [(b, path) for column in columns for b, path in enumerate(column) if path is not None]
    size = size or len(order) or 1
    for first in range(0, len(order), size):
        wave: list[list[LayerPath]] = [[] for _ in paths]
        for b, path in order[first : first + size]:
            wave[b].append(path)
        yield wave
