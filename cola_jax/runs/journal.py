"""`Journal`: evaluations of questions that are not done yet, so that little is ever lost.

The questions of a batch are done together, which may take minutes. Until then, what they were
evaluated on is written every few seconds, and read again by the next start. A run that is continued
with a larger budget reads the evaluations of the smaller one in the same way.
"""

import itertools
import logging
import math
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cola_jax.execute.metrics import COUNTER, Metrics
from cola_jax.files import matching
from cola_jax.path import STOP, identity, pad_path, unpad_path
from cola_jax.runs.directory import UNFINISHED, RunDirectory
from cola_jax.runs.part_files import read_part
from cola_jax.runs.reuse import StoredRows, stored_rows, stored_verdict
from cola_jax.runs.schema import EVALUATIONS, evaluation_rows
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.scorer import BatchEvaluator, most_options
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

Path = tuple[int, ...]
SCHEMA = EVALUATIONS.append(pa.field("variant", pa.int16()))  # 0 or null for the question itself
SCHEMA = SCHEMA.append(pa.field("confirmed", pa.bool_()))  # by the reference; null for evaluations
SECONDS = 4.0  # between two files
PIECE = 8.0  # seconds that one call of an evaluator should take
COLLAPSED, BALANCED, ENOUGH = 0.9, 0.6, 20  # shares of questions, and how many tell
KEPT = 0.8  # of what an evaluation took before, where it takes less: the next may take more again

log = logging.getLogger(__name__)


class Journal:
    """The evaluations of unfinished questions, in memory and in a folder of the run."""

    def __init__(self, run: RunDirectory, encoded: Sequence[Encoded], metrics: Metrics):
        """Reads what the run has of these questions; ValueError names a damaged file."""
        self.run, self.metrics = run, metrics
        self.folder = run.directory / UNFINISHED
        self.lock = threading.Lock()
        self.rows: dict[str, list[dict[str, Any]]] = {}  # of each question, not written yet
        self.left: dict[Any, set[str]] = {}  # the questions of each file that are not done
        self.files: dict[str, list[Any]] = defaultdict(list)  # those of each question
        self.stored = StoredRows()
        self.read: dict[str, dict[int, dict[Path, Verdicts]]] = defaultdict(dict)
        self.written = -math.inf  # the first evaluations are written at once
        self.seconds: dict[int, float] = {}  # that an evaluation takes, in each variant
        self.plain: dict[str, tuple[int, int]] = {}  # the pretrained model's answers, and gold
        names = {one.question.id for one in encoded}
        for file in matching(self.folder, "*.parquet"):
            table = read_part(file, SCHEMA, run.num_layers, "evaluations are made")
            self.note(file, self.stored.add(table, names))

    def note(self, file: Any, questions: set[str]) -> None:
        """Notes a file, which is removed once its questions are done."""
        self.left[file] = questions
        for name in questions:
            self.files[name].append(file)

    def known(self, one: Encoded, variant: int, scorer: Scorer) -> dict[Path, Verdicts]:
        """Returns the verdict [1] of each path that was evaluated of a question in a variant.

        What it returns is read once, and may be added to.
        """

        def serves(row: dict[str, Any]) -> bool:
            exact = scorer.retargets or not row["control"]
            return exact and row["confirmed"] is None and (row["variant"] or 0) == variant

        read = self.read[one.question.id]
        if variant not in read:
            rows = stored_rows(self.stored.of(one.question.id), serves)
            read[variant] = {path: stored_verdict(row, one, scorer) for path, row in rows.items()}
        return read[variant]

    def confirmed(self, one: Encoded) -> dict[Path, bool]:
        """Returns the paths of a question that the reference was run on, and what it found."""
        return {
            tuple(row["path"]): row["confirmed"]
            for row in self.stored.of(one.question.id)
            if row["confirmed"] is not None
        }

    def evaluator(
        self,
        evaluate: BatchEvaluator,
        batch: Sequence[Encoded],
        variant: int = 0,
        *,
        always_first: bool = False,
    ) -> "ResumedEvaluator":
        """Wraps the evaluator of a batch, whose questions are asked in a variant."""
        return ResumedEvaluator(self, evaluate, batch, variant, always_first)

    def note_plain(self, answers: Mapping[str, tuple[int, int]], scorer: Scorer) -> None:
        """Notes answers of the pretrained model with gold; warns once where they are all alike."""
        with self.lock:
            self.plain.update(answers)
            problem = None if self.metrics.collapsed else collapse(list(self.plain.values()))
            if problem:
                self.metrics.collapsed = True  # once for all runs of a command
                log.warning("by the scorer %s, %s", scorer.name, problem)

    def add(self, one: Encoded, rows: Iterable[dict[str, Any]]) -> None:
        """Takes rows of a question, to be written soon."""
        with self.lock:
            self.rows.setdefault(one.question.id, []).extend(rows)

    def write_if_due(self) -> None:
        """Writes what is new where the last time was some seconds ago, or never."""
        with self.lock:
            if time.monotonic() - self.written > SECONDS:
                self.write()

    def flush(self) -> None:
        """Writes what is new, as where an error ends the run."""
        with self.lock:
            self.write()

    def write(self) -> None:
        """Writes what is new to a file of its own; the lock is held."""
        self.written = time.monotonic()
        if not self.rows:
            return
        rows, self.rows = self.rows, {}
        file = self.folder / f"{self.run.shard.prefix}{uuid.uuid4().hex}.parquet"
        self.run.write_rows(file, SCHEMA, itertools.chain(*rows.values()))
        self.note(file, set(rows))

    def finish(self, questions: Sequence[str]) -> None:
        """Forgets questions that are done, and removes files that have no others."""
        with self.lock:
            for name in questions:
                self.rows.pop(name, None)
                self.read.pop(name, None)
                self.stored.forget(name)
                for file in self.files.pop(name, ()):
                    self.left[file].remove(name)
                    if not self.left[file]:
                        file.unlink(missing_ok=True)
                        del self.left[file]


