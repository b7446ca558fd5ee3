"""`run_paths`: runs paths of prompts on all devices of a model, and reads the model's answers."""

from typing import Unpack

import numpy as np

from cola_jax.execute.batches import FRESH, Batches, take
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.inputs import Paths, check_batch, count_paths, no_readings
from cola_jax.execute.prefix import check_path_memory, path_evaluator
from cola_jax.execute.worker import Worker, WorkerOptions, Workers
from cola_jax.params import Model
from cola_jax.prompts import PromptsLike, Readings


def run_paths(
    model: Model,
    prompts: PromptsLike,
    paths: Paths,
    **options: Unpack[WorkerOptions],
) -> Readings:
    """Runs the candidate paths of each question and reads the model at its read positions.

    Args:
      model: the pretrained model; questions are divided over the `data` axis of its mesh.
      prompts: a batch of B Prompts with `read` and `targets` [B, Q]. What `run_path` takes besides
        is read at each token but the last, and asked about the next one.
      paths: [B, C, P] padded with STOP, for each question a list of paths of any lengths and
        number, or one list for all. An entry of STOP alone is not a path and is not evaluated.
      options: dtype, memory_budget, tile_tokens, metrics; see `WorkerOptions`.

    Returns:
      Readings [B, C, Q] as numpy; entries without a path or a read position are -inf, and not
      finite.

    Raises:
      ValueError: as `run_path`, and where the prompts do not say what to read, the budget is too
        small for one path, or there are fewer questions than places on the `data` axis.

    Compiles once for each of few numbers of tokens. In float32 it agrees with `run_path` up to
    rounding.
    """
    batch, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(batch.read).shape[1])
    count = padded.shape[1]
    workload = Workload(count, padded.shape[2], same=bool((padded == padded[:1]).all()))
    # one batch at a time on a worker: each has the whole budget
    workers = Workers(model, **options)
    workers.check_count(len(padded))
    check_path_memory(model.config, batch, workers.memory)
    shared = Batches.of(batch, 1 / len(padded) if workload.same else FRESH)

    def run(worker: Worker, rows: np.ndarray) -> Readings:
        work = workload._replace(prefix=shared.prefixes[rows[0]])
        evaluate = path_evaluator(worker, take(batch, rows), work)
        readings = evaluate(padded[rows])
        evaluate.close()
        return readings

    largest = workers.memory.limits.questions
    batches = shared.cut(range(len(padded)), len(workers.workers), largest)
    for rows, readings in workers.map(run, batches, count_paths(padded)):
        for name in ("logprob", "token", "rival", "finite"):
            getattr(out, name)[rows] = getattr(readings, name)
    return out
