"""`Recorder`: evaluates paths of some of a session's questions, and remembers what it evaluated.

What a search over all questions asks for depends on what it was told, so it is resumed by running
it again: what an earlier start evaluated is read from the run directory.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cola_jax.execute.evaluator import Workload, cut_batches
from cola_jax.execute.inputs import bucket
from cola_jax.execute.metrics import Metrics
from cola_jax.path import STOP, pad_path
from cola_jax.runs.directory import WHOLE, RunDirectory
from cola_jax.runs.growth import continues
from cola_jax.runs.reuse import stored_verdict
from cola_jax.runs.schema import evaluation_rows, question_row
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.scorer import most_options, prompt_buckets
from cola_jax.scoring.verdicts import Verdicts

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

Path = tuple[int, ...]
SECONDS = 20  # between part files: what an interruption loses
LEAST_WAVE = 8  # buffers are sized for so many paths, so that few shapes compile


class Recorder:
    """A function from paths and questions to verdicts, over a run directory."""

    def __init__(
        self,
        session: "Session",
        run: RunDirectory,
        longest: int,
        batch_size: int,
        metrics: Metrics,
    ):
        """Reads what the run has; `longest` is the longest path, in layers."""
        self.session, self.run, self.metrics = session, run, metrics
        self.batch_size = batch_size
        self.positions = bucket(longest)
        self.known: list[dict[Path, Verdicts]] = [{} for _ in session.encoded]
        self.rows: tuple[list[Any], list[Any]] = [], []  # evaluations and questions to be written
        self.written, self.counts = time.monotonic(), Counter[str]()
        self.evaluator: ModelEvaluator | None = None
        self.read()

    def read(self) -> None:
        """Reads what earlier starts evaluated."""
        at = {one.question.id: i for i, one in enumerate(self.session.encoded)}
        for row in self.run.evaluations().to_pylist():
            i = at[row["question"]]
            one = stored_verdict(row, self.session.encoded[i], self.session.scorer)
            self.known[i][tuple(row["path"])] = one
            self.counts[row["question"]] += 1
        self.metrics.add(earlier=self.counts.total())

    def __call__(self, paths: Sequence[Path], some: np.ndarray | None = None) -> Verdicts:
        """Evaluates C paths on the questions `some` [n], all when None; returns fields [n, C]."""
        encoded = self.session.encoded
        some = np.arange(len(encoded)) if some is None else some
        once = list(dict.fromkeys(paths))
        missing = {int(i): [p for p in once if p not in self.known[i]] for i in some}
        self.evaluate({i: rows for i, rows in missing.items() if rows})
        out = Verdicts.empty((len(some), len(paths)), most_options(encoded))
        for b, i in enumerate(some):
            for c, path in enumerate(paths):
                out.put((b, slice(c, c + 1)), self.known[i][path])
        return out

    def evaluate(self, missing: dict[int, list[Path]]) -> None:
        """Evaluates for each question its paths, and writes them now and then."""
        if not missing:
            return
        session, index = self.session, np.array(list(missing))
        if self.evaluator is None:  # the weights load when they are first needed
            devices = session.run_config.devices
            self.evaluator = ModelEvaluator(
                session.load(self.metrics),
                session.encoded,
                session.scorer,
                memory_budget=devices.budget,
                rows=devices.rows,
                metrics=self.metrics,
                progress=False,
            )
        wave = max(map(len, missing.values()))
        keys = prompt_buckets([session.encoded[i] for i in index])
        batches = cut_batches(keys, 1, self.batch_size)

        def run(evaluate: Any, some: np.ndarray) -> Verdicts:
            paths = np.full((len(some), wave, self.positions), STOP, np.int32)
            for b, i in enumerate(some):
                for c, path in enumerate(missing[int(i)]):
                    paths[b, c] = pad_path(path, self.positions)
            return evaluate(paths)

        workload = Workload(max(wave, LEAST_WAVE), self.positions, same=True)
        for some, verdicts in self.evaluator.map(run, workload, [index[b] for b in batches]):
            for b, i in enumerate(some):
                self.add(int(i), missing[int(i)], verdicts.take(b))
            if time.monotonic() - self.written > SECONDS:
                self.flush()

    def add(self, i: int, paths: list[Path], verdicts: Verdicts) -> None:
        """Remembers the verdicts [C] of a question's paths, and makes their rows."""
        one = self.session.encoded[i]
        before = self.counts[one.question.id]
        for c, path in enumerate(paths):
            self.known[i][path] = verdicts.take(slice(c, c + 1))
        rows = evaluation_rows(one, paths, verdicts.take(slice(0, len(paths))))
        for row in rows:
            row["node"] += before
        self.rows[0].extend(rows)
        if not before:
            self.rows[1].append(question_row(one, len(paths)))
        self.counts[one.question.id] += len(paths)

    def flush(self) -> None:
        """Writes what is not written yet, as one part."""
        if self.rows[0]:
            self.run.write_part(*self.rows)
            self.rows = [], []
        self.written = time.monotonic()


@contextlib.contextmanager
def recording(
    session: "Session",
    directory: str,
    recorded: dict[str, Any],
    longest: int,
    metrics: Metrics | None = None,
) -> Iterator[Recorder]:
    """Opens a run, and writes to it what its recorder evaluates, however that ends.

    `recorded` decides, with the session's own settings, whether a run can be resumed. Raises
    ValueError for a run with other settings, a budget that is too small, and shards.
    """
    if session.run_config.shard != WHOLE or session.run_config.hosts.distributed:
        raise ValueError(
            "one path is sought for all questions, so they cannot be divided: leave out --shard "
            "and --distributed."
        )
    metrics = Metrics() if metrics is None else metrics
    session.check_budget(bucket(longest))
    run = RunDirectory(directory)
    with run.locked():
        size = session.batch_size(session.settings["questions"])
        environment = session.environment | {"devices": session.num_devices}
        settings = session.settings | recorded
        run.open(settings, environment, lambda old: continues(directory, old, settings))
        recorder = Recorder(session, run, longest, size, metrics)
        try:
            yield recorder
        finally:
            recorder.flush()
            run.close(metrics.report())
