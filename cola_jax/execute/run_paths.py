"""`run_paths`: runs paths of prompts on all devices of a model, and reads the model's answers."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import check_keywords
from cola_jax.execute.driver import Driver, open_prefix
from cola_jax.execute.inputs import Paths, check_batch, cut, distinct_reads, no_readings
from cola_jax.execute.layout import Layout, layout_of
from cola_jax.execute.memory import (
    Memory,
    Sizes,
    choose_sizes,
    count_states,
    held_bytes,
    round_questions,
)
from cola_jax.execute.plan import (
    Chunk,
    Workload,
    drop_prefix,
    take,
)
from cola_jax.execute.readouts import Readouts, ReadPositions, keep_outputs, unembed_queries
from cola_jax.execute.schedule import Trie
from cola_jax.execute.worker import Worker, WorkerOptions, make_workers, map_questions
from cola_jax.params import Model
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, PromptsLike, Readings

Result = TypeVar("Result")


class PathEvaluator:
    """Runs waves of paths of prompts, which lie end to end in tiles, and reads the model.

    A prefix that all prompts share is run once for each path, where memory allows. States that a
    wave computed are kept for later waves as long as slots allow.
    """

    def __init__(
        self, worker: Worker, prompts: Prompts, workload: Workload, *, divergence: bool = False
    ):
        """Take the prompts of a batch; `divergence` reads that from the identity path as well."""
        self.worker = worker
        self.reads = np.asarray(prompts.read).shape[1]
        count = round_questions(len(prompts.ids))
        config = worker.config
        if divergence:
            longest = max(workload.positions, config.num_layers)
            workload = workload._replace(positions=longest)

        def choose(prefix: int, memory: Memory) -> tuple[Layout, Sizes]:
            states = count_states(config, count, workload.wave, workload.evaluations)
            rest = drop_prefix(prompts, prefix)
            return choose_path_sizes(config, rest, memory, states, by_row=prefix > 0)

        prefix, size, chosen = open_prefix(worker, prompts, workload, choose)
        self.layout, self.sizes = chosen
        prompts = drop_prefix(prompts, size)
        tokens = self.layout.tokens
        width = self.layout.most_reads
        slots = (self.sizes.slots + 1, tokens, config.state_width)
        self.sizes = self.sizes._replace(slots=worker.rows_of_spare(slots, worker.dtype) - 1)
        self.read_positions = ReadPositions(prompts, width)
        self.trie = Trie(self.sizes.slots, self.layout, self.sizes.outputs)
        self.driver = Driver(
            worker,
            cut(prompts, tokens, self.reads),
            self.read_positions.read,
            self.sizes.slots,
            self.layout,
            count,
            prefix,
        )
        # padding rows write to the output after the last one
        shape = (self.sizes.outputs + 1, width, config.state_width)
        self.outputs = worker.take_buffer(shape, worker.dtype, split=2)
        self.identity = None  # the outputs of the identity path
        if divergence:
            self.identity = worker.take_buffer((count, *shape[1:]), worker.dtype, split=2)
            self.has_identity = np.zeros(count, bool)
            # two distributions in place of one
            self.sizes = self.sizes._replace(unembedded=self.sizes.unembedded // 2)

    def __call__(self, paths: np.ndarray) -> Readings:
        """Run a wave [B, C, P]; return Readings [B, C, Q] as numpy."""
        out = no_readings(paths, self.reads, self.identity is not None)
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        steps = self.worker.config.with_runs(paths[question, candidate])
        rows = np.concatenate([question[:, None], steps], axis=1)
        if not len(rows):
            return out
        if self.identity is not None:
            self.run_identity(np.unique(question))
        prefix = self.driver.prefix
        groups = [np.arange(len(rows))] if prefix is None else prefix.groups(rows[:, 1:])
        for group in groups:
            for numbers, pending in self.dispatch(rows[group], self.program):
                numbers = group[numbers]
                places = question[numbers], candidate[numbers]
                self.read_positions.collect(self.worker.wait(pending), *places, out)
                self.worker.metrics.add(evaluations=len(numbers))
        return out

    def run_identity(self, questions: np.ndarray) -> None:
        """Run the identity path of questions for which it has not run, and keep its outputs."""
        new = questions[~self.has_identity[questions]]
        if len(new):
            path = np.arange(self.worker.config.num_layers)
            rows = np.concatenate([new[:, None], np.tile(path, (len(new), 1))], axis=1)
            self.dispatch(rows, self.identity_program)
            self.has_identity[new] = True

    def dispatch(
        self, rows: np.ndarray, make: Callable[[Chunk, np.ndarray], Callable[[], Result]]
    ) -> list[tuple[np.ndarray, Result]]:
        """Dispatch paths [n, 1 + P]; return the numbers of those of each chunk, and its result.

        `make` makes the function that dispatches a chunk of paths of these questions.
        """
        with self.driver.on_paths(rows[:, 1:]) as blocks:
            chunks, cost = self.trie.plan(rows, blocks)
            self.worker.metrics.add(cost=cost)
            programs = [make(chunk, rows[chunk.paths, 0]) for chunk in chunks]
            pending = [self.worker.dispatch(program) for program in programs]
        return [(chunk.paths, each) for chunk, each in zip(chunks, pending, strict=True)]

    def program(self, chunk: Chunk, question: np.ndarray) -> Callable[[], list[Readouts]]:
        """Make the function that reads the outputs of a chunk of paths of these questions."""
        queries = self.read_positions.queries(question, self.sizes.unembedded)
        worker = self.worker

        def run() -> list[Readouts]:
            self.outputs, _ = self.driver.run(chunk, self.outputs)
            readouts = []
            for rows, targets, identity_rows in zip(*queries, strict=True):
                identity = self.identity
                if identity is not None:
                    identity = identity, worker.put(identity_rows)
                asked = worker.put((rows, targets))
                readouts.append(unembed_queries(worker.model, self.outputs, *asked, identity))
            return readouts

        return run

    def identity_program(self, chunk: Chunk, question: np.ndarray) -> Callable[[], None]:
        """Make the function that keeps the outputs of a chunk of the identity path."""
        rows = np.full(self.sizes.outputs + 1, len(self.has_identity))  # of no question
        rows[: len(question)] = question

        def run() -> None:
            self.outputs, _ = self.driver.run(chunk, self.outputs)
            self.identity = keep_outputs(self.identity, self.outputs, self.worker.put(rows))

        return run

    def close(self) -> None:
        """Give the buffers back to the worker."""
        self.driver.close()
        self.worker.give_back(self.outputs)
        if self.identity is not None:
            self.worker.give_back(self.identity)


def choose_path_sizes(
    config: ModelConfig, prompts: Prompts, memory: Memory, states: int = 0, *, by_row: bool = False
) -> tuple[Layout, Sizes]:
    """Choose the layout and the sizes of a batch that can use a number of states.

    Recurrent layers take tokens `by_row`, and so do others after a prefix. Raises InputError where
    the memory is too small for a path.
    """
    by_row = by_row or any(kind.convolution for kind in config.kinds)
    layout = layout_of(prompts, memory.limits, distinct_reads(prompts), by_row)
    held = held_bytes(config, prompts, layout.tokens, memory)
    sizes = choose_sizes(config, layout.tokens, layout.most_reads, memory, states, held)
    return layout, sizes


def run_paths(
    model: Model,
    prompts: PromptsLike,
    paths: Paths,
    **options: Unpack[WorkerOptions],
) -> Readings:
    """Run the candidate paths of each question and read the model at its read positions.

    In float32 it agrees with `run_path` up to rounding. Compiles once for each of few numbers of
    tokens.

    Args:
      model: questions are divided over the `data` axis of its mesh.
      prompts: a batch of B Prompts with `read` and `targets` [B, Q]. Other prompts that `run_path`
        takes are read at each token but the last, and asked about the next one.
      paths: [B, C, P] padded with STOP, for each question a list of paths of any lengths and
        number, or one list for all. An entry of STOP alone is not a path and is not evaluated.
      options: dtype, memory_budget, tile_tokens, metrics; see `WorkerOptions`.

    Returns:
      Readings [B, C, Q] as numpy; entries without a path or a read position are -inf, and not
      finite.

    Raises:
      InputError: as `run_path`, where the budget is too small for a path, and where there are fewer
        questions than places on the `data` axis.
    """
    check_keywords(run_paths, options, WorkerOptions)
    batch, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(batch.read).shape[1])
    # one batch at a time on a worker: each has the whole budget
    settings: dict[str, Any] = dict(options)
    progress = settings.pop("progress", None)
    workers = make_workers(model, **settings)
    choose_path_sizes(model.config, batch, workers[0].memory)  # raises before anything runs

    def run(worker: Worker, rows: np.ndarray, workload: Workload) -> Readings:
        with contextlib.closing(PathEvaluator(worker, take(batch, rows), workload)) as evaluator:
            return evaluator(padded[rows])

    workload = Workload(*padded.shape[1:])
    for rows, readings in map_questions(workers, run, batch, padded, workload, progress):
        for name in ("logprob", "token", "rival", "finite"):
            getattr(out, name)[rows] = getattr(readings, name)
    return out
