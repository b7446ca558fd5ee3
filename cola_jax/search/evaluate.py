"""Evaluating the same paths on many questions, a group of questions at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cola_jax.execute.engine import Engine, split
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.pipeline import Flight, interleave
from cola_jax.execute.worker import Lane
from cola_jax.scoring.grader import Grader
from cola_jax.scoring.judge import make_judge, prompt_buckets
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.search.search import IN_FLIGHT
from cola_jax.tasks import Encoded


def evaluate_groups(
    engine: Engine,
    questions: Sequence[Encoded],
    paths: Sequence[tuple[int, ...]],
    group: int,
    on_progress: Callable[[int], None],
    grader: Grader | None,
) -> Iterator[tuple[list[Encoded], Verdicts]]:
    """Yields groups of questions with the verdicts [B, C] of the same paths, as they are done."""
    longest = max(map(len, paths))

    def fly(some: np.ndarray, lane: Lane) -> Flight[Verdicts]:
        mine = [questions[i] for i in some]
        count = len(paths)
        judge = make_judge(
            engine, mine, lane, each=count, abreast=count, positions=longest, grader=grader
        )
        padded = pad_paths([paths] * len(some), len(some), engine.config.num_layers)
        verdicts = yield from judge.judge(padded, on_progress)
        judge.close()
        return verdicts

    groups = split(prompt_buckets(questions), IN_FLIGHT * len(engine.lanes), group)
    for some, verdicts in interleave(engine.lanes, groups, fly, IN_FLIGHT):
        yield [questions[i] for i in some], verdicts