def collapse(answers: Sequence[tuple[int, int]]) -> str | None:
    """Says where the options chosen, each with gold, are nearly all in one place and gold is not.

    Fewer than `ENOUGH` questions tell nothing, nor does no answer.
    """
    chosen = Counter(answer for answer, _ in answers if answer != NO_ANSWER)
    if len(answers) < ENOUGH or not chosen:
        return None
    (place, count), *_ = chosen.most_common(1)
    gold = Counter(gold for _, gold in answers)
    limit = BALANCED * len(answers)
    if count < COLLAPSED * len(answers) or gold.most_common(1)[0][1] > limit:
        return None
    return (
        f"the pretrained model answers {chr(ord('A') + place)}, whatever is asked: to {count} of "
        f"{len(answers)} questions, where it is right for {gold[place]}. What paths change may be "
        "this preference alone: try another --scorer, such as options, --format or --num-fewshot."
    )


class ResumedEvaluator(BatchEvaluator):
    """Evaluates what the journal does not have, in calls of a few seconds, and adds it there."""

    def __init__(
        self,
        journal: Journal,
        evaluate: BatchEvaluator,
        batch: Sequence[Encoded],
        variant: int,
        always_first: bool,
    ):
        """Takes the evaluator of a batch; see `Journal.evaluator`.

        `always_first` evaluates the paths of the first call even where they are known.
        """
        super().__init__(evaluate.scorer, evaluate.worker, batch)
        self.journal, self.inner, self.variant = journal, evaluate, variant
        self.pass_through = always_first
        self.known = [journal.known(one, variant, self.scorer) for one in batch]
        self.seconds = journal.seconds.get(variant)  # that an evaluation takes

    def __call__(self, paths: np.ndarray) -> Verdicts:
        out = Verdicts.empty(paths.shape[:2], most_options(self.batch))
        missing: list[list[int]] = [[] for _ in self.batch]
        for b, c in np.argwhere(paths[:, :, 0] != STOP).tolist():
            stored = None if self.pass_through else self.known[b].get(unpad_path(paths[b, c]))
            if stored is None:
                missing[b].append(c)
            else:
                out.put((b, slice(c, c + 1)), stored)
                self.journal.metrics.add(earlier=1)
        self.pass_through = False
        waves = deque(
            [(b, c) for b, c in enumerate(wave) if c is not None]
            for wave in itertools.zip_longest(*missing)
        )
        while waves:
            self.evaluate(paths, self.next_call(waves), out)
        self.note_plain(paths, out)
        return out

    def note_plain(self, paths: np.ndarray, verdicts: Verdicts) -> None:
        """Notes the answers on the identity path, of questions of multiple choice as they are."""
        layers = self.journal.run.num_layers
        if self.variant or self.scorer.open or layers is None or layers > paths.shape[2]:
            return
        plain = pad_path(identity(layers), paths.shape[2])
        answers = {
            self.batch[b].question.id: (int(verdicts.answer[b, c]), self.batch[b].question.answer)
            for b, c in np.argwhere((paths == plain).all(axis=2)).tolist()
        }
        if answers:
            self.journal.note_plain(answers, self.scorer)

    def next_call(self, waves: deque[list[tuple[int, int]]]) -> list[tuple[int, int]]:
        """Takes the questions and columns to evaluate in one call off the front of waves.

        They are one path of every question, as often as time allows, or of some of them.
        """
        most, some = self.most(), waves.popleft()
        if len(some) > most:
            waves.appendleft(some[most:])
            return some[:most]
        while waves and len(some) + len(waves[0]) <= most:
            some = some + waves.popleft()
        return some

    def most(self) -> int:
        """Returns how many evaluations one call should make."""
        together = self.inner.together
        return together if self.seconds is None else max(together, int(PIECE / self.seconds))

    def evaluate(self, paths: np.ndarray, some: Sequence[tuple[int, int]], out: Verdicts) -> None:
        """Evaluates the paths of some questions in some columns, and puts their verdicts."""
        columns: dict[int, list[int]] = defaultdict(list)
        for b, c in some:
            columns[b].append(c)
        wave = np.full(
            (len(paths), max(map(len, columns.values())), paths.shape[2]), STOP, np.int32
        )
        for b, own in columns.items():
            wave[b, : len(own)] = paths[b, own]
        with self.inner.turn:
            begun, compiling = time.perf_counter(), COUNTER.thread_seconds()
            verdicts = self.inner(wave)
        if COUNTER.thread_seconds() == compiling:  # else the time tells nothing
            self.took((time.perf_counter() - begun) / len(some))
        for b, own in columns.items():
            one = verdicts.take((b, slice(len(own))))
            out.put((b, np.array(own)), one)
            written = [unpad_path(path) for path in paths[b, own]]
            rows = evaluation_rows(self.batch[b], written, one)
            self.journal.add(self.batch[b], (row | {"variant": self.variant} for row in rows))
        self.journal.write_if_due()

    def took(self, seconds: float) -> None:
        """Notes the seconds of an evaluation, for the next calls and for other batches."""
        known = self.journal.seconds
        self.seconds = max(seconds, KEPT * (self.seconds or 1e-9))
        known[self.variant] = max(self.seconds, KEPT * known.get(self.variant, 0.0))

    def of_target(self, verdicts: Verdicts, target: int | np.ndarray) -> Verdicts:
        return self.inner.of_target(verdicts, target)

    def given(self, question: int, plain: Verdicts) -> list[int]:
        return self.inner.given(question, plain)

    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> list[bool | None]:
        out: list[bool | None] = [None] * len(paths)
        for b in np.flatnonzero(paths[:, 0] != STOP).tolist():
            one, path = self.batch[b], unpad_path(paths[b])
            out[b] = self.journal.confirmed(one).get(path)
            if out[b] is None:
                self.journal.write_if_due()  # each takes up to seconds
                alone = np.full_like(paths, STOP)
                alone[b] = paths[b]
                out[b] = self.inner.confirm(alone, verdicts)[b]
                row = {"question": one.question.id, "path": path, "confirmed": out[b]}
                self.journal.add(one, [row])
        return out

    def release(self) -> None:
        self.inner.close()
