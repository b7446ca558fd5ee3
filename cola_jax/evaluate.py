"""Evaluating the same paths on many questions, a group of questions at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cola_jax.execute.engine import Engine, split
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.lane import Lane
from cola_jax.execute.pipeline import Flight, fly_once, interleave
from cola_jax.prompts import Prompts, Readings
from cola_jax.search.search import IN_FLIGHT, prompt_buckets
from cola_jax.tasks import Encoded


def evaluate_groups(
    engine: Engine,
    questions: Sequence[Encoded],
    paths: Sequence[tuple[int, ...]],
    group: int,
    on_progress: Callable[[int], None],
) -> Iterator[tuple[list[Encoded], Readings]]:
    """Yields groups of questions with the readings of the same paths, as they are finished."""

    def fly(some: np.ndarray, lane: Lane) -> Flight[Readings]:
        prompts = Prompts.stack([questions[i].prompts for i in some])
        padded = pad_paths([paths] * len(some), len(some), engine.config.num_layers)
        batch = engine.batch(prompts, len(paths), lane)
        return fly_once(batch, padded, on_progress)

    groups = split(prompt_buckets(questions), IN_FLIGHT * len(engine.lanes), group)
    for some, readings in interleave(engine.lanes, groups, fly, IN_FLIGHT):
        yield [questions[i] for i in some], readings
