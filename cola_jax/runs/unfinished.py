"""Evaluations of questions that are not done: written wave by wave, for the next start."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cola_jax.path import STOP, unpad_path
from cola_jax.runs.parts import by_question, read_part
from cola_jax.runs.schema import EVALUATIONS, evaluation_rows, known_verdicts
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluations import Write
from cola_jax.scoring.verdicts import Verdicts

# writes rows to a file of that name before its digest, and returns the file
WriteRows = Callable[[str, Iterable[dict[str, Any]]], epath.Path]


class Unfinished:
    """The evaluations of an earlier start, by question, and the files of this one."""

    def __init__(self, write_rows: WriteRows):
        self.write_rows = write_rows
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)  # of an earlier start
        self.waves: dict[str, list[epath.Path]] = defaultdict(list)  # by a batch's first question

    def load(self, files: Iterable[epath.Path], mark: str, done: Collection[str]) -> None:
        """Read the evaluations that an earlier start made of questions that are not done."""
        for file in files:
            try:
                tables = by_question(read_part(file, EVALUATIONS, mark))
            except FileNotFoundError:  # another shard has done its questions
                continue
            for name, table in tables.items():
                if name not in done:
                    self.tables[name].append(table)

    def known(self, encoded: Encoded) -> dict[tuple[int, ...], Verdicts]:
        """Return the verdict [1] of each path that an earlier start evaluated of a question."""
        return known_verdicts(self.tables.get(encoded.question.id, ()), encoded)

    def writer(self, batch: Sequence[Encoded]) -> Write:
        """Return a function that writes new evaluations of a batch."""

        def write(paths: np.ndarray, verdicts: Verdicts) -> None:
            rows = []
            for b, encoded in enumerate(batch):
                entries = np.flatnonzero(paths[b, :, 0] != STOP)
                written = [unpad_path(path) for path in paths[b, entries]]
                rows += evaluation_rows(encoded, written, verdicts.take((b, entries)))
            file = self.write_rows(uuid.uuid4().hex, rows)
            self.waves[batch[0].question.id].append(file)

        return write

    def drop(self, question: str) -> None:
        """Remove the evaluations of a question that is done now."""
        self.tables.pop(question, None)
        for file in self.waves.pop(question, ()):
            file.unlink(missing_ok=True)
