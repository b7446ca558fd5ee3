"""`Recorder`: evaluates paths of some of a session's questions, and remembers what it evaluated.

What a search over all questions asks for depends on what it was told, so it is resumed by running
it again: what an earlier start evaluated is read from the run's journal. Its questions are done
together, when the search is.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.inputs import bucket
from cola_jax.execute.metrics import Metrics
from cola_jax.path import STOP, pad_path
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.growth import continues
from cola_jax.runs.journal import Journal
from cola_jax.runs.schema import evaluation_rows, question_row
from cola_jax.runs.shard import WHOLE
from cola_jax.scoring.batches import question_batches
from cola_jax.scoring.evaluator import ModelEvaluator
from cola_jax.scoring.scorer import BatchEvaluator, most_options
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.tasks.task import refuse_variants

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

Path = tuple[int, ...]
LEAST_WAVE = 8  # buffers are sized for so many paths, so that few shapes compile


class Recorder:
    """A function from paths and questions to verdicts, over a run directory."""

    def __init__(self, session: "Session", run: RunDirectory, longest: int, metrics: Metrics):
        """Reads what the run has; `longest` is the longest path, in layers."""
        self.session, self.run, self.metrics = session, run, metrics
        self.positions = bucket(longest)
        self.journal = Journal(run, session.encoded, metrics)
        self.known = [self.journal.known(one, 0, session.scorer) for one in session.encoded]
        self.asked: list[dict[Path, None]] = [{} for _ in session.encoded]  # in order
        self.evaluator: ModelEvaluator | None = None
        metrics.add(earlier=sum(map(len, self.known)))

    def __call__(self, paths: Sequence[Path], some: np.ndarray | None = None) -> Verdicts:
        """Evaluates C paths on the questions `some` [n], all when None; returns fields [n, C]."""
        some = np.arange(len(self.known)) if some is None else some
        for i in some:
            self.asked[i].update(dict.fromkeys(paths))
        missing = {
            int(i): [path for path in dict.fromkeys(paths) if path not in self.known[i]]
            for i in some
        }
        self.evaluate({i: rows for i, rows in missing.items() if rows})
        out = Verdicts.empty((len(some), len(paths)), most_options(self.session.encoded))
        for b, i in enumerate(some):
            out.put((b,), self.verdicts(int(i), paths))
        return out

    def verdicts(self, i: int, paths: Sequence[Path]) -> Verdicts:
        """Returns the verdicts [C] of paths that were evaluated on a question."""
        out = Verdicts.empty((len(paths),), most_options(self.session.encoded))
        for c, path in enumerate(paths):
            out.put((slice(c, c + 1),), self.known[i][path])
        return out

    def evaluate(self, missing: Mapping[int, list[Path]]) -> None:
        """Evaluates for each question its paths, which the journal writes."""
        if not missing:
            return
        session = self.session
        wave = max(LEAST_WAVE, *map(len, missing.values()))
        workload = Workload(wave, self.positions, same=True, fixed=True)
        if self.evaluator is None:  # the weights load when they are first needed
            self.evaluator = session.evaluator(self.metrics)
            self.batches = question_batches([session.encoded], workload, session.first)

        def run(evaluate: BatchEvaluator, some: np.ndarray) -> Verdicts:
            paths = np.full((len(some), wave, self.positions), STOP, np.int32)
            for b, i in enumerate(some):
                for c, path in enumerate(missing[int(i)]):
                    paths[b, c] = pad_path(path, self.positions)
            batch = [session.encoded[i] for i in some]
            return self.journal.evaluator(evaluate, batch)(paths)

        cut = self.batches.cut(list(missing), largest=session.batch_size(len(missing)))
        prefixes = self.batches.prefixes
        for some, verdicts in self.evaluator.map(run, workload, cut, prefixes):
            for b, i in enumerate(some):
                for c, path in enumerate(missing[int(i)]):
                    self.known[i][path] = verdicts.take((b, slice(c, c + 1)))

    def finish(self) -> None:
        """Writes what was asked of every question as a part: the search is done."""
        evaluations, questions = [], []
        for i, one in enumerate(self.session.encoded):
            if paths := list(self.asked[i]):
                evaluations += evaluation_rows(one, paths, self.verdicts(i, paths))
                questions.append(question_row(one, len(paths)))
        self.run.write_part(evaluations, questions)
        self.journal.finish([one.question.id for one in self.session.encoded])
        self.run.tidy(len(questions))


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
    ValueError for a run with other settings, a budget that is too small, variants, and shards.
    """
    refuse_variants(recorded["command"], [variant.name for variant in session.variants])
    if session.run_config.shard != WHOLE or session.run_config.hosts.distributed:
        raise InputError(
            "one path is sought for all questions, so they cannot be divided: leave out --shard "
            "and --distributed."
        )
    metrics = Metrics() if metrics is None else metrics
    session.check_budget(bucket(longest))
    run = RunDirectory(directory)
    settings = session.settings | recorded
    environment = session.environment | {"devices": session.num_devices}  # or they do not fit

    def check(old: Mapping[str, Any]) -> bool:
        continues(directory, old, settings)
        return True  # no question is done before all are, and the journal reads what was evaluated

    with run.locked():
        run.open(settings, environment, check)
        recorder = Recorder(session, run, longest, metrics)
        try:
            yield recorder
            recorder.finish()
        finally:
            recorder.journal.flush()
            run.close(metrics.report())
