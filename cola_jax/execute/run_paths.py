"""`run_paths`: runs paths of prompts on all devices of a model, and reads the model's answers."""

import contextlib
import functools
import time
from typing import Unpack

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.execute.batches import (
    FRESH,
    Batches,
    Workload,
    drop_prefix,
    layout_of,
    slot_sizes,
    take,
)
from cola_jax.execute.driver import Driver, open_prefix, prefix_blocks
from cola_jax.execute.inputs import (
    Paths,
    check_batch,
    count_paths,
    cut,
    distinct_reads,
    no_readings,
)
from cola_jax.execute.memory import Memory, Sizes, choose_sizes, round_questions
from cola_jax.execute.plan import Chunk, Layout
from cola_jax.execute.readouts import Queries, Readouts, ReadPositions, unembed_queries
from cola_jax.execute.trie import Trie
from cola_jax.execute.worker import Pending, Worker, WorkerOptions, Workers
from cola_jax.params import Model
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, PromptsLike, Readings


class PathEvaluator:
    """Runs waves of paths of prompts, each padded to the tokens of its tiles, and reads the model.

    A prefix that all prompts share is run once for each path, where memory allows. States that a
    wave computed are kept for later waves as long as slots allow.
    """

    def __init__(self, worker: Worker, prompts: Prompts, workload: Workload):
        """Take the prompts of a batch."""
        self.worker, self.reads = worker, np.asarray(prompts.read).shape[1]
        count, config = round_questions(len(prompts.ids)), worker.config

        def choose(prefix: int, memory: Memory) -> tuple[Layout, Sizes]:
            states = count * min(workload.wave, memory.limits.states_kept) * config.num_layers
            return choose_path_sizes(config, drop_prefix(prompts, prefix), memory, states)

        self.prefix, size, chosen = open_prefix(worker, prompts, workload, choose)
        self.layout, self.sizes = chosen
        prompts, (tokens, width) = drop_prefix(prompts, size), slot_sizes(self.layout)
        self.read_positions = ReadPositions(prompts, width)
        self.trie = self.new_trie()
        self.driver = Driver(
            worker,
            cut(prompts, tokens, self.reads),
            self.read_positions.read,
            self.sizes.slots,
            self.layout,
            count,
        )
        # padding rows write to the output after the last one
        shape = (self.sizes.outputs + 1, width, config.width)
        self.outputs = worker.take_buffer(shape, worker.dtype, split=2)

    def __call__(self, paths: np.ndarray) -> Readings:
        """Run a wave [B, C, P]; return Readings [B, C, Q] as numpy."""
        out = no_readings(paths, self.reads)
        question, candidate = np.nonzero(paths[:, :, 0] != STOP)
        rows = np.concatenate([question[:, None], paths[question, candidate]], axis=1)
        if not len(rows):
            return out
        groups = [np.arange(len(rows))] if self.prefix is None else self.prefix.groups(rows[:, 1:])
        for group in groups:
            for numbers, pending in self.dispatch(rows[group]):
                numbers = group[numbers]
                self.read_positions.collect(
                    pending.get(), question[numbers], candidate[numbers], out
                )
                self.worker.metrics.add(evaluations=len(numbers))
        return out

    def dispatch(self, rows: np.ndarray) -> list[tuple[np.ndarray, Pending]]:
        """Dispatch paths [n, 1 + P], each a question and layers.

        Return the numbers of the paths of each chunk, and their readouts.
        """
        with prefix_blocks(self.prefix, rows[:, 1:]) as blocks:
            begun = time.perf_counter()
            chunks, cost = self.trie.plan(rows, blocks)
            self.worker.metrics.add(cost=cost, planning=time.perf_counter() - begun)
            programs = [
                functools.partial(self.run, chunk, self.queries(rows[chunk.paths, 0]))
                for chunk in chunks
            ]
            pending = [self.worker.dispatch(program) for program in programs]
        return [(chunk.paths, each) for chunk, each in zip(chunks, pending, strict=True)]

    def queries(self, question: np.ndarray) -> Queries:
        """Return the positions to read in outputs that belong to these questions."""
        return self.read_positions.queries(question, self.sizes.unembedded)

    def run(self, chunk: Chunk, queries: Queries) -> list[Readouts]:
        """Dispatch a chunk; return the readouts of its outputs."""
        cache = None if self.prefix is None else self.prefix.cache
        self.outputs, _ = self.driver.run(chunk, self.outputs, prefix=cache)
        model = self.worker.model
        return [
            unembed_queries(model, self.outputs, *self.worker.put(part))
            for part in zip(*queries, strict=True)
        ]

    def new_trie(self) -> Trie:
        """Make a trie that holds no state yet."""
        return Trie(self.sizes.slots, self.layout, self.sizes.outputs)

    def close(self) -> None:
        """Give the buffers back to the worker, and leave the prefix to its next batch."""
        self.driver.close()
        self.worker.give_back(self.outputs)
        if self.prefix is not None:
            self.prefix.close()


def choose_path_sizes(
    config: ModelConfig, prompts: Prompts, memory: Memory, states: int = 0
) -> tuple[Layout, Sizes]:
    """Choose the layout and the sizes of a batch that can use a number of states.

    Raises InputError where the memory is too small for a path.
    """
    layout = layout_of(prompts, memory.limits, distinct_reads(prompts))
    return layout, choose_sizes(config, *slot_sizes(layout), memory, states)


def run_paths(
    model: Model,
    prompts: PromptsLike,
    paths: Paths,
    **options: Unpack[WorkerOptions],
) -> Readings:
    """Run the candidate paths of each question and read the model at its read positions.

    Args:
      model: the pretrained model; questions are divided over the `data` axis of its mesh.
      prompts: a batch of B Prompts with `read` and `targets` [B, Q]. Other prompts that `run_path`
        takes are read at each token but the last, and asked about the next one.
      paths: [B, C, P] padded with STOP, for each question a list of paths of any lengths and
        number, or one list for all. An entry of STOP alone is not a path and is not evaluated.
      options: dtype, memory_budget, tile_tokens, metrics; see `WorkerOptions`.

    Returns:
      Readings [B, C, Q] as numpy; entries without a path or a read position are -inf, and not
      finite.

    Raises:
      ValueError: as `run_path`, and where prompts have only one of `read` and `targets`, the budget
        is too small for a path, or there are fewer questions than places on the `data` axis.

    Compiles once for each of few numbers of tokens. In float32 it agrees with `run_path` up to
    rounding.
    """
    batch, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(batch.read).shape[1])
    workload = Workload(*padded.shape[1:], same=bool((padded == padded[:1]).all()))
    # one batch at a time on a worker: each has the whole budget
    workers = Workers(model, **options)
    workers.check_count(len(padded))
    choose_path_sizes(model.config, batch, workers.memory)  # raises before anything runs
    shared = Batches.of(batch, 1 / len(padded) if workload.same else FRESH)

    def run(worker: Worker, rows: np.ndarray) -> Readings:
        prefix = shared.prefixes[rows[0]]
        evaluator = PathEvaluator(worker, take(batch, rows), workload._replace(prefix=prefix))
        with contextlib.closing(evaluator):
            return evaluator(padded[rows])

    largest = workers.memory.limits.questions
    batches = shared.cut(range(len(padded)), len(workers.workers), largest)
    for rows, readings in workers.map(run, batches, count_paths(padded)):
        for name in ("logprob", "token", "rival", "finite"):
            getattr(out, name)[rows] = getattr(readings, name)
    return out
